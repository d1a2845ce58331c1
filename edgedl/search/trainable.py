"""A written plan as what training needs of it, and what training found as a plan again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from edgedl.backends import backend
from edgedl.core.errors import Unsupported
from edgedl.core.model import Model
from edgedl.core.program import TUNED, CodedWeight, Coding, Program
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.correct import CorrectBias
from edgedl.passes.graph import read, rewrite
from edgedl.passes.plan import Plan
from edgedl.passes.plan_file import PlanFile, to_yaml
from edgedl.passes.program import digest_of_weights, program_of
from edgedl.passes.recurrent import int8_recurrent
from edgedl.passes.scales import LARGEST_CODE
from edgedl.passes.weight_only import WeightOnly
from edgedl.search.prepared import repaired
from edgedl.search.tuned import coding_of
from edgedl.search.ways import planned

if TYPE_CHECKING:
    import onnx_ir as ir

# The axis of the output channels of a product's weights, by its operator, as they are stored.
STORED = {"Conv": 0, "ConvTranspose": 1}


@dataclass(frozen=True, eq=False)
class Trainable:
    """A plan, and the float model that it is of.

    Attributes:
        program: the float model with the plan's repairs, its weights as they were.
        coding: where the shipped model rounds, the weights that are only stored in 8 bits among it.
        start: weights and biases as the plan has them, where it moved them.
        written: the plan's file.
        fewer: whether its weights have fewer bits here than it says.
    """

    program: Program
    coding: Coding
    start: Mapping[str, np.ndarray]
    plan: Plan
    written: PlanFile
    tuned_from: str
    repaired_with: str
    fewer: bool = False

    def text(self, scales: Mapping[str, float]) -> str:
        """The plan's file with other scales, that names `TUNED` for what training moved."""
        moved = {
            name: replace(one, scale=float(np.float32(scales[name])))
            for name, one in self.plan.activations.items()
        }
        return to_yaml(
            replace(self.plan, activations=moved),
            self.written.engine,
            self.written.settings,
            self.written.ranges,
            exact=self.written.exact,
            repairs=self.written.repairs,
            repaired_with=self.repaired_with,
            tuned=TUNED,
            tuned_from=self.tuned_from,
        )


def trainable(
    clean: Model,
    written: PlanFile,
    calibration: Samples,
    *,
    weight_bits: int = 8,
    progress: Progress = silent,
) -> Trainable:
    """What training needs of a plan.

    Args:
        clean: the cleaned model that the plan is of.
        calibration: the samples that the plan was made with.
        weight_bits: of all weights in int8, where they have more.

    Raises:
        BadValue: the plan does not fit the model. Unsupported: nothing of it computes in int8, or
            what does is not rounded by quantizers that training knows; the operator is named.
    """
    bits = dict(written.bits)
    if weight_bits < 8:
        written = replace(written, bits=_bits(clean, written, weight_bits))
    candidate = planned(backend(written.engine), clean, calibration, written, progress)
    plan, prepared = candidate.plan, candidate.prepared
    assert plan is not None
    assert prepared is not None
    if not plan.int8:
        raise Unsupported(
            "no operator of the plan computes in int8", hint="there is nothing to train"
        )
    if recurrent := int8_recurrent(plan.decisions):
        kind = next(d.operator for d in plan.decisions if d.node == recurrent[0])
        raise Unsupported(
            f"{kind} node `{recurrent[0]}` is rounded by the engine in a way of its own",
            hint="it ships as it was compressed, or in float: `float` beside it in the plan",
        )
    base = repaired(clean, written.repairs, calibration, progress)
    final = prepared.model
    if candidate.means is not None:
        final = rewrite(final, CorrectBias(plan, candidate.means))
    program = program_of(base)
    coding = coding_of(plan, base)
    stored = _stored(base, plan, candidate.exact)
    return Trainable(
        program,
        replace(coding, weights={**stored, **coding.weights}),
        _moved(program, program_of(final)),
        plan,
        written,
        digest_of_weights(clean),
        prepared.samples,
        dict(written.bits) != bits,
    )


def _bits(clean: Model, written: PlanFile, most: int) -> dict[str, int]:
    products = {
        node.name or "" for node in read(clean.path).graph if node.op_type in
        ("Conv", "ConvTranspose", "Gemm", "MatMul") and _constant(node, 1)
    }  # fmt: skip
    chosen = [name for name, state in written.operators.items() if state == "int8"]
    return {name: min(most, written.bits.get(name, 8)) for name in chosen if name in products}


def _constant(node: ir.Node, position: int) -> bool:
    value = node.inputs[position] if position < len(node.inputs) else None
    return value is not None and value.const_value is not None


def _stored(model: Model, plan: Plan, exact: tuple[str, ...]) -> dict[str, CodedWeight]:
    """Weights of products in float that are stored in 8 bits: they are rounded alike."""
    found = {}
    passed = WeightOnly()
    for node in read(model.path).graph:
        name, kind = node.name or "", node.op_type
        if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or not _constant(node, 1):
            continue
        weight = node.inputs[1]
        assert weight is not None
        assert weight.const_value is not None
        two = len(weight.const_value.shape) == 2
        if name in plan.weights or name in exact or weight.const_value.size < passed.least_elements:
            continue
        if kind in STORED:
            found[name] = CodedWeight(1, STORED[kind], LARGEST_CODE)
        elif two:
            turned = kind == "Gemm" and node.attributes.get_int("transB", 0) == 1
            found[name] = CodedWeight(1, 0 if turned else 1, LARGEST_CODE)
    return found


def _moved(before: Program, after: Program) -> dict[str, np.ndarray]:
    """Constants that another program of the same operations has otherwise, by their first names;
    one whose readers have it otherwise than one another stays."""
    theirs = {operation.name: operation for operation in after.operations}
    found: dict[str, set[str]] = {}
    for operation in before.operations:
        other = theirs.get(operation.name, operation)
        for old, new in zip(operation.inputs, other.inputs, strict=False):
            if old in before.constants and new in after.constants:
                found.setdefault(old, set()).add(new)
    return {
        old: after.constants[next(iter(names))]
        for old, names in found.items()
        if len(names) == 1 and names != {old}
    }

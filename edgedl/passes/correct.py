"""Biases that take back what rounding the weights adds to the mean of each output channel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.passes.calibrate import watching
from edgedl.passes.graph import constant, read, rewrite
from edgedl.passes.plan import Plan
from edgedl.passes.scales import blocks, rounded, rows_of, spread

MOST_SAMPLES = 32


@dataclass(frozen=True, eq=False)
class Means:
    """Mean values of tensors by channel, float64, in the float model; by tensor name."""

    of: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name, means in sorted(self.of.items()):
            digest.update(f"{name} {means.shape}".encode() + means.tobytes())
        return {"tensors": len(self.of), "digest": digest.hexdigest()}


def channel_means(model: Model, plan: Plan, samples: Samples, progress: Progress = silent) -> Means:
    """The means of what the plan's products read, over 32 samples at most.

    Raises:
        Missing: no engine is installed. EngineFailed: the engine refuses the model.
    """
    axes = {
        node.inputs[0].name or "": _channel_axis(node)
        for node in read(model.path).graph
        if node.name in plan.weights and node.inputs[0] is not None
    }
    few = samples.take(range(min(MOST_SAMPLES, len(samples))))
    inputs = {tensor.name for tensor in model.signature.inputs}
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    with watching(model, few, [name for name in axes if name not in inputs]) as session:
        for i, feed in enumerate(few):
            seen = {**feed, **session.run(feed)}
            for name, axis in axes.items():
                array = np.moveaxis(seen[name], axis, -1)
                flat = array.reshape(-1, array.shape[-1]).sum(axis=0, dtype=np.float64)
                sums[name] = sums[name] + flat if name in sums else flat
                counts[name] = counts.get(name, 0) + array.size // array.shape[-1]
            progress("means of channels", i + 1, len(few))
    return Means({name: sums[name] / counts[name] for name in sums})


def _channel_axis(node: ir.Node) -> int:
    return 1 if node.op_type in ("Conv", "ConvTranspose") else -1


@dataclass(frozen=True)
class CorrectBias:
    """The float graph with biases moved by what the plan's int8 weights will add to the mean of
    each output channel: the error of the weights times the mean of what they read.

    Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction (ICCV
    2019), section 4.2, with means from samples. Products whose bias is not a constant, and matrix
    products without an Add of a constant behind them, stay as they are, so that nothing is slower;
    so do those that add zeros, which engines leave out.
    """

    name: ClassVar[str] = "correct_bias"
    plan: Plan
    means: Means

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        for node in list(graph.graph):
            if not node.name or node.name not in self.plan.weights or node.inputs[0] is None:
                continue
            means = self.means.of.get(node.inputs[0].name or "")
            position, axis = self.plan.weights[node.name]
            weight = node.inputs[position]
            if means is None or weight is None or weight.const_value is None or position != 1:
                continue
            if not np.isfinite(means).all():
                continue
            largest = self.plan.largest_code(node.name)
            codes, scales = rounded(weight.const_value.numpy(), axis, largest)
            factors = spread(scales, axis, codes.ndim).astype(np.float64)
            shift = _shift(node, weight.const_value.numpy(), codes, factors, means)
            if shift is not None and np.isfinite(shift).all():
                _move_bias(graph.graph, node, -shift)


def _shift(
    node: ir.Node, weight: np.ndarray, codes: np.ndarray, factors: np.ndarray, means: np.ndarray
) -> np.ndarray | None:
    """What the weights' error adds to the mean of each output channel, float64."""
    errors = (
        (rows, codes[rows] * rows_of(factors, rows) - weight[rows]) for rows in blocks(weight.shape)
    )
    if node.op_type == "Conv":
        channels, inside = weight.shape[:2]
        groups = node.attributes.get_int("group", 1)
        if means.size != groups * inside or channels % groups:
            return None
        read_by = np.repeat(means.reshape(groups, -1), channels // groups, axis=0)
        taps = ((rows, error.reshape(len(error), inside, -1).sum(axis=2)) for rows, error in errors)
        return np.concatenate([(sums * read_by[rows]).sum(axis=1) for rows, sums in taps])
    if node.op_type not in ("Gemm", "MatMul") or weight.ndim != 2:
        return None
    if node.op_type == "Gemm" and _flag(node, "transB"):
        if means.size != weight.shape[1]:
            return None
        return np.concatenate([means @ error.T for _, error in errors])
    if means.size != weight.shape[0]:
        return None
    return np.asarray(sum(means[rows] @ error for rows, error in errors))


def _flag(node: ir.Node, name: str) -> bool:
    return name in node.attributes and node.attributes[name].as_int() == 1


def _move_bias(graph: ir.Graph, node: ir.Node, by: np.ndarray) -> None:
    if node.op_type == "MatMul":
        uses = list(node.outputs[0].uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add":
            return
        holder, position = uses[0].node, 1 - uses[0].idx
    else:
        holder, position = node, 2
    bias = holder.inputs[position] if position < len(holder.inputs) else None
    if bias is None:
        if holder.op_type == "Conv":
            moved = constant(graph, f"{node.name}_bias_moved", by.astype(np.float32))
            holder.resize_inputs(3)
            holder.replace_input_with(2, moved)
        return
    if bias.const_value is None or bias.is_graph_input() or bias.dtype != ir.DataType.FLOAT:
        return
    array = bias.const_value.numpy()
    if array.size != by.size or array.shape[-1:] != by.shape:
        return
    if holder.op_type != "Conv" and not array.any():
        return
    whole = (array + by.reshape(array.shape)).astype(np.float32)
    holder.replace_input_with(position, constant(graph, f"{node.name}_bias_moved", whole))

"""Which operators of a graph go to int8 by an engine's rules, and where quantizers stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from edgedl.core.target import Scheme
from edgedl.passes.facts import Facts, fused_operand, is_move, is_product
from edgedl.passes.plan import Decision
from edgedl.passes.recurrent import is_recurrent, why_float
from edgedl.passes.scale_groups import of_recurrent, quantized_tensors, users_of

Extent = Literal["full", "products", "gemms"]
EXTENTS: tuple[Extent, ...] = ("full", "products", "gemms")
GLUE = frozenset(
    {"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"}
)
BOTH_COMPUTED = frozenset({"Add", "Mul"})
SUBGRAPH_HOLDERS = frozenset({"If", "Loop", "Scan", "SequenceMap"})
TABLE_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Layout:
    """Where quantizers stand, before any scale is known: what calibration has to watch.

    Attributes:
        decisions: of each operator that might be int8, in graph order.
        groups: by quantized tensor the representative of those that share its scale.
        readers: by quantized tensor the operators that read it quantized.
        weights: by product the operand that holds its constant weights, and the axis of its output
            channels, None where these are no axis of theirs.
        tables: Gathers that look rows up in a large matrix, whose rows are stored in int8.
        users: by representative the int8 operators that read its tensors, moved or not.
        skewed: representatives that may have a zero point of their own in a symmetric scheme.
    """

    decisions: tuple[Decision, ...]
    groups: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    weights: Mapping[str, tuple[int, int | None]]
    tables: tuple[str, ...]
    users: Mapping[str, frozenset[str]]
    skewed: frozenset[str] = frozenset()

    @property
    def tensors(self) -> tuple[str, ...]:
        """All that are quantized as activations."""
        return tuple(self.groups)


def layout(
    graph: ir.Model,
    scheme: Scheme,
    *,
    extent: Extent = "full",
    keep_float: Mapping[str, str] | None = None,
) -> Layout:
    """Which operators of a graph go to int8 by the scheme's rules, and where quantizers stand.

    `extent` narrows the rules: `products` takes only products with constant weights, `gemms` only
    those that are matrix products. `keep_float` gives nodes that stay float, and why.
    """
    facts = Facts(graph)
    decisions: dict[str, Decision] = {}
    weights: dict[str, tuple[int, int | None]] = {}
    for node in facts.nodes:
        verdict = _judge(node, facts, scheme, extent, keep_float or {}, decisions)
        if verdict is None:
            continue
        name, reason = node.name or "", verdict[1]
        decisions[name] = Decision(name, node.op_type, verdict[0], reason)
        if verdict[0] == "int8" and (operand := _weight(node, facts)) is not None:
            weights[name] = operand
    chosen = [
        node
        for node in facts.nodes
        if (d := decisions.get(node.name or "")) and d.precision == "int8"
    ]
    groups, readers = quantized_tensors(chosen, facts, scheme)
    for value, like in of_recurrent(chosen, scheme):
        groups.setdefault(value.name or "", groups.get(like.name or "", like.name or ""))
        readers.setdefault(value.name or "", ())
    tables = tuple(
        node.name or ""
        for node in facts.nodes
        if extent != "gemms"
        and not scheme.dequantizes
        and _is_table(node, facts)
        and node.name not in (keep_float or {})
    )
    users = users_of(chosen, groups, facts, scheme)
    return Layout(
        tuple(decisions.values()),
        groups,
        readers,
        weights,
        tables,
        users={group: frozenset(n.name or "" for n in nodes) for group, nodes in users.items()},
        skewed=frozenset(
            group
            for group, nodes in users.items()
            if all(_takes_zero_point(node, scheme) for node in nodes)
        ),
    )


def _takes_zero_point(node: ir.Node, scheme: Scheme) -> bool:
    return node.op_type in scheme.skewed and node.attributes.get_int("group", 1) == 1


def _judge(
    node: ir.Node,
    facts: Facts,
    scheme: Scheme,
    extent: Extent,
    keep_float: Mapping[str, str],
    decisions: Mapping[str, Decision],
) -> tuple[Literal["int8", "float"], str] | None:
    if node.op_type in SUBGRAPH_HOLDERS:
        return "float", "operators inside its bodies are left alone"
    if is_recurrent(node):
        kept = keep_float.get(node.name or "") or why_float(node, scheme)
        return ("float", kept) if kept else ("int8", "recurrent, with constant weights")
    if node.domain not in ("", "ai.onnx") or node.op_type not in scheme.operators:
        return ("float", f"{scheme.name} has no int8 kernel for it") if is_product(node) else None
    if (node.name or "") in keep_float:
        return "float", keep_float[node.name or ""]
    if node.op_type in GLUE:
        return _judge_glue(node, facts, scheme, extent, decisions)
    return _judge_product(node, facts, scheme, extent)


def _judge_product(
    node: ir.Node, facts: Facts, scheme: Scheme, extent: Extent
) -> tuple[Literal["int8", "float"], str]:
    data = node.inputs[0]
    if data is None or data.dtype not in (None, ir.DataType.FLOAT):
        return "float", "its input is not float32"
    if facts.constant(data):
        return "float", "its first operand is a constant"
    if extent == "gemms" and node.op_type not in ("Gemm", "MatMul"):
        return "float", "only matrix products are in int8 here"
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if not facts.constant(weight):
        if node.op_type != "MatMul":
            return "float", "its weights are computed"
        if extent != "full":
            return "float", "both of its operands are computed"
        return "int8", "both operands are activations"
    assert weight is not None
    assert weight.const_value is not None
    if weight.const_value.dtype != ir.DataType.FLOAT:
        return "float", "its weights are not float32"
    if node.op_type == "Gemm":
        attributes = node.attributes
        if attributes.get_int("transA", 0) or attributes.get_float("alpha", 1.0) != 1.0:
            return "float", "it transposes or scales its first operand"
        if attributes.get_float("beta", 1.0) != 1.0:
            return "float", "it scales its bias"
    if node.op_type == "ConvTranspose" and node.attributes.get_int("group", 1) != 1:
        return "float", "grouped transposed convolutions have no int8 kernel"
    rank = len(weight.const_value.shape)
    if scheme.outputs and node.op_type == "Conv" and rank not in (3, 4):
        return "float", f"{scheme.name} has no int8 kernel for {rank - 2}-dimensional convolutions"
    if facts.result_is_coded(node, scheme):
        result = facts.result(node)
        if result.name in facts.outputs or node.outputs[0].name in facts.outputs:
            return "float", "it makes an output of the model, which stays exact"
    return "int8", "product with constant weights"


def _judge_glue(
    node: ir.Node,
    facts: Facts,
    scheme: Scheme,
    extent: Extent,
    decisions: Mapping[str, Decision],
) -> tuple[Literal["int8", "float"], str] | None:
    operands = [value for value in node.inputs if value is not None]
    computed = facts.computed(node)
    if node.op_type in BOTH_COMPUTED and len(computed) < 2:
        return None
    if node.op_type == "Concat" and len(computed) < len(operands):
        return None
    result = facts.result(node)
    if result.name in facts.outputs or node.outputs[0].name in facts.outputs:
        return None
    if extent != "full":
        return "float", "only products with constant weights are in int8 here"
    if scheme.fuses_adds and node.op_type == "Add":
        fused = fused_operand(node, facts, scheme)
        if fused is None or len(computed) < 2:
            return (
                "float",
                f"{scheme.name} adds within a convolution's kernel, and here is none",
            )
        if not _made_in_int8(fused, facts, scheme, decisions):
            return "float", "the convolution that it is added in is float"
        return "int8", "added in the kernel of an int8 convolution"
    fed = [_made_in_int8(value, facts, scheme, decisions) for value in computed]
    enough = all(fed) if scheme.outputs or node.op_type == "Concat" else any(fed)
    return ("int8", "between int8 operators") if enough else ("float", "its inputs are float")


def _made_in_int8(
    value: ir.Value, facts: Facts, scheme: Scheme, decisions: Mapping[str, Decision]
) -> bool:
    """Whether a tensor comes out of an int8 operator, through fused activations and moves."""
    producer = value.producer()
    while producer is not None:
        decision = decisions.get(producer.name or "")
        if decision is not None:
            return decision.precision == "int8" and not is_recurrent(producer)
        if facts.clips_at_zero(producer) or is_move(producer, scheme):
            first = producer.inputs[0]
            producer = first.producer() if first is not None else None
            continue
        return False
    return False


def _weight(node: ir.Node, facts: Facts) -> tuple[int, int | None] | None:
    """Where a product's constant weights stand, and the axis of its output channels."""
    if not is_product(node) or not facts.constant(node.inputs[1]):
        return None
    weight = node.inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return 1, 0
    if node.op_type == "ConvTranspose":
        return 1, 1
    if node.op_type == "Gemm":
        return 1, 0 if node.attributes.get_int("transB", 0) else 1
    return 1, 1 if rank == 2 else None


def _is_table(node: ir.Node, facts: Facts) -> bool:
    """Whether a Gather looks rows up in a large constant matrix that nothing else reads."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    if table is None or not facts.constant(table) or node.attributes.get_int("axis", 0) != 0:
        return False
    assert table.const_value is not None
    shape = table.const_value.shape.numpy()
    return (
        table.const_value.dtype == ir.DataType.FLOAT
        and len(shape) == 2
        and shape[0] * shape[1] >= TABLE_ELEMENTS
        and len(facts.readers(table)) == 1
        and node.outputs[0].name not in facts.outputs
    )

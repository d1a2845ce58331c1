"""Multiply-accumulates of a graph, from the shapes of what its products read and make."""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.passes.fold import Fold
from edgedl.passes.graph import shape_of
from edgedl.passes.qoperators import expand_integer_operators
from edgedl.passes.shapes import Shapes

# Where the second operand of a product stands.
CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "FusedConv": 1, "QLinearConv": 3}
MATRICES = {
    "DynamicQuantizeMatMul": 1, "FusedMatMul": 1, "MatMul": 1, "MatMulInteger": 1,
    "MatMulIntegerToFloat": 1, "QLinearMatMul": 3,
}  # fmt: skip
GEMMS = {"Gemm": 1, "QGemm": 3}
RECURRENT = frozenset({"DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"})


def macs_of(graph: ir.Model) -> int | None:
    """Multiply-accumulates in convolutions, matrix products, recurrent layers and attention; None
    where a shape or a loop's count that they depend on is not known.

    A dynamic first axis of an input counts as 1. Of an `If`, the dearer branch counts; a body of a
    `Loop` or `Scan` as often as it runs. The graph is edited.
    """
    common.InlinePass()(graph)
    fixed = {
        value.name or "": (1, *(int(d) for d in shape[1:] if isinstance(d, int)))
        for value in graph.graph.inputs
        if value.name not in graph.graph.initializers
        and (shape := shape_of(value))
        and not isinstance(shape[0], int)
        and all(isinstance(d, int) for d in shape[1:])
    }
    try:
        # ONNX infers no shapes through the integer operators that onnxruntime has of its own.
        expand_integer_operators(graph)
        Shapes(fixed).edit(graph)
        found = _of_nodes(graph.graph)
        if found is None:
            Fold().edit(graph)
            Shapes().edit(graph)
            found = _of_nodes(graph.graph)
    except Exception:
        return None
    return found


def _of_nodes(graph: ir.Graph) -> int | None:
    total = 0
    for node in graph:
        found = _of_node(node)
        if found is None:
            return None
        total += found
    return total


def _of_node(node: ir.Node) -> int | None:
    kind = node.op_type
    if kind in CONVOLUTIONS:
        return _product(node, CONVOLUTIONS[kind], lambda weight: math.prod(weight[1:]))
    if kind in GEMMS:
        inner = 1 if node.attributes.get_int("transB", 0) else 0
        return _product(node, GEMMS[kind], lambda weight: weight[inner])
    if kind in MATRICES:
        inner = -1 if node.attributes.get_int("transB", 0) else -2
        return _product(
            node, MATRICES[kind], lambda weight: weight[inner] if len(weight) > 1 else weight[0]
        )
    if kind in RECURRENT:
        return _recurrent(node)
    special = {
        "Attention": _attention, "ConvTranspose": _transposed, "Einsum": _einsum, "If": _if,
        "Loop": _loop, "MatMulNBits": _packed, "Scan": _scan,
    }.get(kind)  # fmt: skip
    return special(node) if special else 0


def _product(node: ir.Node, position: int, inner: Callable[[list[int]], int]) -> int | None:
    made, weight = _shape(node.outputs[0]), _input(node, position)
    return None if made is None or weight is None else math.prod(made) * inner(weight)


def _transposed(node: ir.Node) -> int | None:
    data, weight = _input(node, 0), _input(node, 1)
    return None if data is None or weight is None else math.prod(data) * math.prod(weight[1:])


def _packed(node: ir.Node) -> int | None:
    made = _shape(node.outputs[0])
    return None if made is None else math.prod(made) * node.attributes.get_int("K", 0)


def _recurrent(node: ir.Node) -> int | None:
    data, weight, state = (_input(node, position) for position in range(3))
    if data is None or weight is None or state is None:
        return None
    return math.prod(data[:2]) * (math.prod(weight) + math.prod(state))


def _attention(node: ir.Node) -> int | None:
    """Queries by keys, and what comes of it by values; heads of 3-D operands stand side by side."""
    query, key, value = (_input(node, position) for position in range(3))
    if query is None or key is None or value is None or len(node.inputs) > 4:
        return None
    heads, shared = (node.attributes.get_int(f"{of}_num_heads", 1) for of in ("q", "kv"))
    wide = value[-1] * heads // shared if len(value) == 3 else value[-1]
    return math.prod(query[:-1]) * key[-2] * (query[-1] + wide)


def _einsum(node: ir.Node) -> int | None:
    """The sizes of all axes together, where there are two operands and each axis has a letter."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    operands = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, letters in enumerate(operands):
        shape = _input(node, position)
        if shape is None or len(shape) != len(letters):
            return None
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    if len(operands) > 2:
        return None
    return math.prod(sizes.values()) if len(operands) == 2 else 0


def _if(node: ir.Node) -> int | None:
    known = [
        found
        for name in ("then_branch", "else_branch")
        if (found := _of_nodes(node.attributes[name].as_graph())) is not None
    ]
    return max(known) if len(known) == 2 else None


def _loop(node: ir.Node) -> int | None:
    body = _of_nodes(node.attributes["body"].as_graph())
    count = node.inputs[0]
    if not body:
        return body
    if count is None or count.const_value is None:
        return None
    return int(count.const_value.numpy().reshape(-1)[0]) * body


def _scan(node: ir.Node) -> int | None:
    body = _of_nodes(node.attributes["body"].as_graph())
    data = _input(node, len(node.inputs) - 1)
    axes = node.attributes.get_ints("scan_input_axes", [0])
    return body if not body else None if data is None else data[axes[-1]] * body


def _input(node: ir.Node, position: int) -> list[int] | None:
    return _shape(node.inputs[position] if position < len(node.inputs) else None)


def _shape(value: ir.Value | None) -> list[int] | None:
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return [int(size) for size in value.shape.numpy()]

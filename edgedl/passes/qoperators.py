"""Operators that compute on codes, written as float operators between quantizers.

onnxruntime's QOperator format and its dynamic one become QDQ: what an operator reads is
dequantized, what it makes is quantized, with its own scales and zero points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgedl.core.errors import Unsupported
from edgedl.passes.graph import QUANTIZED, constant

Maker = Callable[[ir.Node], tuple[list[ir.Node], ir.Value]]
ONE_OPERAND = frozenset(
    {
        "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid",
        "QLinearSoftmax", "QLinearReduceMean",
    }
)  # fmt: skip
TWO_OPERANDS = frozenset({"QLinearAdd", "QLinearMul", "QLinearMatMul"})
DROPPED = frozenset({"channels_last", "opset"})
PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def expand_integer_operators(graph: ir.Model) -> tuple[str, ...]:
    """Rewrite, in place, what computes on codes.

    Returns:
        The operators that are not taken apart, as `name (type)`, in graph order.
    """
    left = []
    for node in list(graph.graph.all_nodes()):
        integer = node.op_type in QUANTIZED - PAIR or node.op_type.startswith(("QLinear", "QGemm"))
        integer = integer or node.op_type in OTHERS
        if not integer or node.op_type == "DynamicQuantizeLinear":
            continue
        maker = _maker(node)
        try:
            if maker is None or node.graph is not graph.graph:
                raise Unsupported("unknown")
            made, result = maker(node)
        except Unsupported:
            left.append(f"`{node.name}` ({node.op_type})")
            continue
        old = node.outputs[0]
        name = old.name
        result.type, result.shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(graph.graph, node, [node], made, [old], [result])
        result.name = name
    return tuple(left)


def _maker(node: ir.Node) -> Maker | None:
    if node.op_type in ONE_OPERAND:
        return _one
    if node.op_type in TWO_OPERANDS:
        return _two
    return MAKERS.get(node.op_type)


def _attributes(node: ir.Node) -> dict[str, Any]:
    return {key: value for key, value in node.attributes.items() if key not in DROPPED}


def _real(
    codes: ir.Value | None,
    scale: ir.Value | None,
    zero: ir.Value | None,
    axis: int | None,
    name: str,
) -> ir.Node:
    """A dequantizer, along an axis where there is more than one scale."""
    many = scale is not None and scale.const_value is not None and scale.const_value.size > 1
    attributes = {"axis": axis} if many and axis is not None else {}
    node = ir.node("DequantizeLinear", [codes, scale, zero], attributes, name=f"{name}_real")
    node.outputs[0].name = f"{name}_real"
    return node


def _coded(value: ir.Value, scale: ir.Value | None, zero: ir.Value | None, name: str) -> ir.Node:
    return ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_codes")


def _computed(
    node: ir.Node,
    kind: str,
    inputs: Sequence[ir.Value | None],
    attributes: dict[str, Any] | None = None,
) -> ir.Node:
    made = ir.node(
        kind, list(inputs), _attributes(node) if attributes is None else attributes, name=node.name
    )
    made.outputs[0].name = f"{node.outputs[0].name}_float"
    return made


def _one(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    data, scale, zero, to_scale, to_zero = node.inputs[:5]
    if node.attributes.get_int("channels_last", 0):
        raise Unsupported("channels last")
    real = _real(data, scale, zero, None, f"{node.name}_0")
    made = _computed(node, node.op_type.removeprefix("QLinear"), [real.outputs[0]])
    coded = _coded(made.outputs[0], to_scale, to_zero, node.name or "")
    return [real, made, coded], coded.outputs[0]


def _two(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    a, a_scale, a_zero, b, b_scale, b_zero, to_scale, to_zero = node.inputs[:8]
    left = _real(a, a_scale, a_zero, -2, f"{node.name}_0")
    right = _real(b, b_scale, b_zero, -1, f"{node.name}_1")
    kind = node.op_type.removeprefix("QLinear")
    made = _computed(node, kind, [left.outputs[0], right.outputs[0]])
    coded = _coded(made.outputs[0], to_scale, to_zero, node.name or "")
    return [left, right, made, coded], coded.outputs[0]


def _bias(node: ir.Node, bias: ir.Value | None, a: ir.Value | None, b: ir.Value | None) -> ir.Node:
    """An int32 bias has the scale of the products that it is added to."""
    scales = [v.const_value.numpy() if v is not None and v.const_value else None for v in (a, b)]
    if scales[0] is None or scales[1] is None or not isinstance(node.graph, ir.Graph):
        raise Unsupported("scales are computed")
    product = np.asarray(scales[0] * scales[1], np.float32)
    product = product.reshape(-1) if product.size > 1 else product.reshape(())
    scale = constant(node.graph, f"{node.name}_bias_scale", product)
    return _real(bias, scale, None, 0, f"{node.name}_bias")


def _conv(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    data, scale, zero, weight, w_scale, w_zero, to_scale, to_zero = node.inputs[:8]
    real = _real(data, scale, zero, None, f"{node.name}_0")
    weights = _real(weight, w_scale, w_zero, 0, f"{node.name}_1")
    nodes, inputs = [real, weights], [real.outputs[0], weights.outputs[0]]
    if len(node.inputs) > 8 and node.inputs[8] is not None:
        nodes.append(_bias(node, node.inputs[8], scale, w_scale))
        inputs.append(nodes[-1].outputs[0])
    made = _computed(node, "Conv", inputs)
    coded = _coded(made.outputs[0], to_scale, to_zero, node.name or "")
    return [*nodes, made, coded], coded.outputs[0]


def _gemm(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    a, a_scale, a_zero, b, b_scale, b_zero, *rest = node.inputs
    axis = 0 if node.attributes.get_int("transB", 0) else 1
    left = _real(a, a_scale, a_zero, None, f"{node.name}_0")
    right = _real(b, b_scale, b_zero, axis, f"{node.name}_1")
    nodes, inputs = [left, right], [left.outputs[0], right.outputs[0]]
    if rest and rest[0] is not None:
        nodes.append(_bias(node, rest[0], a_scale, b_scale))
        inputs.append(nodes[-1].outputs[0])
    made = _computed(node, "Gemm", inputs)
    if len(rest) < 2 or rest[1] is None:
        return [*nodes, made], made.outputs[0]
    coded = _coded(made.outputs[0], rest[1], rest[2], node.name or "")
    return [*nodes, made, coded], coded.outputs[0]


def _concat(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    to_scale, to_zero, *operands = node.inputs
    reals = [
        _real(operands[i], operands[i + 1], operands[i + 2], None, f"{node.name}_{i // 3}")
        for i in range(0, len(operands), 3)
    ]
    made = _computed(node, "Concat", [real.outputs[0] for real in reals])
    coded = _coded(made.outputs[0], to_scale, to_zero, node.name or "")
    return [*reals, made, coded], coded.outputs[0]


def _dynamic_scale(codes: ir.Value | None) -> ir.Value:
    maker = codes.producer() if codes is not None else None
    if maker is None or maker.op_type != "DynamicQuantizeLinear":
        raise Unsupported("codes of unknown scale")
    return maker.outputs[1]


def _constant_scale(scale: ir.Value, integers: ir.Value) -> ir.Value:
    """The weights' scale, which stands in the product of both that the integers are multiplied
    with behind their Cast."""
    waiting, products = [integers], []
    for _ in range(2):
        uses = [use for value in waiting for use in value.uses()]
        products += [use.node.inputs[1 - use.idx] for use in uses if use.node.op_type == "Mul"]
        waiting = [use.node.outputs[0] for use in uses if use.node.op_type == "Cast"]
    for product in products:
        maker = product.producer() if product is not None else None
        if maker is None or maker.op_type != "Mul" or scale not in maker.inputs:
            continue
        other = next((v for v in maker.inputs if v is not scale), None)
        if other is not None and other.const_value is not None:
            return other
    raise Unsupported("weights of unknown scale")


def _integer_product(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """MatMulInteger and ConvInteger: both operands divided by their scales, which a Mul behind
    the integers brings back."""
    kind = node.op_type.removesuffix("Integer")
    codes, weight = node.inputs[:2]
    zero, w_zero = (*node.inputs[2:], None, None)[:2]
    scale = _dynamic_scale(codes)
    w_scale = _constant_scale(scale, node.outputs[0])
    axis = 0 if kind == "Conv" else -1
    left = _real(codes, scale, zero, None, f"{node.name}_0")
    right = _real(weight, w_scale, w_zero, axis, f"{node.name}_1")
    made = _computed(node, kind, [left.outputs[0], right.outputs[0]])
    both = ir.node("Mul", [scale, w_scale], name=f"{node.name}_scales")
    nodes = [left, right, made, both]
    divisor = both.outputs[0]
    if kind == "Conv" and w_scale.const_value is not None and w_scale.const_value.size > 1:
        raise Unsupported("a convolution with scales by channel")
    divided = ir.node("Div", [made.outputs[0], divisor], name=f"{node.name}_integers")
    return [*nodes, divided], divided.outputs[0]


def _to_float(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """MatMulIntegerToFloat and DynamicQuantizeMatMul, which add a bias and give floats."""
    if node.op_type == "MatMulIntegerToFloat":
        codes, weight, scale, w_scale, zero, w_zero, bias = (*node.inputs, None, None, None)[:7]
        left = _real(codes, scale, zero, None, f"{node.name}_0")
        nodes = [left]
    else:
        data, weight, w_scale, w_zero, bias = (*node.inputs, None, None)[:5]
        codes_of = ir.node("DynamicQuantizeLinear", [data], num_outputs=3, name=f"{node.name}_dql")
        for part, value in zip(("codes", "scale", "zero"), codes_of.outputs, strict=True):
            value.name = f"{node.name}_{part}"
        codes, scale, zero = codes_of.outputs
        left = _real(codes, scale, zero, None, f"{node.name}_0")
        nodes = [codes_of, left]
    right = _real(weight, w_scale, w_zero, -1, f"{node.name}_1")
    made = _computed(node, "MatMul", [left.outputs[0], right.outputs[0]], {})
    nodes += [right, made]
    if bias is not None:
        nodes.append(ir.node("Add", [made.outputs[0], bias], name=f"{node.name}_bias"))
    return nodes, nodes[-1].outputs[0]


MAKERS: dict[str, Maker] = {
    "QLinearConv": _conv,
    "QGemm": _gemm,
    "QLinearConcat": _concat,
    "MatMulInteger": _integer_product,
    "ConvInteger": _integer_product,
    "MatMulIntegerToFloat": _to_float,
    "DynamicQuantizeMatMul": _to_float,
}
OTHERS = frozenset({"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})

"""Products between quantizers, written as sums of whole numbers, as onnxruntime computes them.

A convolution or matrix product of dequantized codes is exact in float but for the last bits, and
what lies near the middle of two codes is then rounded to the other one: few codes of a layer, and
all of them some dozens of layers on. Codes less their zero points have sums that float32 holds
exactly up to 2**24, and one multiplication takes them to the next scale, as MLAS does it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgedl.passes.graph import constant

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
DOUBLE, FLOAT = {"to": ir.DataType.DOUBLE.value}, {"to": ir.DataType.FLOAT.value}


@dataclass(frozen=True, eq=False)
class Coded:
    """Codes, and what dequantizes them; `scale` float32 and `zero` are [1] or [channels]."""

    codes: ir.Value
    scale: np.ndarray
    zero: np.ndarray
    axis: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.zero.dtype


def dequantized(value: ir.Value | None) -> Coded | None:
    """What a tensor was dequantized from; None where it was not, or not by constants."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    codes, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if codes is None or scale is None or scale.const_value is None:
        return None
    if zero is not None and zero.const_value is None:
        return None
    zeros = np.zeros(1, np.uint8)
    if zero is not None and zero.const_value is not None:
        zeros = zero.const_value.numpy().reshape(-1)
    scales = scale.const_value.numpy().astype(np.float32).reshape(-1)
    return Coded(codes, scales, zeros, node.attributes.get_int("axis", 1))


def product_of_codes(node: ir.Node) -> tuple[Coded, Coded] | None:
    """The activations' and the weights' codes that a product reads; None where it reads others.

    Activations are 8-bit codes of one scale, weights constant 8-bit codes of one scale or of one a
    channel that is made.
    """
    if node.op_type not in PRODUCTS or node.domain not in ("", "ai.onnx"):
        return None
    data, weight = (dequantized(value) for value in node.inputs[:2])
    if data is None or weight is None or data.codes.const_value is not None:
        return None
    if data.scale.size > 1 or data.dtype not in (np.uint8, np.int8):
        return None
    tensor = weight.codes.const_value
    if tensor is None or tensor.dtype not in (ir.DataType.INT8, ir.DataType.UINT8):
        return None
    if node.op_type != "Conv" and len(tensor.shape) != 2:
        return None
    if node.op_type == "Gemm" and (
        node.attributes.get_int("transA", 0) == 1
        or node.attributes.get_float("alpha", 1.0) != 1.0
        or node.attributes.get_float("beta", 1.0) != 1.0
    ):
        return None
    if weight.scale.size > 1 and weight.axis % len(tensor.shape) != made_axis(node):
        return None
    return data, weight


def made_axis(node: ir.Node) -> int:
    """The axis of a product's weights that its result's channels lie along."""
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    return 0 if node.op_type == "Conv" or transposed else 1


def quantizer_behind(value: ir.Value) -> ir.Node | None:
    """The quantizer that is a tensor's only reader, by way of activations that clip no more than
    its codes do, as onnxruntime's integer kernels ask; None where there is none."""
    clips: list[tuple[float, float]] = []
    while len(uses := list(value.uses())) == 1 and not value.is_graph_output():
        node = uses[0].node
        if node.op_type == "QuantizeLinear":
            return node if _absorbs(node, clips) else None
        if node.op_type == "Relu":
            clips.append((0.0, np.inf))
        elif node.op_type == "Clip":
            ends = [_scalar(end) for end in (*node.inputs[1:3], None, None)[:2]]
            low, high = ends[0], ends[1]
            clips.append((-np.inf if low is None else low, np.inf if high is None else high))
        else:
            return None
        value = node.outputs[0]
    return None


def _scalar(value: ir.Value | None) -> float | None:
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(-1)[0])


def _absorbs(node: ir.Node, clips: list[tuple[float, float]]) -> bool:
    found = grid_of(node)
    if found is None:
        return False
    scale, zero = found
    limits = np.iinfo(zero.dtype)
    low, high = ((end - int(zero)) * float(scale) for end in (limits.min, limits.max))
    slack = 1e-3 * float(scale)
    return all(low >= least - slack and high <= most + slack for least, most in clips)


def grid_of(quantizer: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """A quantizer's scale and zero point, scalars; None where it has several, or no 8-bit ones."""
    parts = [*quantizer.inputs[1:3], None][:2]
    arrays = [
        None if value is None or value.const_value is None else value.const_value.numpy()
        for value in parts
    ]
    scale, zero = arrays
    if scale is None or scale.size != 1:
        return None
    zero = np.zeros(1, np.uint8) if zero is None and parts[1] is None else zero
    if zero is None or zero.dtype not in (np.uint8, np.int8):
        return None
    return scale.reshape(()), zero.reshape(-1)[0]


@dataclass(frozen=True, eq=False)
class Sums:
    """The sums of a product, without its bias: of which node, as which tensor, of which codes."""

    node: str
    result: str
    data: Coded
    weight: Coded


def as_sums(graph: ir.Model) -> dict[str, Sums]:
    """Rewrite, in place, products with constant weights that lie between quantizers; the sums by
    the node that now makes them."""
    found = {}
    for node in list(graph.graph):
        codes = product_of_codes(node)
        quantizer = quantizer_behind(node.outputs[0]) if codes is not None else None
        grid = None if quantizer is None else grid_of(quantizer)
        if codes is None or quantizer is None or grid is None:
            continue
        data, weight = codes
        unit = data.scale * weight.scale
        bias = _whole_bias(node, unit)
        if bias is None:
            continue
        name = node.name or ""
        read = _less_zero(graph.graph, data, name)
        assert weight.codes.const_value is not None
        whole = weight.codes.const_value.numpy().astype(np.float32)
        zeros = weight.zero.astype(np.float32)
        shape = [1] * whole.ndim
        shape[made_axis(node)] = -1
        whole = whole - (zeros.reshape(shape) if zeros.size > 1 else zeros)
        weights = constant(graph.graph, f"{name}_whole", np.asarray(whole, np.float32))
        sums = ir.node(node.op_type, [read, weights], dict(node.attributes), name=f"{name}_sums")
        sums.outputs[0].name = f"{name}_sums"
        spread = [1, -1, *[1] * (whole.ndim - 2)] if node.op_type == "Conv" else [-1]
        factor = np.asarray(unit / np.float32(grid[0]), np.float32)
        steps: list[tuple[str, np.ndarray | None, dict[str, int]]] = [("Mul", factor, {})]
        if bias.any():  # 32 bits, which float32 does not hold
            steps[:0] = [("Cast", None, DOUBLE), ("Add", bias, {}), ("Cast", None, FLOAT)]
        made: list[ir.Node] = [sums]
        last = sums.outputs[0]
        for i, (kind, array, attributes) in enumerate(steps):
            operands = [last]
            if array is not None:
                shaped = array.reshape(spread) if array.size > 1 else array.reshape(())
                operands.append(constant(graph.graph, f"{name}_{kind}_by", shaped))
            step = ir.node(kind, operands, attributes, name=f"{name}_step_{i}")
            last = step.outputs[0]
            last.name = step.name
            made.append(step)
        one = constant(graph.graph, f"{name}_one", np.asarray(1.0, np.float32))
        zero = constant(graph.graph, f"{name}_zero", np.asarray(grid[1]))
        graph.graph.insert_before(node, made)
        old = quantizer.inputs[0]
        quantizer.replace_input_with(0, last)
        quantizer.replace_input_with(1, one)
        if len(quantizer.inputs) > 2:
            quantizer.replace_input_with(2, zero)
        assert old is not None
        found[sums.name or ""] = Sums(name, sums.outputs[0].name or "", data, weight)
    return found


def _less_zero(graph: ir.Graph, data: Coded, name: str) -> ir.Value:
    cast = ir.node("Cast", [data.codes], FLOAT, name=f"{name}_codes")
    cast.outputs[0].name = f"{name}_codes"
    maker = data.codes.producer()
    zero = constant(graph, f"{name}_code_of_zero", np.asarray(data.zero[0], np.float32))
    less = ir.node("Sub", [cast.outputs[0], zero], name=f"{name}_less_zero")
    less.outputs[0].name = f"{name}_less_zero"
    if maker is None:
        graph.insert_before(graph[0], [cast, less])
    else:
        graph.insert_after(maker, [cast, less])
    return less.outputs[0]


def _whole_bias(node: ir.Node, unit: np.ndarray) -> np.ndarray | None:
    """The bias in units of the sums, whole, float64; a 0 where there is none, None where it is not
    known."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(1)
    if value.const_value is not None:
        bias = value.const_value.numpy().astype(np.float32).reshape(-1)
        return np.asarray(np.rint(bias / unit), np.float64)
    coded = dequantized(value)
    if coded is None or coded.codes.const_value is None:
        return None
    codes = coded.codes.const_value.numpy().astype(np.float64).reshape(-1)
    return codes if np.array_equal(coded.scale, unit) else np.rint(codes * coded.scale / unit)

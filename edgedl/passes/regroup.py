"""The same arithmetic written in the way that engines fuse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgedl.passes.graph import constant

HALF_ROOT = 1 / math.sqrt(2)
MICROSOFT = "com.microsoft"


def absorb_affine(graph: ir.Graph) -> None:
    """Fold additions and multiplications of a constant a channel into the convolution before them.

    onnxruntime does so itself, but not behind the quantizers that placing puts between the two.
    """
    for node in list(graph):
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(node.inputs) != 2:
            continue
        a, b = node.inputs
        data, given = (a, b) if _constant(b) is not None else (b, a)
        array = _constant(given)
        if data is None or array is None or (node.op_type in ("Sub", "Div") and given is a):
            continue
        product = data.producer()
        if product is None or not _absorbs(product, data):
            continue
        weight, bias = product.inputs[1], product.inputs[2] if len(product.inputs) > 2 else None
        kernel, offset = _constant(weight), _constant(bias)
        if kernel is None or (bias is not None and offset is None):
            continue
        axis = 0 if product.op_type == "Conv" else 1
        channels = kernel.shape[axis]
        values = _by_channel(array, channels, kernel.ndim)
        if values is None or node.outputs[0].is_graph_output():
            continue
        offset = np.zeros(channels, np.float32) if offset is None else offset
        if node.op_type in ("Add", "Sub"):
            offset = offset + (values if node.op_type == "Add" else -values)
        else:
            factors = values if node.op_type == "Mul" else 1 / values
            if not np.isfinite(factors).all():
                continue
            offset = offset * factors
            spread = [-1 if i == axis else 1 for i in range(kernel.ndim)]
            scaled = (kernel * factors.reshape(spread)).astype(np.float32)
            product.replace_input_with(1, constant(graph, f"{node.name}_weight", scaled))
        made = constant(graph, f"{node.name}_bias", offset.astype(np.float32))
        if bias is None:
            product.resize_inputs(3)
        product.replace_input_with(2, made)
        ir.convenience.replace_all_uses_with(node.outputs[0], data)
        graph.remove(node, safe=True)


@dataclass(frozen=True)
class Gelu:
    """x * 0.5 * (1 + erf(x / sqrt 2)), however its product is grouped: its x, its Erf, the Add
    behind that, and the node that makes the result."""

    x: ir.Value
    erf: ir.Node
    shifted: ir.Node
    last: ir.Node


def find_gelus(graph: ir.Graph) -> list[Gelu]:
    """Every such expression whose intermediate results nobody else reads."""
    found = []
    for erf in [node for node in graph if node.op_type == "Erf"]:
        scaling = erf.inputs[0].producer() if erf.inputs[0] is not None else None
        x = _scaled_by_half_root(scaling)
        shifted = _reader(erf)
        if x is None or shifted is None or shifted.op_type != "Add" or _reader(scaling) is None:
            continue
        if not any(_is(value, 1.0) for value in shifted.inputs):
            continue
        last = _product_with_half(shifted, x)
        if last is not None:
            found.append(Gelu(x, erf, shifted, last))
    return found


def _product_with_half(shifted: ir.Node, x: ir.Value) -> ir.Node | None:
    """The node that makes x * 0.5 * shifted, where multiplications alone lead there."""
    node, seen_x, seen_half = shifted, False, False
    while not (seen_x and seen_half):
        before, reader = node.outputs[0], _reader(node)
        if reader is None or reader.op_type != "Mul" or len(reader.inputs) != 2:
            return None
        other = reader.inputs[1] if reader.inputs[0] is before else reader.inputs[0]
        half_x = other is not None and _is_half_of(other, x)
        if (other is x or half_x) and not seen_x:
            seen_x, seen_half = True, seen_half or half_x
        elif _is(other, 0.5) and not seen_half:
            seen_half = True
        else:
            return None
        node = reader
    return node


def _is_half_of(value: ir.Value, x: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "Mul" or _reader(node) is None:
        return False
    a, b = node.inputs
    return (a is x and _is(b, 0.5)) or (b is x and _is(a, 0.5))


def regroup_gelu(graph: ir.Graph) -> None:
    """Write GELU as (x * (1 + erf(x / sqrt 2))) * 0.5, which onnxruntime 1.31 fuses; it does not
    where exporters halve the sum first, or multiply by the inverse root."""
    for found in find_gelus(graph):
        x, last = found.x, found.last
        name = last.name or last.outputs[0].name
        root = constant(graph, f"{name}_root", np.asarray(1 / HALF_ROOT, np.float32))
        half = constant(graph, f"{name}_half", np.asarray(0.5, np.float32))
        scaled = _like(x, f"{name}_scaled", "Div", [x, root])
        product = _like(x, f"{name}_product", "Mul", [x, found.shifted.outputs[0]])
        whole = _like(x, f"{name}_gelu", "Mul", [product, half])
        graph.insert_before(found.erf, scaled.producer())  # type: ignore[arg-type]
        found.erf.replace_input_with(0, scaled)
        graph.insert_before(last, [product.producer(), whole.producer()])  # type: ignore[list-item]
        _take_place(graph, last, whole)


def gelu_operators(graph: ir.Graph) -> bool:
    """Replace GELU by onnxruntime's own operator; whether there was any.

    onnxruntime reads a converted tensor apart for each reader, and does not find the pattern then.
    """
    gelus = find_gelus(graph)
    for found in gelus:
        made = ir.node("Gelu", [found.x], domain=MICROSOFT, name=f"{found.last.name}_gelu")
        whole = made.outputs[0]
        whole.name, whole.type, whole.shape = f"{made.name}_out", found.x.type, found.x.shape
        graph.insert_before(found.last, made)
        _take_place(graph, found.last, whole)
    return bool(gelus)


def _like(x: ir.Value, name: str, operator: str, inputs: list[ir.Value]) -> ir.Value:
    made = ir.node(operator, inputs, name=name).outputs[0]
    made.name, made.type, made.shape = f"{name}_out", x.type, x.shape
    return made


def _take_place(graph: ir.Graph, old: ir.Node, new: ir.Value) -> None:
    """Let a value stand for a node's result, under its name where that is an output's."""
    was = old.outputs[0]
    replace = ir.convenience.replace_all_uses_with
    if was.is_graph_output():
        name = was.name
        replace(was, new, replace_graph_outputs=True)
        was.name, new.name = f"{name}_before", name
    else:
        replace(was, new)
    graph.remove(old, safe=True)


def _absorbs(product: ir.Node, result: ir.Value) -> bool:
    grouped = product.attributes.get_int("group", 1) != 1
    return (
        product.domain in ("", "ai.onnx")
        and (product.op_type == "Conv" or (product.op_type == "ConvTranspose" and not grouped))
        and len(list(result.uses())) == 1
        and not result.is_graph_output()
    )


def _by_channel(array: np.ndarray, channels: int, rank: int) -> np.ndarray | None:
    """A constant that is the same all over each channel of a tensor of this rank, [channels]."""
    if array.size == 1 and array.ndim <= rank:
        return np.full(channels, array.reshape(()), np.float32)
    if array.ndim not in (rank, rank - 1) or array.size != channels:
        return None
    return array.reshape(-1) if array.shape[-(rank - 1)] == channels else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """The float32 array of an initialiser that is no input."""
    if value is None or not value.is_initializer() or value.is_graph_input():
        return None
    tensor = value.const_value
    return tensor.numpy() if tensor is not None and tensor.dtype == ir.DataType.FLOAT else None


def _is(value: ir.Value | None, number: float) -> bool:
    array = _constant(value)
    return (
        array is not None and array.size == 1 and math.isclose(array.item(), number, rel_tol=1e-4)
    )


def _scaled_by_half_root(node: ir.Node | None) -> ir.Value | None:
    """The x of x / sqrt 2."""
    if node is None or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if node.op_type == "Div" and _is(b, 1 / HALF_ROOT):
        return a
    if node.op_type == "Mul":
        return a if _is(b, HALF_ROOT) else b if _is(a, HALF_ROOT) else None
    return None


def _reader(node: ir.Node | None) -> ir.Node | None:
    """The only reader of a node's only output."""
    if node is None or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return None
    uses = list(node.outputs[0].uses())
    return uses[0].node if len(uses) == 1 else None

"""LSTM and GRU written for an engine's int8 kernels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgedl.core.target import Scheme
from edgedl.passes.graph import constant
from edgedl.passes.plan import Quantizer
from edgedl.passes.recurrent import INITIAL_H, LENGTHS, R, W, X, fixed, operand
from edgedl.passes.regroup import MICROSOFT
from edgedl.passes.scales import LARGEST_CODE, rounded

OWN_OPERATOR = "DynamicQuantizeLSTM"
OWN_OPERATOR_INPUTS = 12


def place_recurrent(
    graph: ir.Graph,
    node: ir.Node,
    scheme: Scheme,
    activations: Mapping[str, Quantizer],
    largest: int = LARGEST_CODE,
) -> None:
    """Write a recurrent operator for the engine's int8 kernel.

    Args:
        activations: quantizers by tensor, those of `own_tensors` among them.
        largest: the largest code of a weight.
    """
    if scheme.own_lstm:
        as_own_operator(graph, node, node.name or "", largest)
    else:
        _between_quantizers(graph, node, activations, largest)


def as_own_operator(graph: ir.Graph, node: ir.Node, stem: str, largest: int = LARGEST_CODE) -> None:
    """Make of an LSTM onnxruntime's DynamicQuantizeLSTM: it quantizes input and state in each call,
    and its weights (directions, columns, gates) have a scale for each gate's row.

    Args:
        stem: what the names of its constants begin with.
    """
    parts = []
    for position, letter in ((W, "W"), (R, "R")):
        array = fixed(node.inputs[position])
        assert array is not None
        directions, rows, columns = array.shape
        codes, scales = rounded(array.reshape(-1, columns), 0, largest)
        stored = np.ascontiguousarray(codes.reshape(array.shape).transpose(0, 2, 1))
        scales = scales.reshape(directions, rows)
        node.replace_input_with(position, constant(graph, f"{stem}_{letter}_int8", stored))
        parts += [
            constant(graph, f"{stem}_{letter}_scale", scales),
            constant(graph, f"{stem}_{letter}_zero_point", np.zeros(scales.shape, np.int8)),
        ]
    node.resize_inputs(OWN_OPERATOR_INPUTS)
    for position, part in enumerate(parts, OWN_OPERATOR_INPUTS - len(parts)):
        node.replace_input_with(position, part)
    node.attributes.pop("layout", None)
    node.op_type, node.domain = OWN_OPERATOR, MICROSOFT
    graph.opset_imports[MICROSOFT] = 1


def _between_quantizers(
    graph: ir.Graph, node: ir.Node, activations: Mapping[str, Quantizer], largest: int
) -> None:
    """OpenVINO's int8 LSTMSequence and GRUSequence, which it makes of a QDQ operator.

    The kernel knows one scale for input and state and one for each row of W and R together. The
    input's codes are therefore read with the state's scale, and W is multiplied by what they lose.
    The gates of a unit share their scale: OpenVINO 2026.4 brings the gates of an LSTM into its own
    order, and leaves their scales. A bidirectional operator is written as two, since OpenVINO
    2026.4 leaves it in float.
    """
    data = node.inputs[X]
    assert data is not None
    reads, state = _step(activations[data.name or ""]), _state_step(node, activations)
    zero = constant(graph, f"{node.name}_zero_point", np.asarray(0, np.int8))
    scales = [
        constant(graph, f"{node.name}_{what}_scale", np.asarray(step, np.float32))
        for what, step in (("reads", reads), ("state", state))
    ]
    read = _quantized(node, data, f"{node.name}_reads", scales[0], scales[1], zero)
    direction = node.attributes.get_string("direction", "forward")
    ways = ["forward", "reverse"] if direction == "bidirectional" else [direction]
    made = [
        _one_way(graph, node, number if len(ways) > 1 else None, way, reads / state, largest)
        for number, way in enumerate(ways)
    ]
    for one in made:
        one.replace_input_with(X, read)
        initial = operand(one, INITIAL_H)
        stem = f"{one.name}_initial"
        if initial is not None and (given := fixed(initial)) is not None:
            one.replace_input_with(INITIAL_H, constant(graph, stem, given))
        elif initial is not None:
            quantized = _quantized(one, initial, stem, scales[1], scales[1], zero)
            one.replace_input_with(INITIAL_H, quantized)
    if len(made) > 1:
        _join(graph, node, made)


def _step(quantizer: Quantizer) -> float:
    """The scale with which signed codes without a zero point cover a quantizer's range."""
    zero = quantizer.zero_point
    last = 255 if quantizer.dtype == "uint8" else 127
    reach = max(last - zero, zero if quantizer.dtype == "uint8" else 127 + zero)
    return quantizer.scale * reach / LARGEST_CODE


def _state_step(node: ir.Node, activations: Mapping[str, Quantizer]) -> float:
    """The state's scale: as wide as all states and the first; a state is below 1 by its tanh."""
    output, initial = node.outputs[0], operand(node, INITIAL_H)
    names = [value.name or "" for value in (output, initial) if value is not None]
    steps = [_step(activations[name]) for name in names if name in activations]
    if output.name not in activations:
        steps.append(1 / LARGEST_CODE)
    given = fixed(initial)
    if given is not None:
        steps.append(float(np.abs(given).max(initial=0.0)) / LARGEST_CODE)
    return max(steps)


def _quantized(
    before: ir.Node, value: ir.Value, stem: str, into: ir.Value, back: ir.Value, zero: ir.Value
) -> ir.Value:
    """A value through a quantizer whose codes are read with another scale."""
    quantize = ir.node("QuantizeLinear", [value, into, zero], name=f"{stem}_quantize")
    codes = quantize.outputs[0]
    codes.name, codes.shape = f"{stem}_codes", value.shape
    codes.type = ir.TensorType(ir.DataType.INT8)
    dequantize = ir.node("DequantizeLinear", [codes, back, zero], name=f"{stem}_dequantize")
    real = dequantize.outputs[0]
    real.name, real.shape, real.type = f"{stem}_real", value.shape, value.type
    assert isinstance(before.graph, ir.Graph)
    before.graph.insert_before(before, [quantize, dequantize])
    return real


def _one_way(
    graph: ir.Graph, node: ir.Node, number: int | None, way: str, factor: float, largest: int
) -> ir.Node:
    """The operator of one direction with its weights quantized: the node itself where `number` is
    None, and else a new one with that direction's operands."""
    one = node
    if number is not None:
        inputs = [_slice(graph, node, position, number) for position in range(len(node.inputs))]
        attributes = {**node.attributes, "direction": ir.AttrString("direction", way)}
        one = ir.Node(
            node.domain, node.op_type, inputs, attributes.values(),
            num_outputs=len(node.outputs), name=f"{node.name}_{way}",
        )  # fmt: skip
        for output, whole in zip(one.outputs, node.outputs, strict=True):
            output.name, output.type = whole.name and f"{whole.name}_{way}", whole.type
        graph.insert_before(node, [one])
    first, second = (_rows(node.inputs[position], number) for position in (W, R))
    rows = np.concatenate([first * factor, second], axis=1)
    units, gates = second.shape[1], second.shape[0] // second.shape[1]
    codes, unit_scales = rounded(rows.reshape(gates, units, -1), 1, largest)
    codes, row_scales = codes.reshape(rows.shape), np.tile(unit_scales, gates)
    scale = constant(graph, f"{one.name}_weights_scale", row_scales)
    zero = constant(graph, f"{one.name}_weights_zero_point", np.zeros(row_scales.shape, np.int8))
    edge = first.shape[1]
    for position, letter, part in ((W, "W", codes[:, :edge]), (R, "R", codes[:, edge:])):
        stem = f"{one.name}_{letter}"
        stored = constant(graph, f"{stem}_int8", np.ascontiguousarray(part[None]))
        dequantize = ir.node(
            "DequantizeLinear", [stored, scale, zero], {"axis": 1}, name=f"{stem}_dequantize"
        )
        real = dequantize.outputs[0]
        real.name, real.shape = f"{stem}_dequantized", stored.shape
        real.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(one, [dequantize])
        one.replace_input_with(position, real)
    return one


def _rows(weight: ir.Value | None, number: int | None) -> np.ndarray:
    array = fixed(weight)
    assert array is not None
    return np.asarray(array[number or 0])


def _slice(graph: ir.Graph, node: ir.Node, position: int, number: int) -> ir.Value | None:
    """One direction's part of an operand whose first axis is the directions; the weights, which are
    rewritten, and the input whole."""
    value = node.inputs[position]
    if value is None or position in (X, W, R, LENGTHS):
        return value
    array, stem = fixed(value), f"{node.name}_input{position}_{number}"
    if array is not None:
        return constant(graph, stem, np.ascontiguousarray(array[number : number + 1]))
    bounds = [
        constant(graph, f"{stem}_{what}", np.asarray([at], np.int64))
        for what, at in (("from", number), ("to", number + 1), ("axis", 0))
    ]
    made = ir.node("Slice", [value, *bounds], name=f"{stem}_slice")
    part = made.outputs[0]
    part.name, part.type = stem, value.type
    if value.shape is not None:
        part.shape = ir.Shape([1, *list(value.shape)[1:]])
    graph.insert_before(node, [made])
    return part


def _join(graph: ir.Graph, node: ir.Node, ways: list[ir.Node]) -> None:
    """The outputs of both directions joined in the place of the whole operator's."""
    for number, whole in enumerate(node.outputs):
        if not whole.name or (not whole.uses() and not whole.is_graph_output()):
            continue
        parts = [way.outputs[number] for way in ways]
        axis = 1 if number == 0 else 0
        joined = ir.node("Concat", parts, {"axis": axis}, name=f"{whole.name}_joined")
        made, name = joined.outputs[0], whole.name
        made.type, made.shape = whole.type, whole.shape
        graph.insert_before(node, [joined])
        whole.name = f"{name}_whole"
        ir.convenience.replace_all_uses_with(whole, made, replace_graph_outputs=True)
        made.name = name
    graph.remove(node, safe=True)

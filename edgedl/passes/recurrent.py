"""LSTM and GRU in int8: which of them an engine's kernels take."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from edgedl.core.target import Scheme
from edgedl.passes.plan import Decision

RECURRENT = ("LSTM", "GRU", "RNN")
X, W, R, B, LENGTHS, INITIAL_H, INITIAL_C, PEEPHOLES = range(8)
# What placing adds to the name of an operator for the quantizer in front of it.
QUANTIZER_PARTS = ("_reads_quantize", "_reads_dequantize", "_reads_codes", "_reads_real")
NO_GRU = (
    "onnxruntime has no int8 GRU, and a product taken out of it costs as much again: the GRU"
    " would multiply by the identity instead"
)
NO_BATCHES = "int8 is for batches of 1 here: OpenVINO 2026.4 computes larger ones wrongly"
NO_RESET_AFTER = "openvino has no int8 GRU that resets behind the product (linear_before_reset)"


def is_recurrent(node: ir.Node) -> bool:
    """Whether an operator is ONNX's LSTM, GRU or RNN."""
    return node.domain in ("", "ai.onnx") and node.op_type in RECURRENT


def int8_recurrent(decisions: Iterable[Decision]) -> tuple[str, ...]:
    """The recurrent operators among those that compute in int8."""
    return tuple(d.node for d in decisions if d.precision == "int8" and d.operator in RECURRENT)


def operand(node: ir.Node, position: int) -> ir.Value | None:
    """An input, None where it is left out."""
    return node.inputs[position] if position < len(node.inputs) else None


def _filling(value: ir.Value | None) -> np.ndarray | None:
    """The one value that ConstantOfShape fills a tensor with, seen through Slice and Expand."""
    maker = value.producer() if value is not None else None
    while (
        maker is not None and maker.op_type in ("Slice", "Expand") and maker.inputs[0] is not None
    ):
        maker = maker.inputs[0].producer()
    if maker is None or maker.op_type != "ConstantOfShape" or maker.domain not in ("", "ai.onnx"):
        return None
    told = maker.attributes.get("value")
    return np.zeros((), np.float32) if told is None else told.as_tensor().numpy().reshape(())


def fixed(value: ir.Value | None) -> np.ndarray | None:
    """The array of a constant operand, None where it is computed or left out.

    What is filled with one value is constant where its shape is: first states often are zeros in
    as many rows as the input has.
    """
    filling = _filling(value)
    if filling is not None and value is not None and value.shape is not None:
        shape = [size for size in value.shape if isinstance(size, int)]
        return np.full(shape, filling) if len(shape) == len(value.shape) else None
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def weights_of(node: ir.Node) -> list[np.ndarray]:
    """Its constant weights W and R, (rows of all gates and directions, columns)."""
    arrays = [fixed(operand(node, position)) for position in (W, R)]
    return [array.reshape(-1, array.shape[-1]) for array in arrays if array is not None]


def why_float(node: ir.Node, scheme: Scheme) -> str | None:
    """Why a recurrent operator stays float; None where the engine's int8 kernel takes it."""
    if node.op_type not in scheme.operators:
        own = scheme.own_lstm and node.op_type == "GRU"
        return NO_GRU if own else f"{scheme.name} has no int8 kernel for it"
    data = operand(node, X)
    if data is None or data.dtype not in (None, ir.DataType.FLOAT):
        return "its input is not float32"
    weights = [fixed(operand(node, position)) for position in (W, R)]
    if any(weight is None for weight in weights):
        return "its weights are computed"
    if any(w is None or w.dtype != np.float32 or not np.isfinite(w).all() for w in weights):
        return "its weights are not float32, or not finite"
    if node.attributes.get_int("layout", 0) != 0:
        return "its layout puts the batch first, which no kernel takes"
    return None if scheme.own_lstm else _why_not_quantized(node)


def _why_not_quantized(node: ir.Node) -> str | None:
    """Why OpenVINO's kernels for quantized sequences do not take an operator."""
    for position, what in ((LENGTHS, "lengths of its own"), (PEEPHOLES, "peepholes")):
        if operand(node, position) is not None:
            return f"openvino has no int8 kernel for sequences with {what}"
    for name in ("clip", "activations", "activation_alpha", "activation_beta"):
        if name in node.attributes:
            return f"openvino has no int8 kernel with `{name}`"
    if node.attributes.get_int("input_forget", 0) != 0:
        return "openvino has no int8 kernel with `input_forget`"
    if node.op_type == "GRU" and node.attributes.get_int("linear_before_reset", 0) != 0:
        return NO_RESET_AFTER
    if operand(node, B) is not None and fixed(operand(node, B)) is None:
        return "its bias is computed"
    data = operand(node, X)
    assert data is not None
    if data.shape is None or len(data.shape) != 3 or data.shape[1] != 1:
        return NO_BATCHES
    return None


def own_tensors(node: ir.Node, scheme: Scheme) -> list[tuple[ir.Value, ir.Value]]:
    """The tensors whose ranges an int8 recurrent operator needs, quantized for it alone, each with
    the one whose scale it shares: what it reads, its states, and with those the first. None where
    the kernel quantizes in each call."""
    data, states, first = operand(node, X), node.outputs[0], operand(node, INITIAL_H)
    if scheme.own_lstm or data is None:
        return []
    found = [(data, data)]
    if states.name:
        found.append((states, states))
    if first is not None and fixed(first) is None:
        found.append((first, states if states.name else first))
    return found

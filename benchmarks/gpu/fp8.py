"""An int8 graph of QuantizeLinear and DequantizeLinear in fp8 (E4M3): the same places, other codes.

The largest magnitude of int8's grid, 127 steps, becomes that of E4M3, 448 (Micikevicius et al.,
FP8 Formats for Deep Learning, 2022), so that the same ranges are kept.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

INT8_MOST, E4M3_MOST = 127.0, 448.0
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def to_fp8(source: Path, target: Path) -> None:
    """Write the graph at `source`, symmetric int8 with opset 19 or later, in fp8 at `target`.

    Raises:
        ValueError: a quantizer is not symmetric int8.
    """
    model = onnx.load(source)
    graph = model.graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    made: dict[str, onnx.TensorProto] = {}
    for node in graph.node:
        if node.op_type not in QUANTIZERS:
            continue
        scale = numpy_helper.to_array(known[node.input[1]])
        zero = numpy_helper.to_array(known[node.input[2]]) if len(node.input) > 2 else np.int8(0)
        if zero.dtype != np.int8 or np.any(zero):
            raise ValueError(f"`{node.name}` is not symmetric int8")
        codes = known.get(node.input[0])
        if node.op_type == "DequantizeLinear" and codes is not None:
            node.input[0] = _codes(made, codes, scale, _axis(node))
        node.input[1] = _scaled(made, node.input[1], scale)
        zeros = _zeros(made, scale.shape)
        if len(node.input) > 2:
            node.input[2] = zeros
        else:
            node.input.append(zeros)
    graph.initializer.extend(made.values())
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    del graph.value_info[:]
    onnx.save(model, target)


def _axis(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 1)


def _codes(
    made: dict[str, onnx.TensorProto], codes: onnx.TensorProto, scale: np.ndarray, axis: int
) -> str:
    """The same weights on E4M3's grid."""
    name = f"{codes.name}_fp8"
    if name not in made:
        steps = numpy_helper.to_array(codes).astype(np.float32) * (E4M3_MOST / INT8_MOST)
        assert scale.ndim == 0 or steps.shape[axis] == scale.size
        made[name] = _tensor(name, steps)
    return name


def _scaled(made: dict[str, onnx.TensorProto], name: str, scale: np.ndarray) -> str:
    new = f"{name}_fp8"
    made[new] = numpy_helper.from_array((scale * (INT8_MOST / E4M3_MOST)).astype(scale.dtype), new)
    return new


def _zeros(made: dict[str, onnx.TensorProto], shape: tuple[int, ...]) -> str:
    name = "fp8_zero_" + "x".join(map(str, shape))
    made.setdefault(name, _tensor(name, np.zeros(shape, np.float32)))
    return name


def _tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    data = values.astype(ml_dtypes.float8_e4m3fn).tobytes()
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, values.shape, data, raw=True)

"""Dynamic int8: activations quantized in each call, by that call's own range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.model import Model
from edgedl.core.target import ONNXRUNTIME
from edgedl.passes.graph import constant, drop_unused_initializers, rewrite
from edgedl.passes.place_recurrent import as_own_operator
from edgedl.passes.recurrent import is_recurrent, weights_of, why_float
from edgedl.passes.scales import finite, rounded

FLAGS = {"transA": 0, "alpha": 1.0, "beta": 1.0}


@dataclass(frozen=True)
class Dynamic:
    """Matrix products with constant weights in int8: DynamicQuantizeLinear, MatMulInteger and the
    scales, as ONNX defines them, which onnxruntime fuses into one kernel; and LSTMs as its
    DynamicQuantizeLSTM, but for those in the bodies of `If` and `Loop`.

    No samples are needed, and no range can be wrong; looking for each range costs time in every
    call. Weights have a scale for each output column.

    Attributes:
        least_elements: products and LSTMs with smaller weights stay float.
    """

    name: ClassVar[str] = "dynamic"
    tolerance: ClassVar[float] = 0.95
    least_elements: int = 1024

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        quantized: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
        for number, node in enumerate(list(graph.graph.all_nodes())):
            if node.graph is graph.graph and self._is_sequence(node):
                as_own_operator(graph.graph, node, f"dynamic_{number}")
                continue
            weight = self._weight(node)
            if weight is None:
                continue
            data = node.inputs[0]
            assert data is not None
            if data not in quantized:
                quantized[data] = _quantize(node, data, f"dynamic_{number}")
            _replace(node, weight, quantized[data], f"dynamic_{number}")
        common.RemoveUnusedNodesPass()(graph)
        drop_unused_initializers(graph)
        common.TopologicalSortPass()(graph)

    def _is_sequence(self, node: ir.Node) -> bool:
        """Whether it is an LSTM that onnxruntime's int8 operator takes."""
        large = is_recurrent(node) and sum(w.size for w in weights_of(node)) >= self.least_elements
        return large and why_float(node, ONNXRUNTIME) is None

    def _weight(self, node: ir.Node) -> np.ndarray | None:
        """A product's constant weights, input channels first; None where it stays as it is."""
        if node.domain not in ("", "ai.onnx") or node.op_type not in ("MatMul", "Gemm"):
            return None
        data, weight = node.inputs[0], node.inputs[1]
        if data is None or weight is None or weight.const_value is None or weight.is_graph_input():
            return None
        tensor = weight.const_value
        if data.const_value is not None or data.dtype not in (None, ir.DataType.FLOAT):
            return None
        if tensor.dtype != ir.DataType.FLOAT or len(tensor.shape) != 2:
            return None
        if tensor.size < self.least_elements or not finite(tensor.numpy()):
            return None
        if node.op_type == "Gemm" and any(
            _value(node, n, usual) != usual for n, usual in FLAGS.items()
        ):
            return None
        array = tensor.numpy()
        return array.T if node.op_type == "Gemm" and _value(node, "transB", 0) else array


def _value(node: ir.Node, name: str, usual: float) -> float:
    return float(node.attributes[name].value) if name in node.attributes else usual


def _quantize(node: ir.Node, data: ir.Value, stem: str) -> tuple[ir.Value, ir.Value, ir.Value]:
    made = ir.node("DynamicQuantizeLinear", [data], num_outputs=3, name=f"{stem}_quantize")
    codes, scale, zero = made.outputs
    for value, name, dtype in (
        (codes, "codes", ir.DataType.UINT8),
        (scale, "scale", ir.DataType.FLOAT),
        (zero, "zero_point", ir.DataType.UINT8),
    ):
        value.name, value.type = f"{stem}_{name}", ir.TensorType(dtype)
    codes.shape, scale.shape, zero.shape = data.shape, ir.Shape(()), ir.Shape(())
    _graph_of(node).insert_before(node, made)
    return codes, scale, zero


def _replace(
    node: ir.Node,
    weight: np.ndarray,
    data: tuple[ir.Value, ir.Value, ir.Value],
    stem: str,
) -> None:
    graph, whole = _graph_of(node), node.outputs[0]
    codes, scales = rounded(weight, 1)
    stored = constant(graph, f"{stem}_weight", np.ascontiguousarray(codes))
    weight_scale = constant(graph, f"{stem}_weight_scale", scales)
    zero = constant(graph, f"{stem}_weight_zero_point", np.zeros(scales.shape, np.int8))
    product = ir.node("MatMulInteger", [data[0], stored, data[2], zero], name=f"{stem}_product")
    real = ir.node(
        "Cast", [product.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{stem}_cast"
    )
    scale = ir.node("Mul", [data[1], weight_scale], name=f"{stem}_scales")
    scaled = ir.node("Mul", [real.outputs[0], scale.outputs[0]], name=f"{stem}_scaled")
    nodes = [product, real, scale, scaled]
    bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
    if bias is not None:
        nodes.append(ir.node("Add", [scaled.outputs[0], bias], name=f"{stem}_bias"))
    for made in nodes:
        dtype = ir.DataType.INT32 if made is product else ir.DataType.FLOAT
        made.outputs[0].name, made.outputs[0].type = f"{made.name}_out", ir.TensorType(dtype)
        if made is not scale:
            made.outputs[0].shape = whole.shape
    last, name = nodes[-1].outputs[0], whole.name
    ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [whole], [last])
    last.name = name


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    return graph

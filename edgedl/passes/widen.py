"""A graph that computes in float32, where it was float16, bfloat16 or float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.model import Model
from edgedl.passes.graph import QUANTIZED, drop_unused_initializers, read, rewrite

OTHERS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
# Attributes whose number names an element type.
TYPE_ATTRIBUTES = (
    "to", "dtype", "output_dtype", "output_datatype", "precision", "softmax_precision",
    "stash_type",
)  # fmt: skip
PRODUCTS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "GRU", "Gemm", "LSTM", "MatMul", "RNN"}
)


@dataclass(frozen=True)
class Widen:
    """The same function in float32 throughout, its inputs and outputs in the types that they had.

    Constants, casts and results in float16, bfloat16 and float64 become float32; casts stand at the
    graph's ends, those that are left without effect go. Finite numbers stay finite, and what is not
    zero stays so.
    """

    name: ClassVar[str] = "widen"
    tolerance: ClassVar[float] = 0.999

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        given = [
            value
            for value in graph.graph.inputs
            if value.dtype in OTHERS and value.name not in graph.graph.initializers
        ]
        ends = {value: value.dtype for value in graph.graph.outputs if value.dtype in OTHERS}
        for value in _constants(graph):
            _widen_constant(value)
        for node in graph.graph.all_nodes():
            _widen_attributes(node)
        for value in _inner(graph):
            if value.dtype in OTHERS and isinstance(value.type, ir.TensorType):
                value.type = ir.TensorType(ir.DataType.FLOAT)
        for value in given:
            _cast_input(graph.graph, value)
        for value, dtype in ends.items():
            if not value.is_graph_input() and dtype is not None:
                _cast_output(graph.graph, value, dtype)
        _drop_idle_casts(graph.graph)
        common.TopologicalSortPass()(graph)
        common.RemoveUnusedNodesPass()(graph)
        drop_unused_initializers(graph)


def computed_in(model: Model) -> frozenset[str]:
    """The types beside float32 that a model's products compute in; empty where it is quantized."""
    found: set[str] = set()
    for node in read(model.path).graph.all_nodes():
        if node.op_type in QUANTIZED or node.op_type.startswith("QLinear"):
            return frozenset()
        if node.op_type in PRODUCTS:
            found |= {v.dtype.name.lower() for v in node.inputs if v and v.dtype in OTHERS}
    return frozenset("float64" if name == "double" else name for name in found)


def _constants(graph: ir.Model) -> list[ir.Value]:
    scopes = (graph.graph, *graph.graph.subgraphs())
    return [value for scope in scopes for value in scope.initializers.values()]


def _inner(graph: ir.Model) -> Iterator[ir.Value]:
    """What nodes make, and what bodies are given."""
    for node in graph.graph.all_nodes():
        yield from node.outputs
    for body in graph.graph.subgraphs():
        yield from body.inputs


def _widen_constant(value: ir.Value) -> None:
    tensor = value.const_value
    if tensor is not None and tensor.dtype in OTHERS:
        value.const_value = _widened(tensor)
        value.type = ir.TensorType(ir.DataType.FLOAT)


def _widen_attributes(node: ir.Node) -> None:
    for name, one in list(node.attributes.items()):
        if one.type == ir.AttributeType.TENSOR and one.as_tensor().dtype in OTHERS:
            node.attributes[name] = ir.AttrTensor(name, _widened(one.as_tensor()))
        elif (
            name in TYPE_ATTRIBUTES
            and one.type == ir.AttributeType.INT
            and one.as_int() in {int(dtype) for dtype in OTHERS}
        ):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor in float32, converted when it is read, so that one at a time is in memory."""
    return ir.LazyTensor(
        lambda: ir.Tensor(_float32(tensor.numpy()), name=tensor.name),
        dtype=ir.DataType.FLOAT,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
    )


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(np.float32)
    if array.dtype != np.float64:
        return rounded
    limits = np.finfo(np.float32)
    rounded = np.where(np.isfinite(array), np.clip(rounded, limits.min, limits.max), rounded)
    lost = (rounded == 0) & (array != 0)
    return np.where(lost, np.copysign(limits.tiny, array), rounded).astype(np.float32)


def _cast_input(graph: ir.Graph, value: ir.Value) -> None:
    uses = list(value.uses())
    if not uses:
        return
    node = _cast(value, ir.DataType.FLOAT, f"{value.name}_float32")
    graph.insert_before(graph[0], [node])
    for use in uses:
        use.node.replace_input_with(use.idx, node.outputs[0])


def _cast_output(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> None:
    name = value.name or ""
    value.name = f"{name}_float32"
    node = _cast(value, dtype, name)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [node])
    else:
        graph.insert_after(producer, [node])
    for number, one in enumerate(graph.outputs):
        if one is value:
            graph.outputs[number] = node.outputs[0]


def _cast(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}_cast")
    made = node.outputs[0]
    made.name, made.shape, made.type = name, value.shape, ir.TensorType(dtype)
    return node


def _drop_idle_casts(graph: ir.Graph) -> None:
    """Bypass casts from float32 to float32."""
    for node in graph:
        data = node.inputs[0] if node.inputs else None
        if (
            node.op_type == "Cast"
            and data is not None
            and data.dtype == ir.DataType.FLOAT == ir.DataType(node.attributes.get_int("to", 1))
            and not node.outputs[0].is_graph_output()
        ):
            ir.convenience.replace_all_uses_with(node.outputs[0], data)

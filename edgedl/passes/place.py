"""Carry out a plan: put its quantizers into the graph, as QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.errors import BadOption, nearest
from edgedl.core.model import Model
from edgedl.core.target import SCHEMES
from edgedl.passes.graph import constant, rewrite
from edgedl.passes.place_recurrent import place_recurrent
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.recurrent import int8_recurrent
from edgedl.passes.regroup import MICROSOFT, gelu_operators
from edgedl.passes.scales import LARGEST_CODE, LARGEST_OF_7_BITS, rounded

# How a weight is written: its name, the axis of its scales, its zero point and its largest code.
Written = tuple[str, int | None, int, int]


@dataclass(frozen=True)
class Place:
    """The graph with the plan's int8 operators between quantizers, its biases in float.

    Weights are stored as int8 with float32 scales; the format is ONNX's QDQ, operators
    QuantizeLinear and DequantizeLinear of opset 13.

    Raises:
        BadOption: the plan names a node or tensor that the graph has not.
    """

    name: ClassVar[str] = "place"
    plan: Plan

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        nodes = {node.name: node for node in graph.graph}
        values = {value.name: value for value in graph.graph.inputs}
        values |= {value.name: value for node in graph.graph for value in node.outputs}
        self._fits(set(nodes), set(values))
        for number, (name, quantizer) in enumerate(self.plan.activations.items()):
            readers = [nodes[reader] for reader in self.plan.readers[name]]
            if readers:
                stem = f"quantized_{number}"
                _insert_quantizer(graph.graph, values[name], quantizer, readers, stem)
        done: dict[Written, ir.Value] = {}
        for name, (position, axis) in self.plan.weights.items():
            weight = nodes[name].inputs[position]
            assert weight is not None
            zero = -1 if name in self.plan.shifted else 0
            largest = self.plan.largest_code(name)
            key = (weight.name or "", axis, zero, largest)
            if key not in done:
                done[key] = _insert_weight(graph.graph, weight, key, nodes[name])
            nodes[name].replace_input_with(position, done[key])
        for name in self.plan.tables:
            _store_table(graph.graph, nodes[name])
        scheme = SCHEMES[self.plan.scheme]
        for name in int8_recurrent(self.plan.decisions):
            largest = self.plan.largest_code(name)
            place_recurrent(graph.graph, nodes[name], scheme, self.plan.activations, largest)
        if scheme.bias_apart:
            for name in self.plan.weights:
                _set_bias_apart(graph.graph, nodes[name])
        if scheme.own_gelu and gelu_operators(graph.graph):
            graph.opset_imports[MICROSOFT] = 1
        common.RemoveUnusedNodesPass()(graph)
        common.TopologicalSortPass()(graph)

    def _fits(self, nodes: set[str | None], values: set[str | None]) -> None:
        if self.plan.scheme not in SCHEMES:
            raise BadOption(
                f"the plan is of the unknown scheme `{self.plan.scheme}`",
                hint=nearest(self.plan.scheme, SCHEMES),
            )
        readers = (node for nodes in self.plan.readers.values() for node in nodes)
        named = (*self.plan.int8, *self.plan.weights, *self.plan.tables, *readers)
        named += self.plan.shifted
        unknown = [name for name in named if name not in nodes]
        unknown += [name for name in self.plan.activations if name not in values]
        unknown += [name for name in self.plan.activations if name not in self.plan.readers]
        if unknown:
            raise BadOption(
                f"the plan names `{unknown[0]}`, which the model has not",
                hint="plan again for this model",
            )


def _insert_quantizer(
    graph: ir.Graph, value: ir.Value, quantizer: Quantizer, readers: list[ir.Node], name: str
) -> None:
    scale = constant(graph, f"{name}_scale", np.asarray(quantizer.scale, np.float32))
    zero = constant(graph, f"{name}_zero_point", np.asarray(quantizer.zero_point, quantizer.dtype))
    quantize = ir.node("QuantizeLinear", [value, scale, zero], name=f"{name}_quantize")
    codes = quantize.outputs[0]
    codes.name, codes.shape, codes.type = f"{name}_codes", value.shape, ir.TensorType(zero.dtype)  # type: ignore[arg-type]
    dequantize = ir.node("DequantizeLinear", [codes, scale, zero], name=f"{name}_dequantize")
    real = dequantize.outputs[0]
    real.name, real.shape, real.type = f"{name}_real", value.shape, value.type
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [quantize, dequantize])
    else:
        graph.insert_after(producer, [quantize, dequantize])
    for reader in readers:
        for position, operand in enumerate(reader.inputs):
            if operand is value:
                reader.replace_input_with(position, real)


def _insert_weight(
    graph: ir.Graph, weight: ir.Value, written: Written, reader: ir.Node
) -> ir.Value:
    name, axis, zero_point, largest = written
    stem = name if axis is None else f"{name}_axis{axis}"
    stem += "_shifted" * (zero_point != 0) + "_narrow" * (largest == LARGEST_OF_7_BITS)
    if largest < LARGEST_OF_7_BITS:
        stem += f"_to{largest}"
    stored, scale, zero = _stored(graph, weight, axis, stem, zero_point, largest)
    attributes = {} if axis is None else {"axis": axis}
    node = ir.node("DequantizeLinear", [stored, scale, zero], attributes, name=f"{stem}_dequantize")
    node.outputs[0].name = f"{stem}_dequantized"
    node.outputs[0].shape, node.outputs[0].type = weight.shape, weight.type
    graph.insert_before(reader, [node])
    return node.outputs[0]


def _stored(
    graph: ir.Graph,
    weight: ir.Value,
    axis: int | None,
    stem: str,
    zero_point: int = 0,
    largest: int = LARGEST_CODE,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """A constant's codes, scales and zero points, as new constants."""
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    codes, scales = rounded(array, axis, largest)
    codes += np.int8(zero_point)
    return (
        constant(graph, f"{stem}_int8", codes),
        constant(graph, f"{stem}_scale", scales),
        constant(graph, f"{stem}_zero_point", np.full(scales.shape, zero_point, np.int8)),
    )


def _store_table(graph: ir.Graph, node: ir.Node) -> None:
    """A Gather that looks up codes, and behind it the conversion of the rows that were found."""
    table, rows = node.inputs[0], node.outputs[0]
    assert table is not None
    stored, scale, zero = _stored(graph, table, 1, f"{table.name}_columns")
    found = ir.node(
        "Gather", [stored, node.inputs[1]], dict(node.attributes), name=f"{node.name}_codes"
    )
    found.outputs[0].name = f"{rows.name}_codes"
    found.outputs[0].type, found.outputs[0].shape = ir.TensorType(ir.DataType.INT8), rows.shape
    real = ir.node(
        "DequantizeLinear", [found.outputs[0], scale, zero], {"axis": -1}, name=f"{node.name}_real"
    )
    real.outputs[0].type, real.outputs[0].shape = rows.type, rows.shape
    name = rows.name
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [found, real], [rows], [real.outputs[0]]
    )
    real.outputs[0].name = name


def _set_bias_apart(graph: ir.Graph, node: ir.Node) -> None:
    """A Gemm without bias, or a two-dimensional MatMul written as one, and an Add behind it; behind
    other MatMuls, an Add whose constant has three dimensions."""
    data = node.inputs[0]
    flat = data is not None and data.shape is not None and len(data.shape) == 2
    if node.op_type == "MatMul" and flat and len(node.inputs[1].shape or ()) == 2:  # type: ignore[union-attr]
        node.op_type = "Gemm"
        return
    if node.op_type == "MatMul" and not flat:
        _widen_bias(graph, node)
        return
    if node.op_type != "Gemm" or len(node.inputs) < 3 or node.inputs[2] is None:
        return
    bias, whole = node.inputs[2], node.outputs[0]
    product = ir.node(
        "Gemm", [data, node.inputs[1]], dict(node.attributes), name=f"{node.name}_product"
    )
    product.outputs[0].name = f"{whole.name}_product"
    product.outputs[0].type, product.outputs[0].shape = whole.type, whole.shape
    added = ir.node("Add", [product.outputs[0], bias], name=f"{node.name}_bias")
    added.outputs[0].type, added.outputs[0].shape = whole.type, whole.shape
    name = whole.name
    ir.convenience.replace_nodes_and_values(
        graph, node, [node], [product, added], [whole], [added.outputs[0]]
    )
    added.outputs[0].name = name


def _widen_bias(graph: ir.Graph, node: ir.Node) -> None:
    """onnxruntime fuses a MatMul and an Add of a vector into a float Gemm, weights expanded in
    every call; it does not where the vector has leading dimensions of 1."""
    for use in list(node.outputs[0].uses()):
        if use.node.op_type != "Add":
            continue
        bias = use.node.inputs[1 - use.idx]
        if bias is None or bias.const_value is None or len(bias.const_value.shape) != 1:
            continue
        array = bias.const_value.numpy()
        wide = constant(graph, f"{use.node.name}_wide", array.reshape(1, 1, -1).copy())
        use.node.replace_input_with(1 - use.idx, wide)

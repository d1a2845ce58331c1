"""Take a model's quantizers out again, so that it can be quantized anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.errors import Unsupported
from edgedl.core.model import Model
from edgedl.core.target import MOVES
from edgedl.passes.graph import QUANTIZED, constant, drop_unused_initializers, rewrite
from edgedl.passes.qoperators import expand_integer_operators

PAIR = ("QuantizeLinear", "DequantizeLinear")
NEVER_NEGATIVE = frozenset({"Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus"})


@dataclass(frozen=True)
class Unquantize:
    """The float model under a QDQ or QOperator model: weights as their codes say, and activations
    not rounded.

    What rounding the weights lost is lost. Operators that only move codes then move floats.

    Raises:
        Unsupported: it holds operators that find scales in each call, or that are not known.
    """

    name: ClassVar[str] = "unquantize"
    tolerance: ClassVar[float] = 0.9

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        expand_integer_operators(graph)
        for node in graph.graph.all_nodes():
            computes = node.op_type in QUANTIZED and node.op_type not in PAIR
            if computes or node.op_type.startswith("QLinear"):
                raise Unsupported(
                    f"`{node.name}` ({node.op_type}) computes on codes, and is not taken apart",
                    hint="give the float model that it was made from",
                )
        for node in list(graph.graph.all_nodes()):
            if node.op_type == "DequantizeLinear" and _is_constant(node.inputs[0]):
                _expand(node)
        self._float_between(graph)
        for node in list(graph.graph.all_nodes()):
            if node.op_type in PAIR:
                _drop(node)
        common.RemoveUnusedNodesPass()(graph)
        drop_unused_initializers(graph)
        common.TopologicalSortPass()(graph)

    def _float_between(self, graph: ir.Model) -> None:
        """Give what stands between quantizers and dequantizers the type of what is quantized."""
        waiting = [n.outputs[0] for n in graph.graph.all_nodes() if n.op_type == PAIR[0]]
        while waiting:
            value = waiting.pop()
            value.type = ir.TensorType(ir.DataType.FLOAT)
            for use in value.uses():
                if use.node.op_type == PAIR[1]:
                    continue
                if use.node.op_type not in MOVES or value.is_graph_output():
                    raise Unsupported(
                        f"`{use.node.name}` ({use.node.op_type}) computes on codes, and is not"
                        " taken apart",
                        hint="give the float model that it was made from",
                    )
                waiting += use.node.outputs


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None and not value.is_graph_input()


def _expand(node: ir.Node) -> None:
    """A dequantized constant as the constant that it stands for."""
    codes, scale, *rest = node.inputs
    if not _is_constant(codes) or not _is_constant(scale) or "block_size" in node.attributes:
        raise Unsupported(
            f"`{node.name}` has scales that are computed or stand for blocks",
            hint="give the float model that it was made from",
        )
    assert codes is not None
    assert codes.const_value is not None
    assert scale is not None
    assert scale.const_value is not None
    array, scales = codes.const_value.numpy(), scale.const_value.numpy()
    zero = rest[0] if rest else None
    zeros = zero.const_value.numpy() if zero is not None and zero.const_value else 0
    axis = node.attributes.get_int("axis", 1) % max(array.ndim, 1)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    if scales.ndim:
        scales = scales.reshape(shape)
        zeros = np.asarray(zeros).reshape(shape) if np.ndim(zeros) else zeros
    real = (array.astype(np.float64) - np.asarray(zeros, np.float64)) * scales
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    made = constant(graph, f"{node.name or codes.name}_real", real.astype(np.float32))
    ir.convenience.replace_all_uses_with(node.outputs[0], made)


def _drop(node: ir.Node) -> None:
    """Let those that read a quantizer's output read its input."""
    source, made = node.inputs[0], node.outputs[0]
    if source is None or (not made.uses() and not made.is_graph_output()):
        return
    if source.dtype not in (None, ir.DataType.FLOAT) or (
        made.is_graph_output() and node.op_type != PAIR[1]
    ):
        raise Unsupported(
            f"`{node.name}` converts an input or output of the model",
            hint="give the float model that it was made from",
        )
    if not made.is_graph_output():
        ir.convenience.replace_all_uses_with(made, _rectified(node, source))
        return
    same, name, graph = ir.node("Identity", [source], name=node.name), made.name, node.graph
    kept = same.outputs[0]
    kept.type, kept.shape = made.type, made.shape
    assert isinstance(graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [same], [made], [kept])
    kept.name = name


def _rectified(node: ir.Node, source: ir.Value) -> ir.Value:
    """What a quantizer reads, without what is below its least code where that stands for 0:
    onnxruntime's tools take rectifiers in front of such quantizers out."""
    producer, graph = source.producer(), node.graph
    if node.op_type != PAIR[0] or producer is None or producer.op_type in NEVER_NEGATIVE:
        return source
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None:
        if zero.const_value is None:
            return source
        zeros = zero.const_value.numpy()
        if np.any(zeros != np.iinfo(zeros.dtype).min if zeros.dtype.kind in "iu" else True):
            return source
    relu = ir.node("Relu", [source], name=f"{node.name or source.name}_relu")
    made = relu.outputs[0]
    made.name, made.shape, made.type = relu.name, source.shape, ir.TensorType(ir.DataType.FLOAT)
    assert isinstance(graph, ir.Graph)
    graph.insert_before(node, [relu])
    return made

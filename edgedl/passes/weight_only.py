"""Weights stored in 8 bits and computed with in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.model import Model
from edgedl.passes.graph import constant, drop_unused_initializers, rewrite
from edgedl.passes.recurrent import RECURRENT
from edgedl.passes.scales import LARGEST_CODE, SMALLEST_SCALE, codes_of, finite, largest_magnitude

POSITIONS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
    **dict.fromkeys(RECURRENT, (1, 2)),
}


@dataclass(frozen=True)
class WeightOnly:
    """The same graph with the constant weights of its products, recurrent operators and lookup
    tables as int8 codes with float32 scales, a scale for every output channel.

    The codes are expanded by Casts and a Mul of constants, which engines fold when they open the
    model: calls compute and cost what they did. DequantizeLinear, which says the same, would be
    kept by onnxruntime, and computed in every call; a single Cast would be taken by OpenVINO for
    a compressed weight, and slower kernels with it. Weights in the bodies of `If` and `Loop` are
    stored so, too.

    Attributes:
        least_elements: smaller weights stay, since names and scales would outweigh them.
        keep_float: names of nodes whose weights stay.
        directly: by a single Cast; onnxruntime folds that alike, and takes a third less memory
            while it opens the model.
        dequantized: by DequantizeLinear, which is all that TensorRT lets read codes; products' own
            weights alone, and those of which a scale for each slice of one axis is enough.
    """

    name: ClassVar[str] = "weight_only"
    tolerance: ClassVar[float] = 0.99
    least_elements: int = 1024
    keep_float: tuple[str, ...] = ()
    directly: bool = False
    dequantized: bool = False

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        done: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
        for node in list(graph.graph.all_nodes()):
            if node.domain not in ("", "ai.onnx") or node.name in self.keep_float:
                continue
            for position in POSITIONS.get(node.op_type, ()):
                weight = node.inputs[position] if position < len(node.inputs) else None
                if weight is None or not self._fits(weight) or _looks_up_columns(node):
                    continue
                kept = _kept_axes(node, position, len(weight.shape or ()))
                if self.dequantized and not _one_axis(node, position, kept):
                    continue
                key = (weight.name or "", kept)
                if key not in done:
                    done[key] = _store(weight, kept, self.directly, self.dequantized)
                node.replace_input_with(position, done[key])
        common.RemoveUnusedNodesPass()(graph)
        drop_unused_initializers(graph)
        common.TopologicalSortPass()(graph)

    def _fits(self, weight: ir.Value) -> bool:
        tensor = weight.const_value
        return (
            weight.is_initializer()
            and not weight.is_graph_input()
            and tensor is not None
            and tensor.dtype == ir.DataType.FLOAT
            and len(tensor.shape) >= 2
            and tensor.size >= self.least_elements
            and finite(tensor.numpy())
        )


def _looks_up_columns(node: ir.Node) -> bool:
    """OpenVINO 2026.4 answers wrongly where a stored table is read along another axis than 0."""
    return node.op_type == "Gather" and node.attributes.get_int("axis", 0) != 0


def _one_axis(node: ir.Node, position: int, kept: tuple[int, ...]) -> bool:
    """Whether it is the weight of a product, with a scale for each slice of one axis."""
    return node.op_type not in RECURRENT and position == 1 and len(kept) == 1


def _kept_axes(node: ir.Node, position: int, rank: int) -> tuple[int, ...]:
    """The axes along which each slice has a scale of its own: those of the output channels, and
    the rows of a table (a scale for every column makes OpenVINO 2026.4 crash)."""
    if node.op_type == "Conv":
        return (0,)
    if node.op_type == "ConvTranspose":
        return (1,)
    if node.op_type == "Gemm":
        return (0,) if node.attributes.get_int("transB", 0) else (1,)
    if node.op_type in RECURRENT:
        return (0, 1)
    if node.op_type == "MatMul":
        summed = rank - 2 if position == 1 else rank - 1
        return tuple(axis for axis in range(rank) if axis != summed)
    return (0,)


def _store(weight: ir.Value, kept: tuple[int, ...], directly: bool, dequantized: bool) -> ir.Value:
    """Constants for the codes and scales, and the nodes that expand them, first in the graph or
    body that held the weight."""
    graph = weight.graph
    assert isinstance(graph, ir.Graph)
    assert weight.const_value is not None
    array = weight.const_value.numpy()
    others = tuple(axis for axis in range(array.ndim) if axis not in kept)
    largest = largest_magnitude(array, others, keepdims=True).astype(np.float64)
    scales = np.where(largest > 0, np.maximum(largest / 127, SMALLEST_SCALE), 1.0)
    scales = scales.astype(np.float32)
    codes = codes_of(array, scales, LARGEST_CODE)
    stem = f"{weight.name}_stored{''.join(map(str, kept))}"
    stored = constant(graph, f"{stem}_int8", codes)
    if dequantized:
        scale = constant(graph, f"{stem}_scale", scales.reshape(-1))
        node = ir.node("DequantizeLinear", [stored, scale], {"axis": kept[0]}, name=f"{stem}_node")
        real = node.outputs[0]
        real.name, real.shape, real.type = f"{stem}_expanded", weight.shape, weight.type
        graph.insert_before(graph[0], [node])
        return real
    scale = constant(graph, f"{stem}_scale", scales)
    made = [] if directly else [_made(weight, f"{stem}_int32", "Cast", [stored], ir.DataType.INT32)]
    made += [_made(weight, f"{stem}_float", "Cast", [*made, stored][:1], ir.DataType.FLOAT)]
    made += [_made(weight, f"{stem}_expanded", "Mul", [made[-1], scale], ir.DataType.FLOAT)]
    steps = [value.producer() for value in made]
    graph.insert_before(graph[0], [step for step in steps if step is not None])
    return made[-1]


def _made(
    like: ir.Value, name: str, operator: str, inputs: list[ir.Value], dtype: ir.DataType
) -> ir.Value:
    attributes = {"to": int(dtype)} if operator == "Cast" else {}
    made = ir.node(operator, inputs, attributes, name=f"{name}_node").outputs[0]
    made.name, made.shape, made.type = name, like.shape, ir.TensorType(dtype)
    return made

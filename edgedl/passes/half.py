"""A graph that computes in half precision, written out as types and casts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.core.model import Model
from edgedl.passes.clean import raise_opset
from edgedl.passes.graph import constant, drop_unused_initializers, rewrite

Precision = Literal["float16", "bfloat16"]
DTYPES = {"float16": ir.DataType.FLOAT16, "bfloat16": ir.DataType.BFLOAT16}
QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
# The first opset whose quantizers have scales in half precision.
QUANTIZERS_OPSET = 19
# The first whose convolutions and pools have bfloat16.
BFLOAT16_OPSET = 22
# What sums or grows past 65504, and what makes numbers of nothing or of integers.
STAYS_FLOAT = frozenset(
    {
        "Cast", "CastLike", "ConstantOfShape", "CumSum", "Exp", "EyeLike",
        "LpNormalization", "Pow", "RandomNormal", "RandomNormalLike", "RandomUniform",
        "RandomUniformLike", "Range",
        "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSum",
        "ReduceSumSquare",
    }
)  # fmt: skip
# Steps of scales may be off by as much as codes are coarse.
MOST_ROUNDED = 0.005


@dataclass(frozen=True)
class Half:
    """The same function in float16 or bfloat16, its inputs and outputs as they were.

    Weights are stored in half precision, and quantizers get scales in it, so that int8 operators
    make half precision. Casts stand where a tensor crosses. Operators stay in float32 that ONNX
    does not have in half precision, that tend to leave its range, whose constants do, and that have
    bodies.

    Attributes:
        to: `float16`, or `bfloat16`, which has float32's range and fewer digits.
        keep_float: names of further nodes that stay in float32.
    """

    name: ClassVar[str] = "half"
    tolerance: ClassVar[float] = 0.99
    to: Precision = "float16"
    keep_float: tuple[str, ...] = ()

    def __call__(self, model: Model) -> Model:
        return rewrite(model, self)

    def edit(self, graph: ir.Model) -> None:
        if self.to == "bfloat16":
            raise_opset(graph, BFLOAT16_OPSET)
        elif any(node.op_type in QUANTIZERS for node in graph.graph):
            raise_opset(graph, QUANTIZERS_OPSET)
        common.TopologicalSortPass()(graph)
        opset = graph.opset_imports.get("", 1)
        places = {node: _places(node, opset, self.to) for node in graph.graph}
        halved = self._halved(graph.graph, places)
        _write(graph.graph, {node: places[node] for node in halved}, self.to)
        common.RemoveUnusedNodesPass()(graph)
        drop_unused_initializers(graph)

    def _halved(self, graph: ir.Graph, places: Mapping[ir.Node, Places]) -> list[ir.Node]:
        """The nodes that go to half precision, in graph order."""
        stays = {node for node in graph if self._stays(node, places[node])}
        for node in graph:  # an integer product takes its operands in one precision
            if node in stays and node.op_type == "DequantizeLinear":
                stays |= {use.node for use in node.outputs[0].uses()}
        for node in reversed(graph):
            if node.op_type == "DequantizeLinear" and any(
                use.node in stays for use in node.outputs[0].uses()
            ):
                stays.add(node)
        return [node for node in graph if node not in stays]

    def _stays(self, node: ir.Node, places: Places) -> bool:
        if node.name in self.keep_float or node.op_type in STAYS_FLOAT or not places.makes:
            return True
        if self.to == "bfloat16" and node.op_type not in QUANTIZERS:
            return False
        return any(
            value is not None
            and value.const_value is not None
            and not _fits(value.const_value.numpy(), scale=node.op_type in QUANTIZERS, to=self.to)
            for value in (node.inputs[position] for position in places.reads)
        )


@dataclass(frozen=True)
class Places:
    """Positions of a node's operands and results that may be in half precision."""

    reads: tuple[int, ...]
    makes: tuple[int, ...]


def _places(node: ir.Node, opset: int, to: Precision) -> Places:
    """By the operator's schema; none for what has bodies or is not ONNX's own."""
    bodies = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in _own(node))
    if node.domain not in ("", "ai.onnx") or bodies or not onnx.defs.has(node.op_type, opset, ""):
        return Places((), ())
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    wanted = f"tensor({to})"
    free = {c.type_param_str for c in schema.type_constraints if wanted in c.allowed_type_strs}
    reads = tuple(
        number
        for number, value in enumerate(node.inputs)
        if value is not None
        and value.dtype == ir.DataType.FLOAT
        and _formal(schema.inputs, number) in free
    )
    makes = tuple(
        number
        for number, value in enumerate(node.outputs)
        if value.dtype == ir.DataType.FLOAT and _formal(schema.outputs, number) in free
    )
    wanted_float = sum(
        value is not None
        and value.dtype in (None, ir.DataType.FLOAT)
        and _formal(schema.inputs, number) != "tensor(float)"
        for number, value in enumerate(node.inputs)
    )
    # A quantizer makes codes; what it reads says its precision.
    if node.op_type == "QuantizeLinear" and len(reads) >= 2:
        return Places(reads[:2], (0,))
    return Places(reads, makes) if len(reads) == wanted_float else Places((), ())


def _own(node: ir.Node) -> Iterator[ir.Attr]:
    return (one for one in node.attributes.values() if isinstance(one, ir.Attr))


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], number: int) -> str:
    """The type, or type variable, of a position; the last one's of a list without end."""
    return formals[min(number, len(formals) - 1)].type_str if formals else ""


def _fits(array: np.ndarray, *, scale: bool, to: Precision) -> bool:
    """Whether a constant keeps its meaning: nothing becomes infinite, no factor 0, and the steps of
    a quantizer stay as they are within half a percent."""
    if array.dtype != np.float32 or not array.size:
        return True
    with np.errstate(over="ignore"):
        rounded = array.astype(DTYPES[to].numpy()).astype(np.float32)
    if not np.array_equal(np.isfinite(array), np.isfinite(rounded)):
        return False
    if scale:
        return bool((np.abs(rounded - array) <= MOST_ROUNDED * np.abs(array)).all())
    return array.size > 1 or bool((rounded != 0) == (array != 0))


def _write(graph: ir.Graph, halved: Mapping[ir.Node, Places], to: Precision) -> None:
    dtype = DTYPES[to]
    made = {
        node.outputs[number]
        for node, places in halved.items()
        for number in places.makes
        if node.op_type != "QuantizeLinear"
    }
    _cast_operands(graph, halved, made, to)
    for value in made:
        wanting = [
            use
            for use in value.uses()
            if use.node not in halved or use.idx not in halved[use.node].reads
        ]
        value.type = ir.TensorType(dtype)
        if wanting or value.is_graph_output():
            _cast_back(graph, value, wanting, to)


def _cast_operands(
    graph: ir.Graph, halved: Mapping[ir.Node, Places], made: Collection[ir.Value], to: Precision
) -> None:
    """Operands that no halved node makes: constants rewritten, others cast, each of them once."""
    dtype = DTYPES[to]
    there: dict[ir.Value, ir.Value] = {}
    for node, places in halved.items():
        for number in places.reads:
            value = node.inputs[number]
            assert value is not None
            if value in made:
                continue
            if value not in there:
                name = f"{value.name}_{to}"
                fixed = value.const_value if not value.is_graph_input() else None
                there[value] = (
                    _cast(graph, value, dtype, name)
                    if fixed is None
                    else constant(graph, name, fixed.numpy().astype(dtype.numpy()))
                )
            node.replace_input_with(number, there[value])


def _cast_back(graph: ir.Graph, value: ir.Value, wanting: Sequence[Any], to: Precision) -> None:
    """A value in half precision as float32 for who wants it so, and as the graph's output."""
    name, output = value.name or "", value.is_graph_output()
    if output:
        value.name = f"{name}_{to}"
    back = _cast(graph, value, ir.DataType.FLOAT, name if output else f"{name}_float32")
    for use in wanting:
        use.node.replace_input_with(use.idx, back)
    for number, one in enumerate(graph.outputs):
        if one is value:
            graph.outputs[number] = back


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{name}_cast")
    cast = node.outputs[0]
    cast.name, cast.shape, cast.type = name, value.shape, ir.TensorType(dtype)
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [node])
    else:
        graph.insert_after(producer, [node])
    return cast

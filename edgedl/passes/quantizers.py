"""The quantizers of any QDQ, QOperator or dynamic graph, found and taken out of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common

from edgedl.passes.graph import constant, drop_unused_initializers
from edgedl.passes.qoperators import PAIR, expand_integer_operators

Kind = Literal["activation", "weight", "bias"]
INTEGERS = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2", "int16", "uint16"})
FOLLOWS = frozenset({"Relu", "Clip", "LeakyRelu", "Identity"})
PLACEHOLDER = "edgedl_switch_"
WEIGHT = "edgedl_weight_"


@dataclass(frozen=True, eq=False)
class Grid:
    """Codes `least` to `most`; real value = (code - zero) * scale.

    `scale` and `zero` are scalars, or one value a channel along `axis`.
    """

    scale: np.ndarray
    zero: np.ndarray
    least: int
    most: int
    axis: int | None = None

    @property
    def low(self) -> float:
        """The least value that it holds, over all channels."""
        return float(np.min((self.least - self.zero.astype(np.float64)) * self.scale))

    @property
    def high(self) -> float:
        """The largest value that it holds, over all channels."""
        return float(np.max((self.most - self.zero.astype(np.float64)) * self.scale))


@dataclass(frozen=True, eq=False)
class Found:
    """One quantizer.

    Attributes:
        kind: what it rounds; a bias is an int32 constant.
        tensor: the float tensor that it rounds; a weight's own name.
        node: the operator that it counts to: what makes an activation, what reads a weight; the
            tensor itself where nothing makes it.
        operator: that operator's type, `input` for a model's input.
        readers: the operators that read it, as (name, type).
        grid: None where the scale is computed in each call.
        dtype: of the codes.
        stored: the name of the constant that stands for a weight in the graph.
        value: what the weight's codes say, float32; None for activations.
    """

    kind: Kind
    tensor: str
    node: str
    operator: str
    readers: tuple[tuple[str, str], ...]
    grid: Grid | None
    dtype: str
    stored: str = ""
    value: np.ndarray | None = None


@dataclass(eq=False)
class Constants:
    """Constants that are computed from codes: their values, and the grid of the codes."""

    arrays: dict[ir.Value, np.ndarray] = field(default_factory=dict)
    coded: dict[ir.Value, tuple[str, str, Grid | None]] = field(default_factory=dict)

    def get(self, value: ir.Value | None) -> np.ndarray | None:
        if value is None:
            return None
        if value in self.arrays:
            return self.arrays[value]
        if value.const_value is None or value.is_graph_input():
            return None
        return np.asarray(value.const_value.numpy())


def take_out(graph: ir.Model) -> tuple[list[Found], tuple[str, ...]]:
    """The graph's quantizers, in graph order; in place, the graph then computes in float.

    An activation's quantizer leaves an Identity `edgedl_switch_<i>` behind, a weight's a constant
    with the value that its codes stand for.

    Returns:
        The quantizers, and the operators that could not be taken apart.
    """
    left = expand_integer_operators(graph) + tuple(
        f"`{node.name}` ({node.op_type})"
        for body in graph.graph.subgraphs()
        for node in body
        if node.op_type in PAIR
    )
    _tables(graph.graph)
    weights = _take_weights(graph.graph)
    activations = _take_activations(graph.graph)
    common.RemoveUnusedNodesPass()(graph)
    common.TopologicalSortPass()(graph)
    drop_unused_initializers(graph)
    alive = {node.name for node in graph.graph} | set(graph.graph.initializers)
    found = [f for f in activations if f.stored in alive]
    found += [f for f in weights if f.stored in alive]
    places = {node.name: i for i, node in enumerate(graph.graph)}
    where = {f: places.get(f.stored if f.kind == "activation" else f.node, -1) for f in found}
    return sorted(found, key=where.__getitem__), left


def _tables(graph: ir.Graph) -> None:
    """Rows of codes looked up in a table and then dequantized: the table is dequantized instead."""
    for node in list(graph):
        source = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
        if node.op_type != "DequantizeLinear" or source is None or source.op_type != "Gather":
            continue
        table = source.inputs[0]
        if (
            table is None
            or table.const_value is None
            or ("axis" in source.attributes and source.attributes["axis"].as_int())
        ):
            continue
        scale = node.inputs[1]
        many = scale is not None and scale.const_value is not None and scale.const_value.size > 1
        attributes = {"axis": len(table.shape or ()) - 1} if many else {}
        real = ir.node(
            "DequantizeLinear", [table, *node.inputs[1:]], attributes, name=f"{node.name}_table"
        )
        real.outputs[0].name = f"{node.name}_table"
        rows = ir.node("Gather", [real.outputs[0], source.inputs[1]], name=source.name)
        name, old = node.outputs[0].name, node.outputs[0]
        rows.outputs[0].type, rows.outputs[0].shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [real, rows], [old], [rows.outputs[0]]
        )
        rows.outputs[0].name = name


def _take_weights(graph: ir.Graph) -> list[Found]:
    known = Constants()
    for node in graph:
        _evaluate(node, known)
    found: list[Found] = []
    for value, (tensor, dtype, grid) in list(known.coded.items()):
        array = known.arrays[value]
        uses = [use for use in value.uses() if use.node.outputs[0] not in known.arrays]
        if array.dtype.kind != "f" or (not uses and not value.is_graph_output()):
            continue
        made = constant(graph, f"{WEIGHT}{len(found)}", np.asarray(array, np.float32))
        readers = tuple((use.node.name or "", use.node.op_type) for use in uses)
        for use in uses:
            use.node.replace_input_with(use.idx, made)
        name, operator = readers[0] if readers else (tensor, "constant")
        kind: Kind = "bias" if dtype == "int32" else "weight"
        found.append(
            Found(kind, tensor, name, operator, readers, grid, dtype, made.name or "", array)
        )
    return found


def _evaluate(node: ir.Node, known: Constants) -> None:
    """Compute a node whose operands are constants of which one is made from codes."""
    operands = [known.get(value) for value in node.inputs]
    if not operands or any(
        a is None and v is not None for a, v in zip(operands, node.inputs, strict=True)
    ):
        return
    first, output = node.inputs[0], node.outputs[0]
    assert first is not None
    assert operands[0] is not None
    tensor = first.name or ""
    if node.op_type == "DequantizeLinear" and operands[1] is not None:
        if "block_size" in node.attributes:
            return
        grid = _grid(node, operands[0].dtype.name, operands[1], (*operands[2:], None)[0])
        known.arrays[output] = dequantized(operands[0], grid)
        known.coded[output] = (tensor, operands[0].dtype.name, grid)
        return
    if node.op_type == "QuantizeLinear" and operands[1] is not None and len(operands) > 2:
        assert operands[2] is not None
        grid = _grid(node, operands[2].dtype.name, operands[1], operands[2])
        known.arrays[output] = codes_of(operands[0], grid).astype(operands[2].dtype)
        return
    taint = next((known.coded[v] for v in node.inputs if v in known.coded), None)
    if taint is None and node.op_type == "Cast" and operands[0].dtype.name in INTEGERS:
        taint = (tensor, operands[0].dtype.name, None)
    if taint is None:
        return
    array = _computed(node, [a for a in operands if a is not None])
    if array is None:
        return
    name, dtype, old = taint
    if old is None and node.op_type == "Mul" and len(operands) == 2 and operands[1] is not None:
        limits = np.iinfo(dtype) if dtype in ("int8", "uint8", "int16", "uint16") else None
        scale = next(a for a, v in zip(operands, node.inputs, strict=True) if v not in known.coded)
        assert scale is not None
        shape = [size for size in scale.shape if size > 1]
        axis = next((i for i, size in enumerate(scale.shape) if size > 1), None)
        if limits is not None and len(shape) <= 1:
            axis = None if axis is None else array.ndim - scale.ndim + axis
            flat = scale.reshape(-1) if shape else scale.reshape(())
            old = Grid(flat, np.zeros(flat.shape, np.int64), limits.min, limits.max, axis)
    known.arrays[output] = array
    known.coded[output] = (name, dtype, old)


def _computed(node: ir.Node, operands: list[np.ndarray]) -> np.ndarray | None:
    kind = node.op_type
    if kind == "Cast":
        to = ir.DataType(node.attributes["to"].as_int())
        return np.asarray(operands[0].astype(to.numpy()))
    if kind in ("Mul", "Sub", "Add", "Div"):
        numpy = {"Mul": np.multiply, "Sub": np.subtract, "Add": np.add, "Div": np.divide}[kind]
        return np.asarray(numpy(*operands), operands[0].dtype)
    if kind == "Identity":
        return operands[0]
    if kind == "Transpose":
        order = node.attributes.get_ints("perm", None)
        return np.ascontiguousarray(operands[0].transpose(order))
    if kind == "Reshape":
        return operands[0].reshape([int(size) for size in operands[1]])
    return None


def _grid(node: ir.Node, dtype: str, scale: np.ndarray, zero: np.ndarray | None) -> Grid:
    least, most = limits_of(dtype)
    many = scale.size > 1
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    flat, flat_zero = (scale.reshape(-1), zeros.reshape(-1)) if many else (
        scale.reshape(()), zeros.reshape(-1)[:1].reshape(()))  # fmt: skip
    axis = node.attributes.get_int("axis", 1) if many else None
    return Grid(flat.astype(np.float32), flat_zero, least, most, axis)


def limits_of(dtype: str) -> tuple[int, int]:
    """The least and the largest code of an integer type."""
    if dtype in ("int4", "uint4", "int2", "uint2"):
        bits = int(dtype[-1])
        return (0, (1 << bits) - 1) if dtype[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def spread_along(values: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """Values of channels in a shape that broadcasts against a tensor of this rank."""
    if axis is None or not values.ndim:
        return values
    return values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def dequantized(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """What codes stand for, float32."""
    scale = spread_along(grid.scale, grid.axis, codes.ndim)
    zero = spread_along(grid.zero, grid.axis, codes.ndim)
    return np.asarray((codes.astype(np.float64) - zero) * scale, np.float32)


def codes_of(values: np.ndarray, grid: Grid) -> np.ndarray:
    """The codes of float values in their shape, rounded half to even, whole numbers that are still
    floats."""
    scale = spread_along(grid.scale, grid.axis, values.ndim)
    zero = spread_along(grid.zero, grid.axis, values.ndim)
    return np.asarray(np.clip(np.rint(values / scale) + zero, grid.least, grid.most))


def _take_activations(graph: ir.Graph) -> list[Found]:
    found: list[Found] = []
    known: dict[tuple[object, ...], ir.Node] = {}
    for node in list(graph):
        if node.op_type not in ("QuantizeLinear", "DynamicQuantizeLinear"):
            continue
        source = node.inputs[0]
        grid = None
        dtype = "uint8"
        if source is None:
            continue
        if node.op_type == "QuantizeLinear":
            scale = node.inputs[1]
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            if scale is None or scale.const_value is None:
                continue
            zeros = zero.const_value.numpy() if zero is not None and zero.const_value else None
            dtype = "uint8" if zeros is None else zeros.dtype.name
            grid = _grid(node, dtype, scale.const_value.numpy(), zeros)
        key = (source, dtype, None if grid is None else (grid.scale.tobytes(), grid.zero.tobytes()))
        if key not in known:
            name = f"{PLACEHOLDER}{len(found)}"
            kept = ir.node("Identity", [source], name=name)
            kept.outputs[0].name = name
            kept.outputs[0].shape = source.shape
            kept.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            graph.insert_before(node, [kept])
            known[key] = kept
            found.append(Found("activation", source.name or "", "", "", (), grid, dtype, name))
        made = known[key].outputs[0]
        old = node.outputs[0]
        _float_behind(old)
        ir.convenience.replace_all_uses_with(old, made, replace_graph_outputs=True)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None:
            source, old = node.inputs[0], node.outputs[0]
            if source.const_value is None:
                _bypass(graph, node, source, old)
    named = {f.stored: f for f in found}
    return [
        _with_readers(named[kept.name or ""], kept) for kept in known.values() if kept.name in named
    ]


def _bypass(graph: ir.Graph, node: ir.Node, source: ir.Value, old: ir.Value) -> None:
    if old.is_graph_output():
        name = old.name
        same = ir.node("Identity", [source], name=node.name)
        same.outputs[0].type, same.outputs[0].shape = old.type, old.shape
        ir.convenience.replace_nodes_and_values(
            graph, node, [node], [same], [old], [same.outputs[0]]
        )
        same.outputs[0].name = name
    else:
        ir.convenience.replace_all_uses_with(old, source)


def _float_behind(value: ir.Value) -> None:
    """Operators that moved codes now move floats, up to where they were dequantized."""
    waiting = [value]
    while waiting:
        for use in waiting.pop().uses():
            if use.node.op_type != "DequantizeLinear":
                made = [v for v in use.node.outputs if v.dtype != ir.DataType.FLOAT][:1]
                for one in made:
                    one.type = ir.TensorType(ir.DataType.FLOAT)
                waiting += made


def _owner(value: ir.Value) -> tuple[str, str]:
    """The operator that makes a value, before the activation that engines fuse into it."""
    node = value.producer()
    if node is None:
        return value.name or "", "input"
    while node.op_type in FOLLOWS and node.inputs[0] is not None:
        before = node.inputs[0].producer()
        if before is None or (before.name or "").startswith(PLACEHOLDER):
            break
        node = before
    return node.name or node.outputs[0].name or "", node.op_type


def _with_readers(found: Found, kept: ir.Node) -> Found:
    source = kept.inputs[0]
    assert source is not None
    owner, operator = _owner(source)
    readers = tuple(
        (use.node.name or "", use.node.op_type)
        for use in kept.outputs[0].uses()
        if use.node.op_type != "DequantizeLinear"
    )
    return replace(found, tensor=source.name or "", node=owner, operator=operator, readers=readers)

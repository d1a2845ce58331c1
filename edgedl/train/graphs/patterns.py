"""Operations of a graph that are one layer together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from edgedl.core.program import Operation, Program
from edgedl.train.graphs.node import Constants
from edgedl.train.graphs.probe import Seen
from edgedl.train.operators_base import numbers

ZERO_KEEPING = ("Expand", "Tile", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Slice", "Cast")


@dataclass(frozen=True, eq=False)
class Graph:
    """A program with who makes and who reads each value."""

    program: Program
    constants: Constants
    seen: Seen
    makers: Mapping[str, Operation] = field(init=False)
    readers: Mapping[str, tuple[Operation, ...]] = field(init=False)

    def __post_init__(self) -> None:
        makers = {n: one for one in self.program.operations for n in one.outputs if n}
        readers: dict[str, tuple[Operation, ...]] = {}
        for operation in self.program.operations:
            for name in dict.fromkeys(operation.inputs):
                readers[name] = (*readers.get(name, ()), operation)
        object.__setattr__(self, "makers", makers)
        object.__setattr__(self, "readers", readers)

    def only_reader(self, name: str) -> Operation | None:
        """The one operation that reads a value, where there is one and the value is no output."""
        found = self.readers.get(name, ())
        kept = any(name == tensor.name for tensor in self.program.signature.outputs)
        return found[0] if len(found) == 1 and not kept else None

    def constant_beside(self, operation: Operation, name: str) -> np.ndarray | None:
        """The constant that an operation of two inputs reads beside a value."""
        others = [one for one in operation.inputs if one != name]
        return self.constants.get(others[0]) if len(operation.inputs) == 2 and others else None


def bias_behind(graph: Graph, product: Operation) -> tuple[Operation, np.ndarray] | None:
    """The sum behind a matrix product that adds one number an output, and these numbers."""
    made = product.outputs[0]
    operation = graph.only_reader(made)
    if product.kind != "MatMul" or operation is None or operation.kind != "Add":
        return None
    array, wide = graph.constant_beside(operation, made), graph.seen.shapes[made][-1]
    if array is None or array.dtype.kind != "f" or array.shape[-1:] != (wide,):
        return None
    fits = array.size == wide and array.ndim <= graph.seen.rank(made)
    return (operation, array) if fits else None


@dataclass(frozen=True, eq=False)
class Groups:
    """A norm of groups of channels, written as one of instances between two reshapings.

    Attributes:
        made: the name of what comes out.
        parts: the operations that it stands for.
    """

    source: str
    made: str
    groups: int
    channels: int
    scale: np.ndarray | None
    bias: np.ndarray | None
    parts: tuple[Operation, ...]


def group_norm_at(graph: Graph, operation: Operation) -> Groups | None:
    """The norm of groups around an `InstanceNormalization`."""
    if operation.kind != "InstanceNormalization":
        return None
    before = graph.makers.get(operation.inputs[0])
    after = graph.only_reader(operation.outputs[0])
    if before is None or after is None or before.kind != "Reshape" or after.kind != "Reshape":
        return None
    shapes, source = graph.seen.shapes, before.inputs[0]
    whole, grouped = shapes[source], shapes[before.outputs[0]]
    plain = shapes[after.outputs[0]] == whole and grouped[0] == whole[0] and len(whole) > 2
    scale, bias = (graph.constants.get(name) for name in operation.inputs[1:3])
    if not plain or scale is None or bias is None or whole[1] % grouped[1]:
        return None
    if graph.only_reader(before.outputs[0]) is None or (scale != 1).any() or bias.any():
        return None
    made, parts = after.outputs[0], [before, operation, after]
    factors: dict[str, np.ndarray | None] = {"Mul": None, "Add": None}
    for kind in factors:
        behind = graph.only_reader(made)
        array = None if behind is None else graph.constant_beside(behind, made)
        if behind is None or behind.kind != kind or array is None:
            continue
        spread = (1,) * (len(whole) - array.ndim) + array.shape
        if array.size != whole[1] or spread[1] != whole[1]:
            continue
        factors[kind], made = array.reshape(-1), behind.outputs[0]
        parts.append(behind)
    return Groups(source, made, grouped[1], whole[1], factors["Mul"], factors["Add"], tuple(parts))


def flat_behind(graph: Graph, recurrent: Operation) -> tuple[str, tuple[Operation, ...]] | None:
    """What a recurrent operator's outputs are called once directions and hidden values are one
    axis, and the operations that make them so."""
    y = recurrent.outputs[0] if recurrent.outputs else ""
    behind = graph.only_reader(y)
    if not y or behind is None:
        return None
    steps, directions, batch, hidden = graph.seen.shapes[y]
    if directions == 1 and behind.kind == "Squeeze":
        given = graph.constants.get(behind.inputs[1]) if len(behind.inputs) > 1 else None
        axes = numbers(behind, "axes", given)  # type: ignore[arg-type]
        return (behind.outputs[0], (behind,)) if axes in ([1], [-3]) else None
    last = graph.only_reader(behind.outputs[0])
    swapped = tuple(behind.attributes.get("perm", ())) == (0, 2, 1, 3)
    if behind.kind != "Transpose" or not swapped or last is None or last.kind != "Reshape":
        return None
    joined = graph.seen.shapes[last.outputs[0]] == (steps, batch, directions * hidden)
    return (last.outputs[0], (behind, last)) if joined else None


def is_zero(graph: Graph, name: str) -> bool:
    """Whether a value is known to be nothing but zeros."""
    if name in graph.constants:
        return not graph.constants[name].any()
    operation = graph.makers.get(name)
    if operation is None:
        return False
    if operation.kind == "ConstantOfShape":
        value = operation.attributes.get("value")
        return value is None or not np.asarray(value).any()
    return operation.kind in ZERO_KEEPING and is_zero(graph, operation.inputs[0])


def padding_at(graph: Graph, operation: Operation) -> tuple[str, tuple[int, ...]] | None:
    """What is joined with nothing but zeros, as converters from TensorFlow pad, and by how many:
    for torch's `pad`, the last axis first."""
    if operation.kind != "Concat":
        return None
    places = [i for i, n in enumerate(operation.inputs) if n not in graph.constants]
    if len(places) != 1 or len(operation.inputs) > 3:
        return None
    zeros = [n for n in operation.inputs if n in graph.constants]
    shape = graph.seen.shapes[operation.outputs[0]]
    axis = operation.attributes["axis"] % len(shape)
    if not zeros or axis == 0 or not all(is_zero(graph, name) for name in zeros):
        return None
    counts = [graph.seen.shapes[name][axis] for name in operation.inputs]
    before, after = sum(counts[: places[0]]), sum(counts[places[0] + 1 :])
    return operation.inputs[places[0]], (0, 0) * (len(shape) - 1 - axis) + (before, after)


def behind(graph: Graph, name: str, through: frozenset[str]) -> Iterator[Operation]:
    """The operations that read a value, and those behind them through some kinds of operators."""
    for operation in graph.readers.get(name, ()):
        yield operation
        if operation.kind in through:
            for made in operation.outputs:
                yield from behind(graph, made, through)


def taken_apart(graph: Graph, name: str, axis: int) -> bool:
    """Whether the places along an axis of a value go different ways, each by its number."""
    return any(_takes(graph, one, name, axis) for one in graph.readers.get(name, ()))


def _takes(graph: Graph, operation: Operation, name: str, axis: int) -> bool:
    shapes, get, made = graph.seen.shapes, operation.attributes.get, operation.outputs[0]
    if operation.inputs[0] != name or made not in shapes:
        return False
    rank, kind = len(shapes[name]), operation.kind
    if kind == "Transpose":
        order = list(get("perm") or reversed(range(rank)))
        return taken_apart(graph, made, order.index(axis))
    if kind in ("Unsqueeze", "Squeeze"):
        given = graph.constants.get(operation.inputs[1]) if len(operation.inputs) > 1 else None
        axes = numbers(operation, "axes", given)  # type: ignore[arg-type]
        if kind == "Squeeze":
            ones = [i for i, size in enumerate(shapes[name]) if size == 1]
            gone = ones if axes is None else [one % rank for one in axes]
            return taken_apart(graph, made, axis - sum(one < axis for one in gone))
        new = sorted(one % len(shapes[made]) for one in axes or ())
        left = [i for i in range(len(shapes[made])) if i not in new]
        return taken_apart(graph, made, left[axis])
    if kind == "Gather":
        indices = shapes.get(operation.inputs[1], ())
        return bool(get("axis", 0) % rank == axis and all(size == 1 for size in indices))
    if kind == "Split":
        return bool(get("axis", 0) % rank == axis and shapes[made][axis] == 1)
    return kind == "Slice" and shapes[made][axis] == 1 < shapes[name][axis]

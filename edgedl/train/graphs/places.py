"""Where the batch stands in the values of a graph that was written for one sample.

Attention as torch has it puts the batch behind the steps, and makes it one axis with steps or with
heads: `[steps, batch * heads, each]`. With one sample the sizes that a file names do not tell
which, and what stands before and behind does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from edgedl.core.program import Operation, Program
from edgedl.train.operators_base import numbers

# An axis, and how many values of it are slower than the batch: 1 where the batch is the slowest.
Place = tuple[int, int]
Shapes = Mapping[str, tuple[int, ...]]
RESHAPING = ("Reshape", "Flatten")
RECURRENT: Mapping[str, tuple[Place, ...]] = {
    "LSTM": ((2, 1), (1, 1), (1, 1)),
    "GRU": ((2, 1), (1, 1)),
}
# What has no batch however it is made of what has.
SIZES = ("Shape", "Size")


def places_of(program: Program, shapes: Shapes) -> dict[str, Place]:
    """Where the batch stands in each value that has one, as far as it can be followed.

    Args:
        shapes: of all values, for one sample.
    """
    found: dict[str, Place] = {
        tensor.name: (0, 1) for tensor in program.signature.inputs if shapes.get(tensor.name)
    }
    for operation in program.operations:
        if operation.kind in SIZES or not any(name in found for name in operation.inputs):
            continue
        for i, name in enumerate(operation.outputs):
            place = _place(operation, i, program, shapes, found) if name in shapes else None
            if place is not None and place[0] < len(shapes[name]):
                found[name] = place
    return found


def times(shape: Sequence[int], place: Place, batch: int) -> tuple[int, ...]:
    """The shape of a value for so many samples, of that for one."""
    return tuple(size * batch if i == place[0] else size for i, size in enumerate(shape))


def _place(
    operation: Operation, output: int, program: Program, shapes: Shapes, found: Mapping[str, Place]
) -> Place | None:
    """The place of the batch in what an operation gives; None where it is not known."""
    kind, get = operation.kind, operation.attributes.get
    source, made = operation.inputs[0], shapes[operation.outputs[output]]
    if kind in RECURRENT:
        return RECURRENT[kind][output]
    if kind == "Gather":
        return _gathered(operation, shapes, found)
    if source not in found or kind not in (*RESHAPING, "Transpose", "Squeeze", "Unsqueeze"):
        if kind.startswith("Reduce") and source in found:
            return _reduced(operation, program, shapes[source], made, found[source])
        return _broadcast(operation, shapes, made, found)
    before, place = shapes[source], found[source]
    if kind == "Transpose":
        order = list(get("perm") or reversed(range(len(before))))
        return order.index(place[0]), place[1]
    if kind in ("Squeeze", "Unsqueeze") and (axes := _axes(operation, program)) is not None:
        longer = len(before) if kind == "Squeeze" else len(made)
        moved = {axis % longer for axis in axes}
        stays = [axis for axis in range(longer) if axis not in moved]
        if kind == "Unsqueeze":
            return stays[place[0]], place[1]
        return (stays.index(place[0]), place[1]) if place[0] in stays else None
    return _reshaped(before, made, place)


def _axes(operation: Operation, program: Program) -> list[int] | None:
    given: np.ndarray | None = None
    if len(operation.inputs) > 1:
        given = program.constants.get(operation.inputs[1])
    return numbers(operation, "axes", given)  # type: ignore[arg-type]


def _gathered(operation: Operation, shapes: Shapes, found: Mapping[str, Place]) -> Place | None:
    data, indices = operation.inputs[:2]
    axis = operation.attributes.get("axis", 0) % len(shapes[data])
    if indices in found:
        return axis + found[indices][0], found[indices][1]
    place = found.get(data)
    if place is None or place[0] == axis:
        return None
    return place[0] + (len(shapes[indices]) - 1 if place[0] > axis else 0), place[1]


def _reduced(
    operation: Operation, program: Program, before: Sequence[int], made: Sequence[int], place: Place
) -> Place | None:
    axes = _axes(operation, program)
    gone = set(range(len(before))) if axes is None else {axis % len(before) for axis in axes}
    if place[0] in gone:
        return None
    fewer = 0 if len(made) == len(before) else sum(axis < place[0] for axis in gone)
    return place[0] - fewer, place[1]


def _broadcast(
    operation: Operation, shapes: Shapes, made: Sequence[int], found: Mapping[str, Place]
) -> Place | None:
    """Of what keeps axes where they are, counted from the last."""
    for name in operation.inputs:
        if name in found:
            axis, slower = found[name]
            moved = axis + len(made) - len(shapes[name])
            return (moved, slower) if moved >= 0 else None
    return None


def _reshaped(before: Sequence[int], after: Sequence[int], place: Place) -> Place | None:
    """Behind a reshaping: an axis of its own where there is one; else the axis behind where that is
    part of what it was, as heads are of channels, and the axis before where it stays whole."""
    axis, slower = place
    ahead = prod(before[:axis]) * slower
    firsts = [prod(after[:i]) for i in range(len(after))]
    for i, size in enumerate(after):
        if size == 1 and firsts[i] == ahead:
            return i, 1
    inside = before[axis] // slower
    beside = inside if inside > 1 else next((n for n in before[axis + 1 :] if n > 1), 1)
    starts = next((i for i, n in enumerate(after) if firsts[i] == ahead and n > 1), None)
    ends = next((i for i, n in enumerate(after) if firsts[i] * n == ahead and n > 1), None)
    if starts is not None and (ends is None or after[starts] < beside):
        return starts, 1
    if ends is not None:
        return ends, after[ends]
    for i, n in enumerate(after):
        if firsts[i] < ahead < firsts[i] * n and ahead % firsts[i] == 0:
            return i, ahead // firsts[i]
    return None

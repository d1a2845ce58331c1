"""A grid of widths for layers that are alike but for these, and what lies between its points."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import lcm

from edgedl.core.layers import LayerShape

# Points along each axis, every level with all those of the one before.
LEVELS = (2, 3, 5)
KERNELS_LIKE = (32, 16, 8, 4)
# onnxruntime and OpenVINO take up to twice as long for other widths than multiples of 4.
EVEN = 4


def family_of(shape: LayerShape) -> LayerShape:
    """The same for all layers that differ in their widths alone.

    It is itself the narrowest of them: one channel for every group, and for a depthwise layer one
    input with as many outputs as it makes of each.
    """
    if shape.is_depthwise:
        return replace(shape, inputs=1, outputs=shape.outputs // shape.inputs, groups=0)
    return replace(shape, inputs=shape.groups, outputs=shape.groups)


@dataclass(frozen=True)
class Grid:
    """Widths of layers of one family, every one along `inputs` with every one along `outputs`; of
    depthwise layers, whose outputs follow from their inputs, along `inputs` alone."""

    family: LayerShape
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def around(cls, shapes: Sequence[LayerShape]) -> Grid:
        """The finest grid from the least to the largest widths of these, all of one family."""
        family = family_of(shapes[0])
        unit = family.groups or 1
        inputs = ticks({s.inputs for s in shapes}, unit)
        if not family.groups:
            return cls(family, inputs, ())
        return cls(family, inputs, ticks({s.outputs for s in shapes}, unit))

    def level(self, count: int) -> Grid:
        """The grid of so many points along each axis, 2, 3 or 5, its ends among them."""
        return replace(
            self, inputs=thinned(self.inputs, count), outputs=thinned(self.outputs, count)
        )

    def shape(self, inputs: int, outputs: int) -> LayerShape:
        """The layer of the family with these widths."""
        if not self.family.groups:
            outputs = inputs * self.family.outputs
            return replace(self.family, inputs=inputs, outputs=outputs, groups=inputs)
        return replace(self.family, inputs=inputs, outputs=outputs)

    @property
    def points(self) -> list[LayerShape]:
        """Every layer of the grid, and for each axis one beside it of an uneven width."""
        grid = [self.shape(i, o) for i, o in product(self.inputs, self.outputs or (0,))]
        return [*grid, *(one for one in (self._uneven(axis) for axis in (0, 1)) if one is not None)]

    def holds(self, shape: LayerShape) -> bool:
        """Whether a layer of the family lies within the grid."""
        axes = zip((self.inputs, self.outputs), (shape.inputs, shape.outputs), strict=True)
        return all(not axis or axis[0] <= width <= axis[-1] for axis, width in axes)

    def between(self, shape: LayerShape, price: Callable[[LayerShape], float]) -> float:
        """What a layer within the grid costs: linear along each axis between its neighbours, and
        for a width that is no multiple of 4 as many times that as for the one that was timed."""
        us = self._linear(shape, price)
        for axis, width in enumerate((shape.inputs, shape.outputs)):
            uneven = self._uneven(axis)
            if uneven is not None and width % EVEN:
                us *= max(1.0, price(uneven) / self._linear(uneven, price))
        return us

    def _linear(self, shape: LayerShape, price: Callable[[LayerShape], float]) -> float:
        along_in = _weights(self.inputs, shape.inputs)
        along_out = _weights(self.outputs, shape.outputs) if self.outputs else [(0, 1.0)]
        return sum(
            left * right * price(self.shape(i, o)) for i, left in along_in for o, right in along_out
        )

    def _uneven(self, axis: int) -> LayerShape | None:
        """A layer whose width along one axis alone is no multiple of 4, in the midst of the grid;
        None where the axis has one point, or its points are uneven as well."""
        widths, unit = (self.inputs, self.outputs)[axis], self.family.groups or 1
        if len(widths) < 2 or any(width % EVEN for width in widths):
            return None
        middle = [
            along[(len(along) - 1) // 2] if along else 0 for along in (self.inputs, self.outputs)
        ]
        middle[axis] += unit
        return self.shape(*middle) if middle[axis] % EVEN else None


def ticks(widths: Iterable[int], unit: int = 1) -> tuple[int, ...]:
    """Five widths at most around all of these, evenly spread, those within on multiples of 32, 16,
    8 or 4, whichever is the largest that their distance allows, and the ends on multiples of 4
    where there is more than one width.

    Args:
        unit: all are multiples of it.
    """
    low, high = min(widths := set(widths)), max(widths)
    if low == high:
        return (low,)
    even = lcm(EVEN, unit)
    low, high = max(low // even * even, min(low, even)), -(-high // even) * even
    step = (high - low) / 4
    whole = next((k for k in KERNELS_LIKE if k % unit == 0 and 2 * k <= step), even)
    found = [low, *(round((low + i * step) / whole) * whole for i in (1, 2, 3)), high]
    return tuple(sorted({w for w in found if low <= w <= high}))


def thinned(axis: tuple[int, ...], count: int) -> tuple[int, ...]:
    """So many points of an axis, its ends first, then its middle; all where there are fewer."""
    if count >= len(axis):
        return axis
    last = len(axis) - 1
    return tuple(axis[i] for i in sorted({0, last} if count == 2 else {0, last // 2, last}))


def _weights(axis: tuple[int, ...], width: int) -> list[tuple[int, float]]:
    """The neighbours of a width on an axis, and how much each of them counts."""
    if width in axis:
        return [(width, 1.0)]
    right = min(max(bisect_right(axis, width), 1), len(axis) - 1)
    low, high = axis[right - 1], axis[right]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]

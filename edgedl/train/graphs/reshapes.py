"""Reshaping that holds for other widths and batches than those that a file was written for.

A `Reshape` of a file names sizes: `[1, 1280]`. What it means is seen from a tensor's shape before
and behind it: which axes become one, which one becomes several, and which stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Axes that become others of the same product.

    Attributes:
        axes: of the tensor before.
        sizes: of the axes behind.
        open: which of these has the size that is left over, whatever the widths are.
        many: which of them goes by the batch beside it, and how many of it a sample is.
    """

    axes: tuple[int, ...]
    sizes: tuple[int, ...]
    open: int
    many: tuple[int, int] | None = None

    @property
    def splits(self) -> bool:
        """Whether channels become several axes of more than one."""
        return sum(size > 1 for size in self.sizes) > 1


@dataclass(frozen=True)
class Reshaped:
    """A reshaping by the parts of a tensor's axes."""

    parts: tuple[Part, ...]

    @property
    def by_batch(self) -> bool:
        """Whether it has to be told the batch: it stands in an axis with others, and these may
        change."""
        return any(part.many is not None for part in self.parts)

    def __call__(self, x: Tensor, fed: Tensor | None = None) -> Tensor:
        """The tensor reshaped.

        Args:
            fed: what the network was given, whose first axis is the batch, where it has to be told.
        """
        sizes = [_known(one) for one in self.sizes(x.shape, None if fed is None else fed.shape[0])]
        # One size that is not known while a network is traced is left to torch.
        loose = next((i for i, size in enumerate(sizes) if not isinstance(size, int)), None)
        if loose is not None:
            sizes[loose] = -1
        return x.reshape(sizes)

    def sizes(self, shape: Sequence[int], batch: int | None = None) -> list[int]:
        """The shape behind, of one before."""
        sizes: list[int] = []
        for part in self.parts:
            own = list(part.sizes)
            if part.many is not None and batch is not None:
                place, each = part.many
                own[place] = each * batch
            whole = prod((shape[axis] for axis in part.axes), start=1)
            fixed = prod(size for i, size in enumerate(own) if i != part.open)
            left = whole if isinstance(fixed, int) and fixed == 1 else whole // fixed
            sizes += [left if i == part.open else size for i, size in enumerate(own)]
        return sizes

    def opened(self, part: Part, place: int) -> Reshaped:
        """The same with another size of one part left open."""
        new = replace(part, open=place)
        return Reshaped(tuple(new if one is part else one for one in self.parts))


def _known(size: Any) -> Any:
    """A size as an integer, where it is one and torch has only not said so."""
    node = getattr(size, "node", None)
    value = None if node is None else node.maybe_as_int()
    return size if value is None else int(value)


def reshaped(
    before: Sequence[int],
    after: Sequence[int],
    fewer: tuple[Sequence[int], Sequence[int]] | None = None,
    batch: int = 1,
) -> Reshaped | None:
    """What turns one shape into the other; None where only these very sizes fit.

    Args:
        fewer: both shapes for another number of samples: sizes that are others there are open. Else
            the batch is taken to be the first axis.
        batch: how many samples both shapes are for.
    """
    pairs = _pairs(before, after)
    if pairs is None:
        return None
    parts, first = [], 0
    for axes, count in pairs:
        sizes = tuple(after[first : first + count])
        last = bool(axes) and axes[-1] == len(before) - 1
        many = None
        if fewer is None:
            open_ = _open(sizes, first == 0, last)
        else:
            moved = [i for i, size in enumerate(sizes) if size != fewer[1][first + i]]
            open_ = moved[0] if moved else _open(sizes, False, last)
            splits = last and sizes[-1] < before[-1]
            if moved and not splits:
                open_, many = _beside(sizes, moved[0], batch)
        parts.append(Part(axes, sizes, open_, many))
        first += count
    found = Reshaped(tuple(parts))
    fits = fewer is None or found.sizes(fewer[0], batch - 1) == list(fewer[1])
    return found if fits else None


def _pairs(before: Sequence[int], after: Sequence[int]) -> list[tuple[tuple[int, ...], int]] | None:
    """Axes before and how many behind, of the same product, in parts as small as can be."""
    pairs: list[tuple[tuple[int, ...], int]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        start, into, left, right = i, 1, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif right < left and j < len(after):
                right, j, into = right * after[j], j + 1, into + 1
            else:
                return None
        pairs.append((tuple(range(start, i)), into))
    if not pairs:
        return [((), len(after))] if not before else [(tuple(range(len(before))), 0)]
    # What is left over on either side are axes of one element.
    axes, into = pairs[-1]
    pairs[-1] = ((*axes, *range(i, len(before))), into + len(after) - j)
    return pairs


def _beside(sizes: Sequence[int], moved: int, batch: int) -> tuple[int, tuple[int, int] | None]:
    """Which size is open beside that of the batch, such as the number of heads or their channels,
    and how the batch's goes; that itself where there is no other."""
    wide = [i for i, size in enumerate(sizes) if size > 1 and i != moved]
    if not wide or sizes[moved] % batch:
        return moved, None
    return wide[-1], (moved, sizes[moved] // batch)


def _open(sizes: Sequence[int], first: bool, last: bool) -> int:
    """Which of the sizes is open: of the first the batch, of channels behind all others the heads
    of attention, of channels before others those within groups."""
    wide = [i for i, size in enumerate(sizes) if size > 1]
    if first or not wide:
        return 0 if sizes else -1
    return wide[0] if last else wide[-1]

"""Labels of channels along the axes of tensors, and what reshaping and joining does to them.

Each place along an axis has a number, its atom; atoms that can only be cut together are tied.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# The atom of places that are never cut: batch, height, steps, and what nothing is known of.
FIXED = 0
Labels = tuple[np.ndarray, ...]


class Atoms:
    """Sets of atoms that stand or fall together (union-find), and why some of them stand.

    Attributes:
        frozen: by the first atom of a set, why it cannot be cut.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1, np.int64)
        self._held = np.zeros(1, bool)
        self._stands = np.zeros(1, bool)
        self._count = 1
        self.frozen: dict[int, str] = {}

    def __len__(self) -> int:
        return self._count

    def fresh(self, count: int, *, held: bool) -> np.ndarray:
        """So many new atoms, each a set of its own; `held`: a tensor of the network has them."""
        start, self._count = self._count, self._count + count
        while self._count > len(self._parent):
            more = len(self._parent)
            self._parent = np.concatenate([self._parent, np.arange(more, 2 * more)])
            self._held = np.concatenate([self._held, np.zeros(more, bool)])
            self._stands = np.concatenate([self._stands, np.zeros(more, bool)])
        made = np.arange(start, self._count)
        self._held[made] = held
        return made

    def roots(self, atoms: np.ndarray) -> np.ndarray:
        """The first atom of each one's set."""
        above = self._parent[atoms]
        while True:
            next_ = self._parent[above]
            if np.array_equal(next_, above):
                self._parent[atoms] = above
                found: np.ndarray = above
                return found
            above = next_

    def live(self, atoms: np.ndarray) -> np.ndarray:
        """Which of them can be cut, as far as is known."""
        roots = self.roots(atoms)
        held: np.ndarray = (roots != FIXED) & self._held[roots] & ~self._stands[roots]
        return held

    def freeze(self, atoms: np.ndarray, why: str) -> None:
        """Keeps them."""
        roots = self.roots(atoms)
        for root in roots[(roots != FIXED) & ~self._stands[roots]].tolist():
            self._stands[root] = True
            self.frozen.setdefault(root, why)

    def tie(self, one: np.ndarray, other: np.ndarray, why: str) -> np.ndarray:
        """Ties atoms pair by pair, and gives what stands for both; what meets one that is fixed
        becomes so, for this reason."""
        left, right = self.roots(one), self.roots(other)
        if np.array_equal(left, right):
            return left
        self.freeze(left[right == FIXED], why)
        self.freeze(right[left == FIXED], why)
        for pair in np.flatnonzero((left != right) & (left != FIXED) & (right != FIXED)):
            self._join(int(left[pair]), int(right[pair]))
        return self.roots(np.where(left == FIXED, right, left))

    def tie_rows(self, table: np.ndarray, why: str) -> np.ndarray:
        """Ties all atoms of each row, [rows, columns], and gives one for each row."""
        first = table[:, 0]
        for column in range(1, table.shape[1]):
            first = self.tie(first, table[:, column], why)
        return self.roots(first)

    def _join(self, one: int, other: int) -> None:
        one, other = self._root(one), self._root(other)
        if one == other:
            return
        low, high = min(one, other), max(one, other)
        self._parent[high] = low
        self._held[low] |= self._held[high]
        if self._stands[high]:
            self._stands[low] = True
            self.frozen.setdefault(low, self.frozen.pop(high))

    def _root(self, atom: int) -> int:
        while (above := int(self._parent[atom])) != atom:
            atom = above
        return atom


def reshaped(
    atoms: Atoms,
    labels: Labels,
    shape: Sequence[int],
    wanted: Sequence[int],
    why: str,
    *,
    skip: int = 0,
) -> Labels:
    """The labels of a tensor that is given another shape.

    What merges with places that are fixed keeps its labels, each as often as there are of them; an
    axis that is split is cut along the first of its parts alone, as attention is by heads.

    Args:
        skip: how many parts are passed over, which are of more than one: those that are taken apart
            behind, as queries, keys and values that one layer makes.
    """
    made: list[np.ndarray] = []
    for old, new in _segments(shape, wanted):
        inside = [labels[axis] for axis in old]
        sizes = [wanted[axis] for axis in new]
        if len(old) == len(new) == 1:
            made.append(inside[0])
        else:
            flat = _merged(atoms, inside, why)
            made.extend(_split(atoms, flat, sizes, why, skip))
    return tuple(made)


def _segments(
    shape: Sequence[int], wanted: Sequence[int]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of both shapes that hold the same values, in order, each as short as can be."""
    found = []
    i = j = 0
    while i < len(shape) or j < len(wanted):
        one, other = [], []
        left = right = 1
        if i < len(shape) and j < len(wanted):
            one, other, left, right = [i], [j], shape[i], wanted[j]
            i, j = i + 1, j + 1
        while left != right or not (one or other):
            if (left <= right and i < len(shape)) or j >= len(wanted):
                one.append(i)
                left *= shape[i]
                i += 1
            else:
                other.append(j)
                right *= wanted[j]
                j += 1
        # Ones that follow belong to whatever comes last, so that a segment has a side of each kind.
        found.append((tuple(one), tuple(other)))
    return found


def _merged(atoms: Atoms, axes: Sequence[np.ndarray], why: str) -> np.ndarray:
    """One label for each value of several axes, the first slowest: that of the axis that can be
    cut."""
    sizes = tuple(len(axis) for axis in axes)
    able = [place for place, axis in enumerate(axes) if atoms.live(axis).any()]
    if len(able) != 1:
        for place in able:
            atoms.freeze(axes[place], why)
        return np.full(int(np.prod(sizes, dtype=np.int64)), FIXED)
    [place] = able
    along = tuple(-1 if axis == place else 1 for axis in range(len(axes)))
    return np.broadcast_to(axes[place].reshape(along), sizes).reshape(-1)


def _split(
    atoms: Atoms, flat: np.ndarray, sizes: Sequence[int], why: str, skip: int
) -> list[np.ndarray]:
    """Labels of each axis that a single one becomes."""
    made = [np.full(size, FIXED) for size in sizes]
    if not sizes or not len(flat):
        atoms.freeze(flat, why)
        return made
    table = atoms.roots(flat).reshape(tuple(sizes))
    if not atoms.live(flat).any():
        atoms.freeze(flat, why)
        return made
    for axis, size in enumerate(sizes):
        rows = np.moveaxis(table, axis, 0).reshape(size, -1)
        if size > 1 and (rows == rows[:, :1]).all():
            made[axis] = rows[:, 0].copy()
            return made
    wide = [axis for axis, size in enumerate(sizes) if size > 1]
    first = wide[min(skip, len(wide) - 1)]
    rows = np.moveaxis(table, first, 0).reshape(sizes[first], -1)
    made[first] = atoms.tie_rows(rows, why)
    return made

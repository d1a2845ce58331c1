"""Where a network's input lies in the picture that it was cut from, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Sides = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """A picture that was resized, and then shifted onto an area of the input's size.

    Points are x and y in pixels, 0 at the left and upper edge, so that the middle of the first
    pixel is at 0.5.

    Attributes:
        picture, resized, area: heights and widths.
        shift: rows and columns by which the resized picture lies below and right of the area's
            corner; below 0 where it is cropped.
    """

    picture: Sides
    resized: Sides
    area: Sides
    shift: Sides

    def points(self, found: np.ndarray) -> np.ndarray:
        """Points of the input, x and y by turns along the last axis, in the picture: float32, as
        near as its edges allow."""
        pairs = found.shape[-1] // 2
        scale = [self.picture[i] / self.resized[i] for i in (1, 0)] * pairs
        shift, most = list(self.shift[::-1]) * pairs, list(self.picture[::-1]) * pairs
        moved = (np.asarray(found, np.float64) - shift) * scale
        return np.asarray(np.clip(moved, 0, most), np.float32)

    def spread(self, found: np.ndarray, outside: int) -> np.ndarray:
        """A map over the input, [height, width] of any size, over the picture: each pixel takes
        the value that its middle lies on, and `outside` where the network saw nothing of it."""
        rows, columns = (self._sources(axis, found.shape[axis]) for axis in (0, 1))
        whole = found[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)]
        whole[rows < 0] = outside
        whole[:, columns < 0] = outside
        return np.asarray(whole)

    def taken(self, whole: np.ndarray, outside: int) -> np.ndarray:
        """A map over the picture, [height, width] of its size, over the input: each pixel takes
        the value that its middle lies on, and `outside` where the input shows no picture."""
        rows, columns = (self._seen(axis) for axis in (0, 1))
        found = whole[np.maximum(rows, 0)[:, None], np.maximum(columns, 0)]
        found[rows < 0] = outside
        found[:, columns < 0] = outside
        return np.asarray(found)

    def _seen(self, axis: int) -> np.ndarray:
        """For each of the input's rows or columns that of the picture, -1 where it has none."""
        twice = 2 * (np.arange(self.area[axis], dtype=np.int64) - self.shift[axis]) + 1
        found = twice * self.picture[axis] // (2 * self.resized[axis])
        return np.where((found >= 0) & (found < self.picture[axis]), found, -1)

    def _sources(self, axis: int, size: int) -> np.ndarray:
        """For each of the picture's rows or columns that of the map, -1 where it has none."""
        middles = np.arange(self.picture[axis]) + 0.5
        places = middles * self.resized[axis] / self.picture[axis] + self.shift[axis]
        found = np.floor(places * size / self.area[axis]).astype(np.int64)
        return np.where((found >= 0) & (found < size), found, -1)

"""Pictures at another size, by numpy alone: the bits that Pillow gives, one side after the other.

Each row is resampled first, then each column: an output pixel is the sum of the input's under a
filter around it (Turkowski, Filters for Common Resampling Tasks, 1990), which widens as the picture
shrinks; weights are whole multiples of 2**-22, and sums are rounded to 8 bits after each pass. So
does Pillow (its documentation, Concepts, Filters), which up to 12 took the rows first, too, and
since 13 begins with the columns where that is less work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

WEIGHT_BITS = 22
CUBIC = -0.5
BLOCK = 1 << 16


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(1 - np.abs(x), 0))


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * CUBIC
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)


FILTERS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "bilinear": (1.0, _triangle),
    "bicubic": (2.0, _cubic),
    "lanczos": (3.0, _lanczos),
}


def resampled(
    pixels: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], interpolation: str
) -> np.ndarray:
    """A window of the pixels at another size.

    Args:
        pixels: uint8 of shape [height, width, channels].
        size: the whole's height and width.
        window: the rows and columns of it that are wanted; both have a beginning and an end.
        interpolation: `nearest`, or one of `FILTERS`.

    Returns:
        uint8 of shape [rows, columns, channels].
    """
    height, width, channels = pixels.shape
    if interpolation == "nearest":
        lines = _nearest(height, size[0])[window[0]]
        return np.asarray(pixels[lines[:, None], _nearest(width, size[1])[window[1]]])
    rows, low = window[0], 0
    if size[0] != height:
        first, weights = (one[rows] for one in _weights(height, size[0], interpolation))
        # only the rows that the second pass looks at
        low = int(first[0])
        rows = slice(low, int(min(height, first[-1] + weights.shape[1])))
    found = pixels[rows]
    tall = len(found)
    if size[1] == width:
        found = found[:, window[1]]
    else:
        begins, shares = (one[window[1]] for one in _weights(width, size[1], interpolation))
        turned = np.ascontiguousarray(found.transpose(1, 0, 2)).reshape(width, -1)
        turned = _summed(turned, begins, shares)
        found = turned.reshape(len(turned), tall, channels).transpose(1, 0, 2)
    if size[0] != height:
        flat = np.ascontiguousarray(found).reshape(tall, -1)
        found = _summed(flat, first - low, weights).reshape(len(first), -1, channels)
    return np.ascontiguousarray(found)


@lru_cache(maxsize=8)
def _weights(given: int, wanted: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """For each output the first input under its filter, int64 of shape [wanted], and the weights
    from there on, int32 of shape [wanted, taps]."""
    reach, shape = FILTERS[interpolation]
    scale = given / wanted
    wide = max(scale, 1.0)
    support = reach * wide
    middles = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((middles - support + 0.5).astype(np.int64), 0)
    behind = np.minimum((middles + support + 0.5).astype(np.int64), given)
    taps = np.arange(int((behind - first).max()))
    places = first[:, None] + taps
    found = shape((places - middles[:, None] + 0.5) * (1.0 / wide))
    found = np.where(places < behind[:, None], found, 0)
    # one after another, as a pairwise sum would round otherwise
    total = np.add.accumulate(found, axis=1)[:, -1:]
    found = found / total * (1 << WEIGHT_BITS)
    return first, np.trunc(found + np.copysign(0.5, found)).astype(np.int32)


def _summed(rows: np.ndarray, first: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of rows, uint8 of shape [outputs, values]."""
    found = np.empty((len(first), rows.shape[1]), np.uint8)
    last = len(rows) - 1
    step = max(1, BLOCK // max(1, rows.shape[1]))
    for top in range(0, len(first), step):
        begins, shares = first[top : top + step], weights[top : top + step]
        total = np.full((len(begins), rows.shape[1]), 1 << (WEIGHT_BITS - 1), np.int32)
        for tap in range(weights.shape[1]):
            some = np.take(rows, np.minimum(begins + tap, last), axis=0)
            total += some * shares[:, tap, None]
        total >>= WEIGHT_BITS
        np.clip(total, 0, 255, out=total)
        found[top : top + step] = total
    return found


def _nearest(given: int, wanted: int) -> np.ndarray:
    """The input under the middle of each output, steps summed one after another."""
    step = given / wanted
    steps = np.full(wanted, step)
    steps[0] = step * 0.5
    return np.minimum(np.add.accumulate(steps).astype(np.int64), given - 1)

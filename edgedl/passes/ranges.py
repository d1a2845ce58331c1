"""Streaming histograms of activations, and the ranges that come out of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Method = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")

OCTAVES = 256
PER_OCTAVE = 128
BINS = OCTAVES * PER_OCTAVE
FLUSH_ELEMENTS = 1 << 13
CHUNK_ELEMENTS = 1 << 16

COARSE = 5

KL_BINS = 2048
KL_LEVELS = 128


# One method for all tensors, or one for each by name.
Methods = Method | Mapping[str, Method]


def method_for(methods: Methods, tensor: str) -> Method:
    """The method of a tensor."""
    return methods[tensor] if isinstance(methods, Mapping) else methods


def usual_method(methods: Methods) -> Method:
    """The method of most tensors."""
    if not isinstance(methods, Mapping):
        return methods
    chosen = list(methods.values())
    return max(METHODS, key=chosen.count)


@dataclass(frozen=True)
class Range:
    """The span of real values that integer codes will cover: `low` <= 0 <= `high`."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))

    @property
    def largest(self) -> float:
        return max(-self.low, self.high)

    def to_json(self) -> list[float]:
        return [self.low, self.high]


class Histogram:
    """Counts of a tensor's values by sign, exponent and the first seven bits of the mantissa.

    The bin of a float32 value is its upper half (its bfloat16, cut off), so that one pass over the
    samples is enough, no range need be known before, the counts of two parts add up to those of
    the whole, and a bin is never wider than 1/128 of its values. Only bins that hold something take
    memory. `low` and `high` are exact.

    Attributes:
        count: values seen.
        low, high: least and largest value seen; 0 before the first.
        not_finite: NaN and infinities seen, counted nowhere else.
        ranges: what `find_range` found in these counts, by its settings.
    """

    def __init__(self) -> None:
        self.count = 0
        self.low = 0.0
        self.high = 0.0
        self.not_finite = 0
        self._codes = np.zeros(0, np.uint16)
        self._counts = np.zeros(0, np.uint32)
        self._pending: list[np.ndarray] = []
        self._pending_elements = 0
        self.ranges: dict[tuple[object, ...], Range] = {}

    def to_array(self) -> np.ndarray:
        """Everything in it as int64, which `from_array` reads."""
        self._flush()
        ends = np.array([self.low, self.high], np.float64).view(np.int64)
        head = np.array([self.count, self.not_finite], np.int64)
        return np.concatenate([head, ends, self._codes, self._counts], dtype=np.int64)

    @classmethod
    def from_array(cls, array: np.ndarray) -> Histogram:
        """The histogram that `to_array` wrote.

        Raises:
            ValueError: it is no such array.
        """
        found = cls()
        found.count, found.not_finite = (int(value) for value in array[:2])
        found.low, found.high = (float(value) for value in array[2:4].copy().view(np.float64))
        codes, counts = array[4:].reshape(2, -1)
        found._codes, found._counts = codes.astype(np.uint16), _narrow(counts)
        return found

    def add(self, values: np.ndarray) -> None:
        """Count the values of an array of any shape; other types are taken as float32."""
        flat = np.ascontiguousarray(values, dtype="<f4").reshape(-1)
        if not flat.size:
            return
        self.ranges.clear()
        low, high = float(flat.min()), float(flat.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = flat[np.isfinite(flat)]
            self.not_finite += flat.size - finite.size
            flat = finite
            if not flat.size:
                return
            low, high = float(flat.min()), float(flat.max())
        seen = self.count > 0
        self.low = min(self.low, low) if seen else low
        self.high = max(self.high, high) if seen else high
        self.count += flat.size
        codes = flat.view("<u2")[1::2]
        if flat.size >= FLUSH_ELEMENTS:
            self._count(codes)
            return
        self._pending.append(codes.copy())
        self._pending_elements += flat.size
        if self._pending_elements >= FLUSH_ELEMENTS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._count(np.concatenate(self._pending))
            self._pending, self._pending_elements = [], 0

    def _count(self, codes: np.ndarray) -> None:
        if codes.size < CHUNK_ELEMENTS:
            used, counts = np.unique(codes, return_counts=True)
        else:
            every = np.zeros(2 * BINS, np.int64)
            for start in range(0, codes.size, CHUNK_ELEMENTS):
                chunk = codes[start : start + CHUNK_ELEMENTS].astype(np.intp)
                np.add.at(every, chunk, 1)  # a third faster than bincount, which looks at all twice
            used = np.flatnonzero(every).astype(np.uint16)
            counts = every[used]
        both = np.union1d(self._codes, used)
        total = np.zeros(both.size, np.int64)
        total[np.searchsorted(both, self._codes)] = self._counts
        total[np.searchsorted(both, used)] += counts
        self._codes, self._counts = both, _narrow(total)

    def bins(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower edges, upper edges and counts of the used bins, in order of value, zeros included:
        float64, float64 and int64 of shape [bins].

        The outermost edges are cut off at the least and the largest value that were seen.
        """
        self._flush()
        signs, codes = self._codes >> 15, (self._codes & 0x7FFF).astype(np.uint32)
        near = (codes << 16).view(np.float32).astype(np.float64)
        far = ((codes + 1) << 16).view(np.float32).astype(np.float64)
        counts = self._counts.astype(np.int64)
        zero = codes == 0
        lower = np.where(signs == 0, near, -far)
        upper = np.where(signs == 0, far, -near)
        lower[zero] = upper[zero] = 0.0
        order = np.argsort(lower, kind="stable")
        return (
            np.clip(lower[order], self.low, self.high),
            np.clip(upper[order], self.low, self.high),
            counts[order],
        )

    @property
    def memory_bytes(self) -> int:
        """What the counts and the values not counted yet take."""
        return self._codes.nbytes + self._counts.nbytes + 2 * self._pending_elements

    def summary(self) -> dict[str, Any]:
        return {"count": self.count, "low": float(self.low), "high": float(self.high)}


def _narrow(counts: np.ndarray) -> np.ndarray:
    """Counts in 32 bits where these hold them: a network has thousands of histograms."""
    fits = not counts.size or counts.max() <= np.iinfo(np.uint32).max
    return counts.astype(np.uint32 if fits else np.int64)


@dataclass(frozen=True)
class Grid:
    """How codes lie on the real line: their number, and whether 0 stands in the middle."""

    levels: int = 256
    symmetric: bool = False


def find_range(
    histogram: Histogram, method: Method, grid: Grid, percentile: float = 99.99
) -> Range:
    """The range that `method` chooses for the values in `histogram`.

    `minmax` covers every value. `percentile` leaves out the share of values beyond it, split over
    the tails that exist. `entropy` is the clipping that loses least information about the
    distribution, as relative entropy (Migacz, 8-bit inference with TensorRT, GTC 2017). `mse` is
    the clipping with the least expected squared error of rounding and clipping together, as in
    Sakr et al., Optimal Clipping and Magnitude-aware Differentiation, ICML 2022.
    """
    key = (method, grid, percentile)
    if key not in histogram.ranges:
        histogram.ranges[key] = _find_range(histogram, method, grid, percentile)
    return histogram.ranges[key]


def _find_range(histogram: Histogram, method: Method, grid: Grid, percentile: float) -> Range:
    if histogram.count == 0:
        return Range(0.0, 0.0)
    full = Range(min(0.0, float(histogram.low)), max(0.0, float(histogram.high)))
    if method == "minmax" or full.low == full.high:
        return full
    lower, upper, counts = histogram.bins()
    if method == "percentile":
        return _percentile(lower, upper, counts, percentile, full)
    if method == "entropy":
        return _entropy(lower, upper, counts, full)
    return _least_error(lower, upper, counts, full, grid)


def _percentile(
    lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, percentile: float, full: Range
) -> Range:
    outside = (1 - percentile / 100) * counts.sum()
    if full.low < 0 < full.high:
        outside /= 2
    total = np.cumsum(counts)
    high, low = full.high, full.low
    if full.high > 0:
        i = int(np.searchsorted(total, total[-1] - outside))
        beyond = total[i] - (total[-1] - outside)
        high = max(0.0, upper[i] - (upper[i] - lower[i]) * beyond / counts[i])
    if full.low < 0:
        i = int(np.searchsorted(total, outside))
        before = outside - (total[i] - counts[i])
        low = min(0.0, lower[i] + (upper[i] - lower[i]) * before / counts[i])
    return Range(float(low), float(high))


def _scalings() -> np.ndarray:
    return np.concatenate([np.linspace(1.0, 0.5, 51), np.geomspace(0.49, 0.02, 60)])


def _least_error(
    lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, full: Range, grid: Grid
) -> Range:
    def error(low: float, high: float) -> float:
        return _error(lower, upper, counts, Range(low, high), grid)

    if grid.symmetric or full.low == 0 or full.high == 0:

        def symmetric(scale: float) -> tuple[float, float]:
            top = scale * full.largest
            return max(full.low, -top), min(full.high, top)

        low, high = symmetric(_best_scaling(lambda scale: error(*symmetric(scale))))
        return Range(float(low), float(high))

    def upper_end(low: float) -> Callable[[float], float]:
        return lambda scale: error(low, full.high * scale)

    def lower_end(high: float) -> Callable[[float], float]:
        return lambda scale: error(full.low * scale, high)

    best, least = full, error(full.low, full.high)
    low, high = full.low, full.high
    for _ in range(3):
        high = full.high * _best_scaling(upper_end(low))
        low = full.low * _best_scaling(lower_end(high))
        if (found := error(low, high)) >= least:
            break
        best, least = Range(float(low), float(high)), found
    return best


def _best_scaling(error: Callable[[float], float]) -> float:
    """The scaling with the least error: every fifth is tried, then all around the best of these."""
    scalings = _scalings()
    found = {i: error(float(scalings[i])) for i in range(0, len(scalings), COARSE)}
    middle = min(found, key=lambda i: found[i])
    for i in range(max(middle - COARSE + 1, 0), min(middle + COARSE, len(scalings))):
        if i not in found:
            found[i] = error(float(scalings[i]))
    return float(scalings[min(found, key=lambda i: (found[i], i))])


def _error(
    lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, span: Range, grid: Grid
) -> float:
    """Summed squared error of rounding and clipping, expected within each bin."""
    middle, spread = (lower + upper) / 2, (upper - lower) ** 2 / 12
    if grid.symmetric:
        step = span.largest / (grid.levels - 1 if span.low == 0 else grid.levels // 2 - 1)
    else:
        step = (span.high - span.low) / (grid.levels - 1)
    if step <= 0:
        return float(counts @ (middle**2 + spread))
    clipped = np.clip(middle, span.low, span.high)
    exact = (middle - np.round(middle / step) * step) ** 2
    fine = (upper - lower) < step
    rounding = np.where(fine, np.minimum(exact + spread, step**2 / 4), step**2 / 12)
    rounding = np.where(lower == upper, exact, rounding)
    outside = (middle - clipped) ** 2 + spread
    return float(counts @ np.where(clipped == middle, rounding, outside))


def _entropy(lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, full: Range) -> Range:
    """Relative entropy of the distribution of magnitudes clipped at each candidate and merged into
    128 levels; zeros, which every range represents exactly, are left out."""
    histogram = _magnitudes(lower, upper, counts, full.largest)
    best, least = KL_BINS, np.inf
    total = np.cumsum(histogram)
    for bins in range(KL_LEVELS, KL_BINS + 1, 16):
        reference = histogram[:bins].copy()
        reference[-1] += total[-1] - total[bins - 1]
        sliced = histogram[:bins]
        level = np.minimum(np.arange(bins) * KL_LEVELS // bins, KL_LEVELS - 1)
        used = sliced > 0
        sums = np.bincount(level, sliced, KL_LEVELS)
        cells = np.bincount(level, used, KL_LEVELS)
        merged = np.where(used, sums[level] / np.maximum(cells[level], 1), 0.0)
        p, q = _smooth(reference), _smooth(merged)
        if p is None or q is None:
            continue
        divergence = float(np.sum(p * np.log(p / q)))
        if divergence < least:
            best, least = bins, divergence
    top = full.largest * best / KL_BINS
    return Range(max(full.low, -top), min(full.high, top))


def _magnitudes(
    lower: np.ndarray, upper: np.ndarray, counts: np.ndarray, largest: float
) -> np.ndarray:
    """Counts of magnitudes above 0 in equal bins up to `largest`, values spread evenly in theirs.

    The share of a bin below an edge is linear in the edge, so that each side's cumulated counts are
    interpolated between the ends of its bins; bins without width are points.
    """
    edges = np.linspace(0.0, largest, KL_BINS + 1)
    histogram = np.zeros(KL_BINS)
    for side in (1, -1):
        mine = upper > 0 if side > 0 else lower < 0
        near, far = np.sort(np.abs([lower[mine], upper[mine]]), axis=0)
        order = np.argsort(near, kind="stable")
        near, far, held = near[order], far[order], counts[mine][order].astype(np.float64)
        points = near == far
        at = np.minimum((near[points] / largest * KL_BINS).astype(np.int64), KL_BINS - 1)
        np.add.at(histogram, at, held[points])
        near, far, held = near[~points], far[~points], held[~points]
        if held.size:
            ends = np.stack([near, far], axis=1).ravel()
            total = np.cumsum(held)
            below = np.stack([total - held, total], axis=1).ravel()
            histogram += np.diff(np.interp(edges, ends, below))
    return histogram


def _smooth(histogram: np.ndarray) -> np.ndarray | None:
    total = histogram.sum()
    if total <= 0:
        return None
    probabilities = histogram / total
    empty = probabilities == 0
    floor = 1e-7
    return np.asarray(np.where(empty, floor, probabilities * (1 - floor * empty.sum())))


def noise_to_signal(histogram: Histogram, span: Range, grid: Grid) -> float:
    """Expected squared error of quantizing to a range, over the values' own power; 0 for zeros."""
    if not histogram.count or span.low == span.high:
        return 0.0
    lower, upper, counts = histogram.bins()
    power = float(counts @ ((lower + upper) / 2) ** 2)
    return _error(lower, upper, counts, span, grid) / power if power > 0 else 0.0

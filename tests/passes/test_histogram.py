"""Streaming histograms: what they count, whatever the order it comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedl.passes import ranges
from edgedl.passes.ranges import Histogram

FINITE = arrays.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def counted(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


def same(a: Histogram, b: Histogram) -> bool:
    exact = (a.count, a.low, a.high, a.not_finite) == (b.count, b.low, b.high, b.not_finite)
    return exact and all(np.array_equal(x, y) for x, y in zip(a.bins(), b.bins(), strict=True))


@given(FINITE, st.integers(0, 300), st.randoms(use_true_random=False))
def test_parts_in_any_order_count_as_the_whole(
    values: np.ndarray, cut: int, random: object
) -> None:
    shuffled = values.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert same(counted(values), counted(shuffled[cut:], shuffled[:cut]))


@given(FINITE)
def test_bins_hold_every_value_between_exact_ends(values: np.ndarray) -> None:
    histogram = counted(values)
    lower, upper, counts = histogram.bins()
    assert counts.sum() == histogram.count == values.size
    assert (histogram.low, histogram.high) == (float(values.min()), float(values.max()))
    assert np.all(lower <= upper)
    assert np.all(np.diff(lower) >= 0)
    assert np.all((lower >= histogram.low) & (upper <= histogram.high))
    tiny = np.finfo(np.float32).tiny
    normal = np.maximum(abs(lower), abs(upper)) >= tiny
    width, nearest = upper - lower, np.minimum(abs(lower), abs(upper))
    assert np.all(width[normal] <= nearest[normal] / 128 * 1.001)


@given(FINITE)
def test_each_bin_counts_the_values_between_its_edges(values: np.ndarray) -> None:
    """Values on an edge belong to the bin further from zero, so counts below agree within it."""
    lower, upper, counts = counted(values).bins()
    for near, far, count in zip(lower, upper, counts, strict=True):
        inside = (values > near) & (values < far)
        touching = (values >= near) & (values <= far)
        assert inside.sum() <= count
        if (near, far) != (0, 0):
            assert count <= touching.sum()


def test_by_hand() -> None:
    lower, upper, counts = counted(
        np.array([1.0, 1.004, 1.01, 2.0, -0.5, 0.0, -0.0], np.float32)
    ).bins()
    np.testing.assert_array_equal(lower, [-0.5, 0, 0, 1.0, 1 + 1 / 128, 2.0])
    np.testing.assert_array_equal(upper, [-0.5, 0, 0, 1 + 1 / 128, 1 + 2 / 128, 2.0])
    assert counts.tolist() == [1, 1, 1, 2, 1, 1]


def test_values_that_are_not_finite_are_set_apart() -> None:
    histogram = counted(np.array([np.nan, 1, np.inf, -np.inf, 2, np.nan], np.float32))
    assert (histogram.count, histogram.not_finite) == (2, 4)
    assert (histogram.low, histogram.high) == (1.0, 2.0)
    nothing = counted(np.full(3, np.nan, np.float32))
    assert (nothing.count, nothing.not_finite) == (0, 3)


def test_nothing_seen() -> None:
    histogram = counted(np.zeros((0, 4), np.float32))
    assert (histogram.count, histogram.not_finite) == (0, 0)
    assert (histogram.low, histogram.high) == (0, 0)


@pytest.mark.parametrize(
    "values", [[0.0], [-0.0, 0.0], [1e-45], [3e38], [-3.4e38, 3.4e38], [1e-38, 1e38]]
)
def test_extreme_magnitudes(values: list[float]) -> None:
    array = np.array(values, np.float32)
    histogram = counted(array)
    lower, upper, counts = histogram.bins()
    assert counts.sum() == array.size
    assert np.all(np.isfinite(lower))
    assert np.all(np.isfinite(upper))
    assert (histogram.low, histogram.high) == (float(array.min()), float(array.max()))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64, bool])
def test_other_types_and_layouts(dtype: type) -> None:
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    assert same(counted(values.transpose(2, 0, 1)), counted(values.astype(np.float32)))


def test_long_arrays_are_counted_in_pieces() -> None:
    values = np.random.default_rng(0).standard_normal(ranges.CHUNK_ELEMENTS + 17).astype(np.float32)
    assert same(counted(values), counted(*np.array_split(values, 900)))


def test_memory_does_not_grow_with_what_is_counted() -> None:
    histogram = Histogram()
    random = np.random.default_rng(0)
    sizes = []
    for _ in range(30):
        histogram.add(random.standard_normal(ranges.FLUSH_ELEMENTS).astype(np.float32))
        sizes.append(histogram.memory_bytes)
    assert max(sizes) < 160_000
    assert sizes[-1] <= sizes[2] * 1.5


def test_bins_that_hold_nothing_take_no_memory() -> None:
    values = np.float32(2.0) ** np.arange(-120, 120, dtype=np.float32)
    histogram = counted(values)
    histogram.bins()
    assert histogram.memory_bytes == values.size * (2 + 4)
    assert same(histogram, Histogram.from_array(histogram.to_array()))


def test_counts_beyond_32_bits_are_kept() -> None:
    array = counted(np.ones(3, np.float32)).to_array()
    array[-1] = (1 << 32) - 1
    histogram = Histogram.from_array(array)
    histogram.add(np.ones(2, np.float32))
    assert histogram.bins()[2].tolist() == [(1 << 32) + 1]

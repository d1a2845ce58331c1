"""Ranges out of histograms, beside numpy's and beside brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedl.passes.ranges import (
    METHODS,
    Grid,
    Histogram,
    Method,
    Range,
    find_range,
    noise_to_signal,
)

RANDOM = np.random.default_rng(0)
NORMAL = RANDOM.standard_normal(60_000).astype(np.float32)
LONG_TAILED = (NORMAL**3).astype(np.float32)
RELU = np.maximum(NORMAL, 0)
SKEWED = np.where(NORMAL < 0, 0.05 * NORMAL, 2 * NORMAL).astype(np.float32)
SHAPES = {
    "normal": NORMAL,
    "long_tailed": LONG_TAILED,
    "relu": RELU,
    "skewed": SKEWED,
    "negative": -RELU,
}
GRIDS = [Grid(), Grid(symmetric=True)]


def found(
    values: np.ndarray, method: Method, grid: Grid = Grid(), percentile: float = 99.99
) -> Range:
    histogram = Histogram()
    histogram.add(values)
    return find_range(histogram, method, grid, percentile)


def squared_error(values: np.ndarray, low: float, high: float, grid: Grid) -> float:
    """Of quantizing each value, by the definition."""
    if grid.symmetric and low == 0:
        step, least, most = high / 255, 0, 255
    elif grid.symmetric:
        step, least, most = max(-low, high) / 127, -127, 127
    else:
        step = (high - low) / 255
        least = -round(-low / step)
        most = least + 255
    codes = np.clip(np.rint(values.astype(np.float64) / step), least, most)
    return float(np.mean((codes * step - values) ** 2))


@given(
    arrays.arrays(
        np.float32, st.integers(1, 50), elements=st.floats(-(2.0**100), 2.0**100, width=32)
    ),
    st.sampled_from(METHODS),
    st.sampled_from(GRIDS),
)
def test_a_range_holds_zero_and_lies_within_what_was_seen(
    values: np.ndarray, method: Method, grid: Grid
) -> None:
    span = found(values, method, grid)
    assert (
        min(0.0, float(values.min())) <= span.low <= 0 <= span.high <= max(0.0, float(values.max()))
    )


def test_minmax_is_exact() -> None:
    assert found(np.array([-1.25, 0.5, 3.75], np.float32), "minmax") == Range(-1.25, 3.75)
    assert found(np.array([2.0, 3.75], np.float32), "minmax") == Range(0.0, 3.75)
    assert found(np.array([-2.0, -3.75], np.float32), "minmax") == Range(-3.75, 0.0)


@pytest.mark.parametrize("percentile", [90.0, 99.0, 99.9, 99.99])
@pytest.mark.parametrize("name", SHAPES)
def test_percentile_is_numpys(name: str, percentile: float) -> None:
    values = SHAPES[name]
    span = found(values, "percentile", percentile=percentile)
    outside = 1 - percentile / 100
    tails = 2 if values.min() < 0 < values.max() else 1
    low, high = np.quantile(values, [outside / tails, 1 - outside / tails])
    assert span.low == pytest.approx(min(0, low), rel=0.012, abs=1e-6)
    assert span.high == pytest.approx(max(0, high), rel=0.012, abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("name", SHAPES)
def test_mse_is_close_to_brute_force(name: str, grid: Grid) -> None:
    values = SHAPES[name]
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    scales = np.linspace(0.02, 1, 40)
    ends = [(low * a, high * b) for a in scales for b in (scales if not grid.symmetric else [a])]
    if grid.symmetric:
        top = max(-low, high)
        ends = [(max(low, -top * a), min(high, top * a)) for a in np.linspace(0.02, 1, 400)]
    elif low == 0 or high == 0:
        ends = [(low * a, high * a) for a in np.linspace(0.02, 1, 400)]
    few = values[:6000]
    shortlist = sorted(ends, key=lambda end: squared_error(few, *end, grid))[:20]
    best = min(squared_error(values, *end, grid) for end in shortlist)
    span = found(values, "mse", grid)
    assert squared_error(values, span.low, span.high, grid) <= 1.04 * best


@pytest.mark.parametrize("grid", GRIDS, ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("name", SHAPES)
def test_noise_to_signal_is_what_quantizing_costs(name: str, grid: Grid) -> None:
    values = SHAPES[name]
    histogram = Histogram()
    histogram.add(values)
    span = find_range(histogram, "mse", grid)
    power = float(np.mean(values.astype(np.float64) ** 2))
    expected = squared_error(values, span.low, span.high, grid) / power
    assert noise_to_signal(histogram, span, grid) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("levels", "step"), [(8, 0.5860), (16, 0.3352), (32, 0.1881), (256, 0.0308)]
)
def test_mse_finds_the_best_step_for_normal_values(levels: int, step: float) -> None:
    """Max, Quantizing for Minimum Distortion, 1960, table II; 256 levels by the same equation."""
    span = found(NORMAL, "mse", Grid(levels))
    assert (span.high - span.low) / (levels - 1) == pytest.approx(step, rel=0.08)


def test_mse_keeps_the_ends_of_even_values() -> None:
    span = found(np.linspace(-1, 1, 20_001, dtype=np.float32), "mse")
    assert span.low == pytest.approx(-1, abs=0.02)
    assert span.high == pytest.approx(1, abs=0.02)


def test_entropy_cuts_outliers_and_keeps_the_bulk() -> None:
    span = found(np.append(NORMAL, np.float32([40, -40])), "entropy")
    assert 2 < span.high < 10
    assert span.low == -span.high


def test_entropy_keeps_even_values() -> None:
    span = found(np.linspace(0, 1, 20_001, dtype=np.float32), "entropy")
    assert 0.9 < span.high <= 1
    assert span.low == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-30, -1e30, 1e38])
@pytest.mark.parametrize("grid", GRIDS, ids=["asymmetric", "symmetric"])
def test_a_constant_is_covered(value: float, method: Method, grid: Grid) -> None:
    span = found(np.full(1000, value, np.float32), method, grid)
    single = float(np.float32(value))
    assert span == Range(min(0.0, single), max(0.0, single))


@pytest.mark.parametrize("method", METHODS)
def test_zeros_and_nothing_have_no_extent(method: Method) -> None:
    assert found(np.zeros(100, np.float32), method) == Range(0, 0)
    assert found(np.zeros(0, np.float32), method) == Range(0, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60])
def test_ranges_scale_with_the_values(method: Method, scale: float) -> None:
    once, scaled = found(NORMAL[:5000], method), found(NORMAL[:5000] * np.float32(scale), method)
    assert scaled.low == pytest.approx(once.low * scale, rel=0.02)
    assert scaled.high == pytest.approx(once.high * scale, rel=0.02)


def test_values_that_are_not_finite_change_no_range() -> None:
    broken = np.append(NORMAL, np.float32([np.nan, np.inf, -np.inf]))
    for method in METHODS:
        assert found(broken, method) == found(NORMAL, method)


def test_union_and_largest() -> None:
    span = Range(-1, 2).union(Range(-3, 1))
    assert span == Range(-3, 2)
    assert span.largest == 3
    assert span.to_json() == [-3, 2]

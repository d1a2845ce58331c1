"""Golden samples: small on disk, exact where they must be."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedl.core.errors import Unsupported
from edgedl.runtime.golden import Answer, Golden, coarse, pack, unpack

FLOATS = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)
INTEGERS = arrays.arrays(
    st.sampled_from([np.int64, np.uint8, np.bool_, np.int32]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0),
)


def there_and_back(golden: Golden) -> Golden:
    return unpack(*pack(golden))


@given(FLOATS)
def test_what_was_made_coarse_comes_back(array: np.ndarray) -> None:
    made = coarse({"x": array})
    back = there_and_back(Golden((made,), ({},), 0.0)).inputs[0]["x"]
    largest = float(np.abs(array).max(initial=0))
    np.testing.assert_allclose(back, made["x"], rtol=0, atol=5e-7 * largest)
    assert back.dtype == np.float32
    assert back.shape == array.shape


@given(FLOATS)
def test_coarse_is_within_half_a_level(array: np.ndarray) -> None:
    made = coarse({"x": array})["x"].astype(np.float64)
    if array.size:
        span = float(array.max()) - float(array.min())
        most = float(np.abs(array).max())
        assert np.abs(made - array).max() <= span / 255 * 0.51 + most * 1e-6


@given(INTEGERS)
def test_integers_come_back_as_they_are(array: np.ndarray) -> None:
    back = there_and_back(Golden(({"x": array},), ({},), 0.0)).inputs[0]["x"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype


def test_values_that_are_not_finite_come_back_as_they_are() -> None:
    array = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    back = there_and_back(Golden(({"x": array},), ({},), 0.0)).inputs[0]["x"]
    np.testing.assert_array_equal(back, array)


def test_python_objects_are_refused() -> None:
    with pytest.raises(Unsupported):
        pack(Golden(({"x": np.array([{}], dtype=object)},), ({},), 0.0))


@given(FLOATS)
def test_an_answer_agrees_with_itself(array: np.ndarray) -> None:
    golden = there_and_back(Golden(({},), ({"y": Answer.of(array)},), 0.25))
    assert golden.error(0, {"y": array}) == 0
    assert golden.tolerance == 0.25


def test_errors_by_hand() -> None:
    answer = Answer.of(np.array([3.0, 4.0], np.float32))
    assert answer.error(np.array([3.0, 4.5], np.float32)) == pytest.approx(0.1)
    assert answer.error(np.array([0.0, 0.0], np.float32)) == 1
    assert answer.error(np.array([[3.0, 4.0]], np.float32)) == math.inf
    assert answer.error(np.array([np.nan, 4.0], np.float32)) == math.inf
    nothing = Answer.of(np.zeros(2, np.float32))
    assert nothing.error(np.zeros(2, np.float32)) == 0
    assert nothing.error(np.array([0, 1e-9], np.float32)) == math.inf


def test_the_worst_output_counts_and_none_may_lack() -> None:
    one, two = np.ones(2, np.float32), np.full(2, 2, np.float32)
    golden = Golden(({},), ({"a": Answer.of(one), "b": Answer.of(two)},), 0.0)
    assert golden.error(0, {"a": one, "b": two * 1.5}) == pytest.approx(0.5)
    assert golden.error(0, {"a": one}) == math.inf


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_answers_that_are_not_finite_must_be_so_again(broken: float) -> None:
    array = np.array([1, broken], np.float32)
    assert Answer.of(array).error(array) == 0
    assert Answer.of(array).error(np.array([1, 2], np.float32)) == math.inf


def test_a_part_that_unpacks_to_more_than_it_says_is_refused() -> None:
    index, parts = pack(Golden(({"x": np.zeros((2, 3), np.int64)},), ({},), 0.0))
    name = next(iter(parts))
    for data in (zlib.compress(bytes(10**7)), zlib.compress(b"short"), parts[name][:5], b"none"):
        with pytest.raises((ValueError, zlib.error)):
            unpack(index, {name: data})

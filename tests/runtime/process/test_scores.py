"""Scores to classes: by hand, and what holds of all scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.scores import Argmax, Binary, Guess, Sigmoid, Softmax, Threshold, TopK

LOGITS = np.log(np.array([[1, 2, 5]], np.float32))
OUTPUTS = {"aside": np.zeros((1, 2), np.float32), "logits": LOGITS}
VALUES = st.floats(-1e4, 1e4, width=32)
SHAPES = arrays.array_shapes(min_dims=1, max_dims=4, max_side=6)
MAPS = arrays.arrays(np.float32, SHAPES, elements=VALUES)
FEW = st.sampled_from([-3.0, -0.5, 0.0, 0.5, 2.0])
ROWS = arrays.arrays(np.float32, st.integers(1, 40), elements=FEW | VALUES)


def test_softmax_and_sigmoid_by_hand() -> None:
    soft = Softmax("logits").apply(OUTPUTS)
    assert soft == pytest.approx(np.array([[0.125, 0.25, 0.625]]), abs=1e-7)
    # 1 / (1 + 1/x) of x = 1, 2, 5
    hard = Sigmoid("logits").apply(OUTPUTS)
    assert hard == pytest.approx(np.array([[1 / 2, 2 / 3, 5 / 6]]), abs=1e-6)
    assert soft.dtype == hard.dtype == np.float32


def test_large_values_do_not_overflow() -> None:
    outputs = {"y": np.array([[-1e30, 1e4, 1e30]], np.float32)}
    assert Softmax().apply(outputs).tolist() == [[0, 0, 1]]
    assert Sigmoid().apply(outputs).tolist() == [[0, 1, 1]]


@given(MAPS, st.data())
def test_shares_sum_to_one_and_are_those_of_double_precision(
    values: np.ndarray, data: st.DataObject
) -> None:
    axis = data.draw(st.integers(-values.ndim, values.ndim - 1))
    found = Softmax(axis=axis).apply({"y": values})
    assert found.shape == values.shape
    assert found.sum(axis=axis) == pytest.approx(1.0, abs=1e-5)
    wide = values.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=axis, keepdims=True))
    assert found == pytest.approx(powers / powers.sum(axis=axis, keepdims=True), abs=1e-5)


@given(MAPS)
def test_sigmoids_are_those_of_double_precision(values: np.ndarray) -> None:
    with np.errstate(over="ignore"):
        wanted = 1 / (1 + np.exp(-values.astype(np.float64)))
    assert Sigmoid().apply({"y": values}) == pytest.approx(wanted, abs=1e-6)


def test_argmax_along_an_axis() -> None:
    outputs = {"mask": np.array([[[[1, 9]], [[5, 2]], [[3, 3]]]], np.float32)}
    found = Argmax(axis=1).apply(outputs)
    assert found.tolist() == [[[1, 0]]]
    assert found.dtype == np.int64


def test_the_best_few_by_name() -> None:
    after = TopK("logits", k=2, activation="softmax", labels=("a", "b", "c"))
    first, second = after.apply(OUTPUTS)
    assert (first.index, first.label, second.label) == (2, "c", "b")
    assert (first.score, second.score) == pytest.approx((0.625, 0.25))


def test_ties_keep_their_order_and_there_are_no_more_than_there_are() -> None:
    found = TopK(k=9).apply({"y": np.array([3, 1, 3], np.float32)})
    assert found == (Guess(0, None, 3.0), Guess(2, None, 3.0), Guess(1, None, 1.0))


@given(ROWS, st.integers(1, 50))
def test_the_best_few_are_the_best_in_order(values: np.ndarray, k: int) -> None:
    found = TopK(k=k).apply({"y": values[None]})
    wanted = sorted(range(len(values)), key=lambda i: (-values[i], i))[:k]
    assert [guess.index for guess in found] == wanted
    assert [guess.score for guess in found] == [float(values[i]) for i in wanted]


@given(ROWS, st.integers(1, 50))
def test_what_is_no_number_comes_last(values: np.ndarray, k: int) -> None:
    values[::3] = np.nan
    found = [guess.index for guess in TopK(k=k).apply({"y": values[None]})]
    numbers = [i for i in range(len(values)) if i % 3]
    wanted = sorted(numbers, key=lambda i: (-values[i], i)) + list(range(0, len(values), 3))
    assert found == wanted[:k]


@given(ROWS, st.floats(-1, 2))
def test_those_above_a_bound_and_no_others(values: np.ndarray, least: float) -> None:
    found = Threshold((least,), activation=None).apply({"y": values})
    assert sorted(guess.index for guess in found) == [
        i for i, v in enumerate(values) if float(v) >= least
    ]
    assert [guess.score for guess in found] == sorted((g.score for g in found), reverse=True)


def test_a_bound_for_each_class() -> None:
    after = Threshold((0.6, 0.1, 0.9), labels=("rain", "snow", "fog"))
    # sigmoids of 0, ln 3 and 2 are 1/2, 3/4 and 0.88
    outputs = {"y": np.array([[0.0, np.log(3), 2.0]], np.float32)}
    [only] = after.apply(outputs)
    assert (only.label, only.score) == ("snow", pytest.approx(0.75))


def test_yes_and_no() -> None:
    after = Binary(labels=("empty", "somebody"))
    yes = after.apply({"y": np.array([[np.log(3)]], np.float32)})
    assert (yes.index, yes.label, yes.score) == (1, "somebody", pytest.approx(0.75))
    no = after.apply({"y": np.array([[-np.log(3)]], np.float32)})
    assert (no.index, no.label, no.score) == (0, "empty", pytest.approx(0.25))
    assert after.apply({"y": np.zeros((1, 1), np.float32)}).index == 1


@pytest.mark.parametrize(
    ("after", "outputs", "says"),
    [
        (Softmax("logit"), OUTPUTS, "`logit` is not an output"),
        (Softmax(), {}, "not an output"),
        (Argmax(axis=2), OUTPUTS, "no axis 2"),
        (TopK(), {"y": np.zeros((2, 3))}, "one row of classes"),
        (TopK(labels=("a",)), {"y": np.zeros((1, 3))}, "not 1 classes"),
        (TopK(), {"y": np.zeros(())}, "no axis -1"),
        (Threshold((0.5, 0.5)), {"y": np.zeros((1, 3))}, "2 thresholds for 3 classes"),
        (Binary(), {"y": np.zeros((1, 2))}, "not one value"),
    ],
)
def test_outputs_that_do_not_fit(after: Any, outputs: Any, says: str) -> None:
    with pytest.raises(WrongInput, match=says) as caught:
        after.apply(outputs)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("kind", "settings", "key"),
    [
        (TopK, {"k": 0}, "k"),
        (TopK, {"labels": ("a", "b", "a")}, "labels"),
        (Softmax, {"labels": ("a", "a")}, "labels"),
        (Threshold, {"threshold": (0.1, 0.2), "labels": ("a", "b", "c")}, "threshold"),
        (Threshold, {"threshold": ()}, "threshold"),
        (Binary, {"labels": ("yes",)}, "labels"),
    ],
)
def test_impossible_settings(kind: Any, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        kind(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint

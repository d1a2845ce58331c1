"""Outputs to answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.postprocess import Guess, Postprocess

LOGITS = np.log(np.array([[1, 2, 5]], np.float32))
OUTPUTS = {"aside": np.zeros((1, 2), np.float32), "logits": LOGITS}


def test_softmax_and_sigmoid_by_hand() -> None:
    soft = Postprocess("softmax", output="logits").apply(OUTPUTS)
    assert soft == pytest.approx(np.array([[0.125, 0.25, 0.625]]), abs=1e-7)
    # 1 / (1 + 1/x) of x = 1, 2, 5
    hard = Postprocess("sigmoid", output="logits").apply(OUTPUTS)
    assert hard == pytest.approx(np.array([[1 / 2, 2 / 3, 5 / 6]]), abs=1e-6)
    assert soft.dtype == hard.dtype == np.float32


def test_large_values_do_not_overflow() -> None:
    outputs = {"y": np.array([[-1e30, 1e4, 1e30]], np.float32)}
    assert Postprocess("softmax").apply(outputs).tolist() == [[0, 0, 1]]
    assert Postprocess("sigmoid").apply(outputs).tolist() == [[0, 1, 1]]


def test_argmax_along_an_axis() -> None:
    outputs = {"mask": np.array([[[[1, 9]], [[5, 2]], [[3, 3]]]], np.float32)}
    found = Postprocess("argmax", axis=1).apply(outputs)
    assert found.tolist() == [[[1, 0]]]
    assert found.dtype == np.int64


def test_the_best_few_by_name() -> None:
    after = Postprocess("top-k", "logits", k=2, activation="softmax", labels=("a", "b", "c"))
    first, second = after.apply(OUTPUTS)
    assert (first.index, first.label, second.label) == (2, "c", "b")
    assert (first.score, second.score) == pytest.approx((0.625, 0.25))


def test_ties_keep_their_order_and_there_are_no_more_than_there_are() -> None:
    found = Postprocess("top-k", k=9).apply({"y": np.array([3, 1, 3], np.float32)})
    assert found == (Guess(0, None, 3.0), Guess(2, None, 3.0), Guess(1, None, 1.0))


@pytest.mark.parametrize(
    ("after", "outputs", "says"),
    [
        (Postprocess("softmax", "logit"), OUTPUTS, "`logit` is not an output"),
        (Postprocess("softmax"), {}, "not an output"),
        (Postprocess("argmax", axis=2), OUTPUTS, "no axis 2"),
        (Postprocess("top-k"), {"y": np.zeros((2, 3))}, "one row of classes"),
        (Postprocess("top-k", labels=("a",)), {"y": np.zeros((1, 3))}, "not 1 classes"),
        (Postprocess("top-k"), {"y": np.zeros(())}, "no axis -1"),
    ],
)
def test_outputs_that_do_not_fit(after: Postprocess, outputs: Any, says: str) -> None:
    with pytest.raises(WrongInput, match=says) as caught:
        after.apply(outputs)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"kind": "top-k", "k": 0}, "k"),
        ({"kind": "argmax", "activation": "softmax"}, "activation"),
        ({"kind": "top-k", "axis": 1}, "axis"),
        ({"kind": "top-k", "labels": ("a", "b", "a")}, "labels"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Postprocess(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint

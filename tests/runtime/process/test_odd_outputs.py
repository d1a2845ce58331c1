"""Outputs at the ends of what numbers are: infinite, none at all, unsigned, huge."""

from __future__ import annotations

import numpy as np
import pytest

from edgedl.core.errors import WrongInput
from edgedl.runtime.process.activations import softmax
from edgedl.runtime.process.boxes import Boxes
from edgedl.runtime.process.postprocess import Seen
from edgedl.runtime.process.scores import Argmax, Softmax, TopK
from edgedl.runtime.process.values import Anomaly, Embedding, Values

INF, NAN = np.inf, np.nan


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([1, INF, 2], [0, 1, 0]),
        ([INF, INF, 2, -INF], [0.5, 0.5, 0, 0]),
        ([-INF, -INF], [0.5, 0.5]),
        ([3e38, -3e38], [1, 0]),
        ([1, NAN], [NAN, NAN]),
        ([], []),
    ],
)
def test_softmax_of_what_is_not_finite(values: list[float], shares: list[float]) -> None:
    np.testing.assert_array_equal(softmax(np.array(values, np.float32)), shares)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 3, 200], np.uint8),
        ([-128, 3, 100], np.int8),
        ([0, 1, 2**63], np.uint64),
        ([-(2**63), 0, 2**63 - 1], np.int64),
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_whole_numbers_are_ranked_as_they_are(values: list[int], dtype: type, k: int) -> None:
    found = TopK(k=k).apply({"y": np.array(values, dtype)})
    assert [guess.index for guess in found] == [2, 1, 0][:k]


def test_truth_is_ranked() -> None:
    found = TopK(k=2).apply({"y": np.array([False, True, True])})
    assert [guess.index for guess in found] == [1, 2]


@pytest.mark.parametrize("kind", [Softmax(), Argmax()])
def test_an_output_without_classes_is_refused(kind: Softmax | Argmax) -> None:
    with pytest.raises(WrongInput, match="has no classes"):
        kind.apply({"y": np.zeros((1, 0), np.float32)})


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("value", [NAN, INF])
def test_a_box_that_is_not_finite_is_none(place: int, value: float) -> None:
    rows = np.array([[0, 0, 4, 4, 0.9, 1], [0, 0, 2, 2, 0.8, 1]], np.float32)
    rows[0, place] = value
    found = Boxes().decode({"y": rows[None]})
    assert found.boxes.tolist() == [[0, 0, 2, 2]]
    assert found.classes.tolist() == [1]


def test_huge_numbers_warn_nobody() -> None:
    huge = np.array([[-3e38, -3e38, 3e38, 3e38, 0.9, 0], [0, 0, 2, 2, 0.8, 0]], np.float32)
    assert len(Boxes().decode({"y": huge}).boxes) == 2
    one = Anomaly(1.0).apply({"y": np.array([INF])}, Seen({"x": np.array([INF])}))
    assert one.anomaly
    assert Anomaly(1.0).apply({"y": np.array([1e300])}, Seen({"x": np.zeros(1)})).anomaly
    assert np.isnan(Values(scale=(0.0,)).apply({"y": np.array([INF])})[0].value)
    assert np.isnan(Embedding().apply({"y": np.array([INF, 1.0])})[0])

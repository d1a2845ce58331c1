"""Values in units, anomalies and embeddings: by hand, and what holds of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.postprocess import Seen
from edgedl.runtime.process.values import Anomaly, Embedding, Value, Values

FLOATS = st.floats(-(2.0**99), 2.0**99, width=32)
ROWS = arrays.arrays(np.float32, (2, 5), elements=FLOATS)


def test_values_in_units() -> None:
    after = Values(labels=("inside", "outside"), units=("degC",), scale=(2.0,), offset=(1.0, -1.0),
                   low=-2.0)  # fmt: skip
    found = after.apply({"y": np.array([[10.0, -3.0]], np.float32)})
    assert found == (Value("inside", 21.0, "degC"), Value("outside", -2.0, "degC"))


def test_values_without_names_are_as_they_are() -> None:
    found = Values().apply({"y": np.array([[[1.5], [2.5]]], np.float32)})
    assert found == (Value(None, 1.5, None), Value(None, 2.5, None))
    assert Values(units=("m", "s")).apply({"y": np.ones(2)})[1] == Value(None, 1.0, "s")
    assert Values(labels=("a",), units=("m",)).apply({"y": np.ones(1)}) == (Value("a", 1.0, "m"),)


@pytest.mark.parametrize(("threshold", "strange"), [(0.49, True), (0.51, False), (0.5, False)])
def test_an_anomaly_is_what_is_not_given_back(threshold: float, strange: bool) -> None:
    given_, back = np.array([[1.0, 2.0]], np.float32), np.array([[1.0, 3.0]], np.float32)
    seen = Seen({"aside": np.zeros((1, 3), np.float32), "x": given_})
    found = Anomaly(threshold).apply({"y": back}, seen)
    # (0 + 1) / 2
    assert (found.score, found.anomaly) == (0.5, strange)
    assert Anomaly(threshold, "value").apply({"y": np.array([0.5])}).anomaly == strange


def test_what_is_no_number_is_an_anomaly() -> None:
    assert Anomaly(1.0, "value").apply({"y": np.array([np.nan])}).anomaly


@given(ROWS)
def test_an_embedding_has_length_one(values: np.ndarray) -> None:
    found = Embedding().apply({"y": values})
    assert found.dtype == np.float32
    for row, one in zip(values, found, strict=True):
        if np.abs(row).max() > 1e-20:
            assert np.linalg.norm(one) == pytest.approx(1.0, abs=1e-6)
            assert one == pytest.approx(row / np.linalg.norm(row.astype(np.float64)), abs=1e-6)


def test_what_has_no_length_stays_zeros() -> None:
    assert not Embedding(axis=0).apply({"y": np.zeros((3, 2), np.float32)}).any()


@pytest.mark.parametrize(
    ("after", "values", "seen", "says"),
    [
        (Values(labels=("a", "b")), np.zeros(3), None, "2 labels for 3 values"),
        (Values(scale=(1.0, 2.0)), np.zeros(3), None, "2 scale for 3 values"),
        (Anomaly(1.0), np.zeros(3), None, "not here"),
        (Anomaly(1.0), np.zeros(3), Seen({"x": np.zeros(4)}), "3 values"),
        (Anomaly(1.0, input="z"), np.zeros(3), Seen({"x": np.zeros(3)}), "3 values"),
        (Anomaly(1.0, "value"), np.zeros(3), None, "not one score"),
        (Embedding(axis=1), np.zeros(3), None, "no axis 1"),
    ],
)
def test_outputs_that_do_not_fit(after: Any, values: Any, seen: Any, says: str) -> None:
    with pytest.raises(WrongInput, match=says) as caught:
        after.apply({"y": values}, seen)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"labels": ("a", "a")}, "labels"),
        ({"labels": ("a", "b", "c"), "scale": (1.0, 2.0)}, "scale"),
        ({"labels": ("a", "b", "c"), "units": ("m", "s")}, "units"),
        ({"offset": ()}, "offset"),
        ({"low": 2.0, "high": 1.0}, "low"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(BadValue) as caught:
        Values(**settings)
    assert caught.value.keys == (key,)
    assert caught.value.hint

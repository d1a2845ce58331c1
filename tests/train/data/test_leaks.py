"""What two parts share, groups that are torn, classes unlike in size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.data.dataset import signature_of
from edgedl.train.data.leaks import all_of, class_weights, imbalance, looked_through, said_of, torn
from edgedl.train.shapes import TensorShape


def samples(values: list[float], labels: list[int]) -> Samples:
    given = from_arrays({"x": np.array(values, np.float32)[:, None], "labels": np.array(labels)})
    return given.bind(signature_of({"x": TensorShape((1,))}))


def test_copies_are_found_by_hand() -> None:
    every = samples([1, 2, 3, 2, 1, 9], [0, 1, 0, 0, 0, 1])
    parts = {"training": every.take([0, 1]), "validation": every.take([2, 3]),
             "test": every.take([4, 5])}  # fmt: skip
    found = looked_through(parts).shared
    assert [(s.part, s.other, s.places.tolist(), s.twins.tolist()) for s in found] == [
        ("validation", "training", [1], [1]),
        ("test", "training", [0], [0]),
    ]
    assert said_of(found[0], parts, dropped=False) == (
        "1 of 2 validation samples are training samples, too (row 3 is row 1; 1 of them bear"
        " another label): what is measured on them says too much"
    )
    assert said_of(found[1], parts, dropped=True) == (
        "1 of 2 test samples were training samples, too (row 4 is row 0), and were left out"
    )


def test_values_that_are_not_finite_are_named() -> None:
    every = from_arrays({"x": np.array([[1], [np.nan], [np.inf], [2]], np.float32)})
    signature = signature_of({"x": TensorShape((1,))})
    bound = Samples(every.take([0, 3]).bind(signature).source, None, np.arange(4), "a.npz")
    with pytest.raises(BadSamples, match=r"row 1 makes values .*; 2 of 4 samples are damaged"):
        raise all_of(looked_through({"training": bound}).damaged, 4)


def test_torn_groups() -> None:
    groups = np.array([0, 0, 1, 1, 2])
    whole = {"training": np.array([0, 1]), "test": np.array([2, 3, 4])}
    assert torn(groups, whole) == ()
    assert torn(groups, {"training": np.array([0, 2]), "test": np.array([1, 3])}) == (
        "2 groups have rows for training and for test",
    )


def test_imbalance() -> None:
    labels = np.array([0] * 50 + [1] * 10 + [2] * 11)
    [said] = imbalance(labels, ("a", "b", "c"))
    assert "`a` has 50 training rows, `b` 10" in said
    assert imbalance(labels[1:], ("a", "b", "c")) == ()


def test_class_weights_by_hand() -> None:
    # 6 rows, 2 classes that occur: 6 / (2 * 4) and 6 / (2 * 2)
    found = class_weights(np.array([0, 0, 0, 0, 2, 2]), 4)
    assert found.tolist() == [0.75, 0, 1.5, 0]
    assert found.dtype == np.float32


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_class_weights_give_each_class_the_same_say(labels: list[int]) -> None:
    classes = np.array(labels)
    weights = class_weights(classes)
    totals = [weights[name] * (classes == name).sum() for name in np.unique(classes)]
    assert totals == pytest.approx([totals[0]] * len(totals), rel=1e-5)
    assert weights[classes].mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "labels", [np.array([0.5]), np.array([[1]]), np.array([-1]), np.zeros(0, int), np.array([3])]
)
def test_labels_that_name_no_classes(labels: np.ndarray) -> None:
    with pytest.raises(BadSamples):
        class_weights(labels, 3)

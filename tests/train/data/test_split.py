"""Parts that are disjoint, whole, in proportion, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import BadSamples
from edgedl.train.data.split import Parts, draw, split, split_in_time

SHARES = st.sampled_from([0.1, 0.2, 0.3])


def of(labels: object, groups: object = None, test: object = None, seed: int = 0) -> Parts:
    given = [None if one is None else np.asarray(one) for one in (labels, groups, test)]
    return split(
        len(given[0]), labels=given[0], groups=given[1], test=given[2],  # type: ignore[arg-type]
        validation=0.1, holdout=0.2, seed=seed,
    )  # fmt: skip


@given(st.lists(st.integers(0, 3), min_size=10, max_size=200), SHARES, SHARES, st.integers(0, 9))
def test_parts_are_disjoint_and_in_proportion(
    labels: list[int], validation: float, holdout: float, seed: int
) -> None:
    classes = np.array(labels)
    count = len(classes)
    found = split(count, labels=classes, groups=None, test=None, validation=validation,
                  holdout=holdout, seed=seed)  # fmt: skip
    rows = np.concatenate([found.train, found.validation, found.test])
    assert np.array_equal(np.sort(rows), np.arange(count))
    assert len(found.test) == round(count * holdout)
    assert abs(len(found.validation) - count * validation) <= 1
    for name in np.unique(classes):
        exact = (classes == name).sum() * len(found.test) / count
        assert abs((classes[found.test] == name).sum() - exact) < 1
    again = split(count, labels=classes, groups=None, test=None, validation=validation,
                  holdout=holdout, seed=seed)  # fmt: skip
    assert np.array_equal(found.train, again.train)
    assert np.array_equal(found.test, again.test)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=20, max_size=200),
    st.integers(0, 5),
)
def test_a_group_stands_on_one_side(rows: list[tuple[int, int]], seed: int) -> None:
    labels, groups = np.array(rows).T
    if len(np.unique(groups)) < 4:
        groups = np.arange(len(groups)) % 4
    found = of(labels, groups, seed=seed)
    sides = [set(groups[part]) for part in (found.train, found.validation, found.test)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    assert sum(map(len, (found.train, found.validation, found.test))) == len(labels)


def test_groups_keep_proportions_where_they_can() -> None:
    # thirty people, each with ten rows of two classes
    groups = np.repeat(np.arange(30), 10)
    labels = np.tile([0, 0, 0, 1, 1, 1, 1, 1, 1, 1], 30)
    found = of(labels, groups)
    assert len(found.test) == 60
    assert len(found.validation) == 30
    assert (labels[found.test] == 0).mean() == pytest.approx(0.3)


def test_an_official_test_split_stays() -> None:
    test = np.arange(100) % 4 == 3
    found = of(np.zeros(100, int), test=test)
    assert np.array_equal(found.test, np.flatnonzero(test))
    # a tenth of the 75 others
    assert len(found.validation) == 8
    assert len(found.train) == 67


def test_seeds_differ() -> None:
    labels = np.zeros(50, int)
    assert not np.array_equal(of(labels, seed=0).test, of(labels, seed=1).test)


def test_values_to_regress_are_no_classes() -> None:
    values = np.random.default_rng(0).random((40, 2), np.float32)
    assert len(of(values).test) == 8


@pytest.mark.parametrize(
    ("labels", "groups", "test", "says"),
    [
        ([0], None, None, "1 rows cannot be split"),
        ([0, 1], None, None, "cannot be split"),
        ([0] * 9, [1] * 9, None, "one group cannot be split"),
        ([0] * 4, None, [True] * 4, "the training split has no rows"),
        ([0] * 4, None, [False] * 4, "the test split has no rows"),
    ],
)
def test_too_few(labels: list[int], groups: object, test: object, says: str) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        of(labels, groups, test)
    assert caught.value.hint


def test_in_time_by_hand() -> None:
    # ten windows of 4 frames, 2 apart: window i has the frames from 2i to 2i+4
    spans = np.array([[0, 2 * i, 2 * i + 4] for i in range(10)])
    found = split_in_time(spans, 0.2, 0.3)
    # 3 for the test from 14 on; 2 for validation, of which the second ends at 16 and is left out;
    # 5 to train on, of which the last ends at 12, where validation begins at 10
    assert found.test.tolist() == [7, 8, 9]
    assert found.validation.tolist() == [5]
    assert found.train.tolist() == [0, 1, 2, 3]


@given(st.integers(20, 60), st.integers(1, 6), st.integers(1, 4))
def test_in_time_no_frame_is_shared(count: int, length: int, hop: int) -> None:
    spans = np.array([[s, i * hop, i * hop + length] for s in range(2) for i in range(count)])
    try:
        found = split_in_time(spans, 0.25, 0.25)
    except BadSamples:
        return
    frames = [
        {(s, f) for s, a, b in spans[rows] for f in range(a, b)}
        for rows in (found.train, found.validation, found.test)
    ]
    assert not frames[0] & frames[1]
    assert not frames[1] & frames[2]
    assert not frames[0] & frames[2]


def test_in_time_too_few() -> None:
    with pytest.raises(BadSamples, match="leave none for the validation part"):
        split_in_time(np.array([[0, 0, 4], [0, 4, 8]]), 0.1, 0.5)


@given(st.lists(st.integers(0, 2), min_size=5, max_size=60), st.integers(1, 70))
def test_drawing_keeps_proportions(labels: list[int], most: int) -> None:
    classes = np.array(labels)
    rows = np.arange(len(classes))
    found = draw(rows, classes, most, 0)
    assert len(found) == min(most, len(rows))
    assert len(set(found.tolist())) == len(found)
    for name in np.unique(classes):
        exact = (classes == name).sum() * len(found) / len(rows)
        assert abs((classes[found] == name).sum() - exact) < 1

"""Average precision by hand, as COCO defines it, and boxes against float's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.benchmark.metrics import metric_of
from edgedl.core.errors import BadSamples
from edgedl.runtime.process.boxes import Boxes

Rows = list[list[float]]
A, B, C = [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]
NOTHING = [0, 0, 0, 0, -1]


def precision(found: list[Rows], true: list[Rows], spec: str = "detection:format=final") -> float:
    metric = metric_of(spec)
    return metric.total(metric.rows(answered(found, [np.asarray(one, np.float32) for one in true])))


def answered(found: list[Rows], truth: list[Any]) -> list[tuple[Any, Any, Any]]:
    return [(output(rows), label, {}) for rows, label in zip(found, truth, strict=True)]


def output(rows: Rows) -> dict[str, np.ndarray]:
    return {"y": np.asarray(rows, np.float32).reshape(1, -1, 6)}


def recalled(*points: tuple[float, int]) -> float:
    """101 points: so many of them at this precision, the others at 0."""
    return sum(height * count for height, count in points) / 101


HALF = "detection:format=final,iou=0.5"
CASES: dict[str, tuple[str, list[Rows], list[Rows], float]] = {
    "all right": (HALF, [[[*A, 0.9, 0]], [[*B, 0.8, 0]]], [[[*A, 0]], [[*B, 0]]], 1.0),
    "one of two": (HALF, [[[*A, 0.9, 0]]], [[[*A, 0], [*B, 0]]], recalled((1, 51))),
    "nothing found": (HALF, [[[*A, 0, 0]]], [[[*A, 0]]], 0.0),
    # precision 1, 1/2, 2/3 at recalls 1/2, 1/2, 1: 1 up to 0.5, then 2/3
    "a false one between": (
        HALF,
        [[[*A, 0.9, 0], [*C, 0.8, 0], [*B, 0.7, 0]]],
        [[[*A, 0], [*B, 0], NOTHING]],
        recalled((1, 51), (2 / 3, 50)),
    ),
    "a false one first": (HALF, [[[*C, 0.9, 0], [*A, 0.8, 0]]], [[[*A, 0]]], 1 / 2),
    "another sample's certainty counts": (
        HALF, [[[*A, 0.8, 0]], [[*C, 0.9, 0]]], [[[*A, 0]], [NOTHING]], 1 / 2,
    ),
    "of another class": (HALF, [[[*A, 0.9, 1]]], [[[*A, 0]]], 0.0),
    "the mean of classes": (
        HALF, [[[*A, 0.9, 0], [*C, 0.8, 1]]], [[[*A, 0], [*B, 1]]], 1 / 2,
    ),
    # 10 x 7 of 10 x 10 holds at 0.5, 0.55, 0.6, 0.65 and 0.7
    "half the overlaps": (
        "detection:format=final", [[[0, 0, 10, 7.01, 0.9, 0]]], [[[*A, 0]]], 5 / 10,
    ),
    "one box is met once": (
        HALF, [[[*A, 0.9, 0], [0, 0, 10, 6, 0.8, 0], [*B, 0.7, 0]]], [[[*A, 0], [*B, 0]]],
        recalled((1, 51), (2 / 3, 50)),
    ),
    "in a crowd nothing counts": (
        HALF, [[[*C, 0.9, 0], [51, 51, 55, 55, 0.8, 0], [*A, 0.7, 0]]],
        [[[*A, 0, 0], [*C, 0, 1]]], 1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "found", "true", "expected"), CASES.values(), ids=CASES)
def test_by_hand(spec: str, found: list[Rows], true: list[Rows], expected: float) -> None:
    assert precision(found, true, f"{spec},overlap=1") == pytest.approx(expected)


def test_without_a_true_box_there_is_no_figure() -> None:
    assert np.isnan(precision([[[*A, 0.9, 0]]], [[NOTHING]]))


def twin(found: list[Rows], floats: list[Rows], spec: str = "detection:format=final") -> float:
    metric = metric_of(spec).without_labels
    assert metric is not None
    return metric.total(metric.rows(answered(found, [output(rows) for rows in floats])))


def test_without_labels_float_boxes_are_to_be_met() -> None:
    floats = [[[*A, 0.9, 0], [*B, 0.5, 1]], [[*C, 0.9, 0], [*A, 0.1, 0]]]
    assert twin(floats, floats) == 1
    # A keeps 9.5 / 10, B is of another class, C keeps 8 / 10; what is below 0.25 is not seen
    moved = [[[0, 0, 10, 9.5, 0.7, 0], [*B, 0.5, 0]], [[50, 50, 60, 58, 0.9, 0]]]
    assert twin(moved, floats) == pytest.approx(1 / 3)
    assert twin(moved, floats, "detection:format=final,threshold=0.6") == pytest.approx(1 / 2)
    assert twin([[[*A, 0.1, 0]]], [[[*A, 0.1, 0]]]) == 1


def test_settings_come_from_the_post_processing_where_none_are_given() -> None:
    boxes = Boxes("final", threshold=0.95)
    floats, found = [[[*A, 0.9, 0]]], [[[*B, 0.9, 0]]]
    for spec, expected in (("detection", 1.0), ("detection:threshold=0.5", 0.0)):
        metric = metric_of(spec, boxes).without_labels
        assert metric is not None
        rows = metric.rows(answered(found, [output(rows) for rows in floats]))
        assert metric.total(rows) == expected
    assert repr(metric_of("detection", boxes)) != repr(metric_of("detection", Boxes()))


def test_precision_starts_below_what_is_seen_on_the_device() -> None:
    assert precision([[[*A, 0.01, 0]]], [[[*A, 0]]]) == 1
    assert precision([[[*A, 0.01, 0]]], [[[*A, 0]]], "detection:format=final,threshold=0.3") == 0


BOX = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(5, 20), st.integers(5, 20))
FOUND = st.lists(st.tuples(BOX, st.integers(1, 99), st.integers(0, 1)), max_size=6)
TRUE = st.lists(st.tuples(BOX, st.integers(0, 1)), min_size=1, max_size=4)


@given(st.lists(st.tuples(FOUND, TRUE), min_size=1, max_size=4))
def test_it_is_a_share_that_false_boxes_never_raise(
    samples: list[tuple[list[Any], list[Any]]],
) -> None:
    found = [
        [[x, y, x + w, y + h, score / 100, kind] for (x, y, w, h), score, kind in rows]
        for rows, _ in samples
    ]
    true = [[[x, y, x + w, y + h, kind] for (x, y, w, h), kind in rows] for _, rows in samples]
    spec = "detection:format=final,overlap=1"
    before = precision(found, true, spec)
    assert 0 <= before <= 1
    more = [[*rows, [500, 500, 510, 510, 0.995, 0]] for rows in found]
    assert precision(more, true, spec) <= before + 1e-9
    exact = [[[*row[:4], 1.0 - i / 100, row[4]] for i, row in enumerate(rows)] for rows in true]
    assert precision(exact, true, spec) == pytest.approx(1)


def test_labels_that_are_no_boxes() -> None:
    check = metric_of("detection:format=final").check
    assert check is not None
    for labels, says in (
        (np.zeros((3, 4)), "no boxes"),
        (np.zeros((3, 2, 4)), "no boxes"),
        (np.full((3, 2, 5), -1.0), "hold no box"),
    ):
        with pytest.raises(BadSamples, match=says) as caught:
            check(labels, output([[*A, 0.9, 0]]))
        assert caught.value.hint is not None
        assert "(samples, most, 5)" in caught.value.hint

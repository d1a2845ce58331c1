"""Boxes out of outputs, each format by hand: one box of 20 x 40 around (50, 60)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.boxes import Boxes, overlaps, suppress
from edgedl.runtime.process.detect import Detect
from edgedl.runtime.process.place import Place
from edgedl.runtime.process.postprocess import Seen

WANTED = [40, 40, 60, 80]
FAR = -20.0
GRID: dict[str, Any] = {"size": (128, 128), "strides": (32, 64)}
CELL = 1 * 4 + 1  # row 1, column 1 of the 4 x 4 cells of stride 32; 4 further cells are of 64


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


def flat(values: list[float], cells: int = 20, at: int = CELL, empty: float = FAR) -> np.ndarray:
    found = np.full((1, cells, len(values)), empty, np.float32)
    found[0, at] = values
    return found


def final() -> tuple[Boxes, dict[str, np.ndarray]]:
    return Boxes(), {"y": np.array([[[*WANTED, 0.9, 1], [0, 0, 1, 1, 0.1, 0]]], np.float32)}


def three() -> tuple[Boxes, dict[str, np.ndarray]]:
    found = {
        "b": np.array([[WANTED, WANTED]]),
        "s": np.array([[0.9, 0.1]]),
        "c": np.array([[1, 0]]),
    }
    return Boxes(outputs=("b", "s", "c")), {"aside": np.zeros(3), **found}


def yolo() -> tuple[Boxes, dict[str, np.ndarray]]:
    return Boxes("yolo"), {"y": flat([50, 60, 20, 40, 0.1, 0.9], empty=0).swapaxes(1, 2)}


def yolo_with_objectness() -> tuple[Boxes, dict[str, np.ndarray]]:
    row = [50, 60, 20, 40, 0.95, 0.1, 0.9 / 0.95]
    return Boxes("yolo", objectness=True), {"y": flat(row, empty=0)}


def yolox() -> tuple[Boxes, dict[str, np.ndarray]]:
    row = [50 / 32 - 1, 60 / 32 - 1, np.log(20 / 32), np.log(40 / 32), 1, 0, 0.9]
    return Boxes("yolox", **GRID), {"y": flat(row, empty=0)}


def levels(row: list[float]) -> dict[str, np.ndarray]:
    """The row for the second of two anchors, and nothing at the other level."""
    near = np.full((1, 2, len(row), 4, 4), FAR, np.float32)
    near[0, 1, :, 1, 1] = row
    far = np.full((1, len(row), 2, 2), FAR, np.float32)
    return {"near": near.reshape(1, -1, 4, 4), "far": far}


ANCHORS: dict[str, Any] = {"anchors": ((5, 5, 10, 10), (99, 99)), **GRID}


def yolo_v3() -> tuple[Boxes, dict[str, np.ndarray]]:
    row = [logit(50 / 32 - 1), logit(60 / 32 - 1), np.log(2), np.log(4), 20, FAR, logit(0.9)]
    return Boxes("yolo-anchors", **ANCHORS), levels(row)


def yolo_v5() -> tuple[Boxes, dict[str, np.ndarray]]:
    centre = [logit((50 / 32 - 1 + 0.5) / 2), logit((60 / 32 - 1 + 0.5) / 2)]
    row = [*centre, logit(2**0.5 / 2), logit(3.9999**0.5 / 2), 20, FAR, logit(0.9)]
    return Boxes("yolo-anchors", squared=True, **ANCHORS), levels(row)


def ssd() -> tuple[Boxes, dict[str, np.ndarray]]:
    """The centre of the cell is (48, 48); of two anchors in each cell, the second."""
    row = [2 / 10 / 0.1, 12 / 10 / 0.1, np.log(2) / 0.2, np.log(4) / 0.2]
    scores = flat([20, logit(0.9), FAR], 36, 2 * CELL + 1)
    said = Boxes("ssd", activation="sigmoid", background=0, **ANCHORS)
    return said, {"boxes": flat(row, 36, 2 * CELL + 1, 0), "scores": scores}


def blazeface() -> tuple[Boxes, dict[str, np.ndarray]]:
    """Offsets in pixels, sizes as they are, landmarks behind them."""
    said = Boxes("ssd", variances=(1, 1), linear=True, anchors=((1, 1), (1, 1)),
                 activation="sigmoid", **GRID)  # fmt: skip
    return said, {"b": flat([2, 12, 20, 40, 7, 7], empty=0), "s": flat([FAR, logit(0.9)])}


def distances() -> tuple[Boxes, dict[str, np.ndarray]]:
    sides = [(48 - 40) / 32, (48 - 40) / 32, (60 - 48) / 32, (80 - 48) / 32]
    said = Boxes("distances", activation="softmax", background=2, **GRID)
    scores = flat([np.log(0.04), np.log(0.9), np.log(0.06)], empty=0)
    scores[0, :, 2] = np.where(np.arange(20) == CELL, scores[0, :, 2], 20)
    return said, {"sides": flat(sides, empty=0), "scores": scores}


def distributions() -> tuple[Boxes, dict[str, np.ndarray]]:
    """Each side's distance is half of one bin and half of the next, or all of one."""
    size = 16
    sides = [(48 - 40) / size * 2, (48 - 40) / size * 2, (60 - 48) / size * 2, (80 - 48) / size * 2]
    shares = np.full((4, 5), FAR * 5, np.float32)
    for row, side in zip(shares, sides, strict=True):
        low = int(side)
        row[low] = np.log(1 - (side - low) + 1e-30)
        row[min(low + 1, 4)] = np.log(side - low + 1e-30) if side > low else row[min(low + 1, 4)]
    grid: dict[str, Any] = {"size": (128, 128), "strides": (8,)}
    at = 5 * 16 + 5  # its centre is (44, 44)
    table = flat([0.0, 0.9], 256, at, 0)
    rows = np.zeros((1, 256, 20), np.float32)
    rows[0, at] = shares.ravel()
    return Boxes("distances", bins=5, **grid), {"sides": rows, "scores": table}


FORMATS = [final, three, yolo, yolo_with_objectness, yolox, yolo_v3, yolo_v5, ssd, blazeface,
           distances]  # fmt: skip


@pytest.mark.parametrize("make", FORMATS, ids=lambda make: make.__name__)
def test_by_hand(make: Any) -> None:
    said, outputs = make()
    found = Detect(said).apply(outputs)
    assert found.boxes == pytest.approx(np.array([WANTED]), abs=1e-2)
    assert found.scores == pytest.approx(np.array([0.9]), abs=1e-5)
    assert found.classes.tolist() == [1]
    assert found.boxes.dtype == found.scores.dtype == np.float32


def test_distances_as_distributions_are_their_means() -> None:
    said, outputs = distributions()
    # the distances are 1, 1, 1.5 and 4 strides of 8 from (44, 44)
    assert said.decode(outputs).boxes == pytest.approx(np.array([[36, 36, 56, 76]]), abs=1e-3)


def test_what_overlaps_a_surer_one_of_its_class_goes() -> None:
    rows = [[0, 0, 10, 10, 0.5, 0], [0, 0, 10, 9, 0.9, 0], [0, 0, 10, 10, 0.7, 1],
            [0, 5, 10, 15, 0.6, 0]]  # fmt: skip
    outputs = {"y": np.array([rows], np.float32)}
    found = Boxes(overlap=0.65).decode(outputs)
    assert found.scores == pytest.approx(np.array([0.9, 0.7, 0.6]))
    assert found.classes.tolist() == [0, 1, 0]
    assert Boxes(overlap=0.65, most=1).decode(outputs).scores == pytest.approx(np.array([0.9]))
    assert len(Boxes(overlap=1.0).decode(outputs).scores) == 4
    assert len(Boxes(threshold=0.8).decode(outputs).scores) == 1
    assert Boxes(threshold=0.95).decode(outputs).boxes.shape == (0, 4)


def test_overlap_by_hand() -> None:
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    b = np.array([[5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    assert overlaps(a, b) == pytest.approx(np.array([[50 / 150, 0], [0, 0]]))


CORNERS = arrays(np.float32, (7, 2), elements=st.floats(0, 100, width=16))
SIZES = arrays(np.float32, (7, 2), elements=st.floats(1, 50, width=16))


@given(CORNERS, SIZES, st.floats(0.1, 0.9))
def test_none_that_is_kept_overlaps_another_and_all_others_do(
    corners: np.ndarray, sizes: np.ndarray, limit: float
) -> None:
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    classes = np.arange(7) % 2
    kept = suppress(boxes, classes, limit)
    shared = overlaps(boxes, boxes) * (classes[:, None] == classes)
    assert shared == pytest.approx(shared.T)
    assert np.diag(shared) == pytest.approx(np.ones(7), abs=1e-5)
    among = shared[np.ix_(kept, kept)] - np.eye(len(kept))
    assert (among <= limit + 1e-6).all()
    gone = np.setdiff1d(np.arange(7), kept)
    assert all(shared[i, kept[kept < i]].max(initial=0) > limit for i in gone)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no size": ({"format": "yolox", "strides": (8,)}, "size"),
    "no strides": ({"format": "distances", "size": (64, 64)}, "strides"),
    "a stride of nothing": ({"format": "yolox", "size": (64, 64), "strides": (0,)}, "1 or more"),
    "anchors of another level": ({"format": "ssd", **GRID, "anchors": ((1, 1),)}, "1 levels"),
    "half an anchor": ({"format": "ssd", **GRID, "anchors": ((1,), (1, 1))}, "a width and"),
    "scores twice": ({"format": "yolo-anchors", **ANCHORS, "activation": "sigmoid"}, "itself"),
}


@pytest.mark.parametrize(("settings", "says"), BAD.values(), ids=BAD)
def test_settings_that_cannot_be(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValue, match=says) as caught:
        Boxes(**settings)
    assert caught.value.hint


MISFITS: dict[str, tuple[Boxes, list[tuple[int, ...]]]] = {
    "rows of 5": (Boxes(), [(1, 9, 5)]),
    "two samples": (Boxes("yolo"), [(2, 9, 6)]),
    "one axis": (Boxes("yolo"), [(9,)]),
    "another grid": (Boxes("yolox", **GRID), [(1, 21, 6)]),
    "a level too few": (Boxes("yolo-anchors", **ANCHORS), [(1, 14, 4, 4)]),
    "another grid of a level": (Boxes("yolo-anchors", **ANCHORS), [(1, 14, 4, 4), (1, 7, 3, 3)]),
    "no scores": (Boxes("ssd", **ANCHORS), [(1, 36, 4)]),
    "other anchors": (Boxes("ssd", **ANCHORS), [(1, 35, 4), (1, 35, 2)]),
    "unlike many": (Boxes("distances", **GRID), [(1, 20, 4), (1, 21, 2)]),
    "other cells": (Boxes("distances", **GRID), [(1, 21, 4), (1, 21, 2)]),
    "another name": (Boxes(outputs=("z",)), [(1, 9, 6)]),
}


@pytest.mark.parametrize(("said", "shapes"), MISFITS.values(), ids=MISFITS)
def test_outputs_that_hold_none(said: Boxes, shapes: list[tuple[int, ...]]) -> None:
    outputs = {f"y{i}": np.zeros(shape, np.float32) for i, shape in enumerate(shapes)}
    with pytest.raises(WrongInput) as caught:
        said.decode(outputs)
    assert caught.value.hint


SHIFTED = Place((100, 200), (50, 100), (80, 100), (15, 0))


def test_boxes_in_the_picture() -> None:
    said, outputs = final()
    found = Detect(said, "picture").apply(outputs, Seen({}, SHIFTED))
    left, top, right, bottom = WANTED
    wanted = [left * 2, (top - 15) * 2, right * 2, (bottom - 15) * 2]
    assert found.boxes == pytest.approx(np.clip([wanted], 0, [200, 100, 200, 100]), abs=1e-2)
    inside = Detect(said).apply(outputs, Seen({}, SHIFTED))
    assert inside.boxes == pytest.approx(np.array([WANTED]), abs=1e-2)


DETECTIONS = st.lists(
    st.tuples(
        *[st.integers(0, 30)] * 2, *[st.integers(0, 12)] * 2, st.integers(0, 9), st.booleans()
    ),
    max_size=30,
)


@given(DETECTIONS, st.sampled_from([0.0, 0.3, 0.5, 0.9]))
@settings(deadline=None)
def test_what_is_kept_never_overlaps_and_what_is_left_out_does(
    found: list[tuple[Any, ...]], overlap: float
) -> None:
    rows = [[x, y, x + w, y + h, score / 10, kind] for x, y, w, h, score, kind in found]
    table = np.array(rows, np.float32).reshape(-1, 6)
    said = Boxes("final", overlap=overlap, threshold=0.15, most=1000)
    kept = said.decode({"y": table[None]})
    assert (np.diff(kept.scores) <= 0).all()
    assert (kept.scores >= 0.15).all()
    for i in range(len(kept.boxes)):
        for j in range(i):
            if kept.classes[i] == kept.classes[j]:
                assert shared(kept.boxes[i], kept.boxes[j]) <= overlap + 1e-6
    for row in table[table[:, 4] >= 0.15]:
        mine = [box for box, kind, score in zip(kept.boxes, kept.classes, kept.scores, strict=True)
                if kind == row[5] and score >= row[4]]  # fmt: skip
        assert any(np.array_equal(box, row[:4]) or shared(box, row[:4]) > overlap - 1e-6
                   for box in mine)  # fmt: skip


def shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, by the definition."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    tall = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = wide * tall
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0

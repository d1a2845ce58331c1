"""Detection: decoded boxes against true ones, or against those of float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from edgedl.benchmark.metrics.metric import Answers, Metric, Rows, ratio_of_sums
from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.boxes import Boxes, Detections, overlaps

COCO_IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
RECALLS = np.linspace(0, 1, 101)
LEAST_SCORE = 0.001
SAME = 0.9
HINT = (
    "save float32 of shape (samples, most, 5): left, top, right, bottom, class; rows of class -1"
    " fill up, and a sixth column may say 1 for a crowd"
)


@dataclass(frozen=True)
class Matched:
    """One sample's boxes, found and true.

    Attributes:
        scores, classes: of what was found, the most certain first, [found].
        right, ignored: whether it met a true box, or only a crowd, at each overlap, bool of shape
            [overlaps, found].
        true: how many true boxes there are of each class.
    """

    scores: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    true: Mapping[int, int]


def detection(
    *,
    boxes: Boxes | None = None,
    iou: tuple[float, ...] = COCO_IOUS,
    format: Literal["final", "yolo", "yolox", "yolo-anchors", "ssd", "distances"] | None = None,  # noqa: A002
    outputs: tuple[str, ...] | None = None,
    size: tuple[int, int] | None = None,
    strides: tuple[int, ...] | None = None,
    objectness: bool | None = None,
    activation: Literal["none", "sigmoid", "softmax"] | None = None,
    background: int | None = None,
    bins: int | None = None,
    threshold: float | None = None,
    overlap: float | None = None,
    most: int | None = None,
) -> Metric:
    """Mean average precision of decoded boxes, over classes and overlaps from 0.5 to 0.95.

    Lin et al., Microsoft COCO (ECCV 2014), as pycocotools computes it for objects of any size: at
    most 100 boxes a sample, precision at 101 recalls, crowds neither right nor wrong. `iou=0.5`
    is the measure of PASCAL VOC. Without labels: the share of float's boxes that overlap one of
    the same class by 0.9 or more.

    Settings are those of `Boxes`; what is not given comes from the post-processing. Without
    `threshold`, boxes count from 0.001 on with labels, as is usual for precision, and from the
    post-processing's threshold on without, as they are seen.
    """
    given: dict[str, Any] = {
        "format": format, "outputs": outputs, "size": size, "strides": strides, "bins": bins,
        "objectness": objectness, "activation": activation, "background": background,
        "threshold": threshold, "overlap": overlap, "most": most,
    }  # fmt: skip
    if boxes is None and format is None:
        raise BadValue(
            "nothing says how the outputs hold boxes",
            hint="detection:format=yolo, or `postprocess: {kind: boxes, boxes: {...}}` in the"
            " pre-processing's YAML",
        )
    if not all(0 < value <= 1 for value in iou):
        raise BadValue("an overlap is above 0 and at most 1", hint="iou=0.5")
    said = replace(boxes or Boxes(), **{k: v for k, v in given.items() if v is not None})
    every = said if threshold is not None else replace(said, threshold=LEAST_SCORE)

    def collect(answers: Answers, label: Any) -> Matched:
        wanted = _true(label)
        return match(every.decode(answers), wanted[0], wanted[1], iou, wanted[2])

    def twin(answers: Answers, floats: Answers) -> tuple[int, int]:
        wanted = said.decode(floats)
        found = match(said.decode(answers), wanted.boxes, wanted.classes, (SAME,))
        return int(found.right.sum()), len(wanted.boxes)

    alike = Metric("detection", "boxes matched", twin, whole=partial(ratio_of_sums, nothing=1.0))
    figure = "mAP" if len(iou) > 1 else f"mAP@{iou[0]:g}"
    return Metric(
        "detection",
        figure,
        collect,
        whole=mean_average_precision,
        without_labels=alike,
        check=lambda labels, answers: _check(collect, labels, answers),
    )


def _check(collect: Any, labels: np.ndarray, answers: Answers) -> None:
    if labels.ndim != 3 or labels.shape[2] not in (5, 6):
        raise BadSamples(f"labels of shape {labels.shape} are no boxes", hint=HINT)
    if not (labels[..., 4] >= 0).any():
        raise BadSamples("the labels hold no box", hint=HINT)
    collect(answers, labels[0])


def _true(label: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [n, 4], classes [n] and whether each is a crowd [n]."""
    table = np.asarray(label, np.float32)
    table = table[table[:, 4] >= 0]
    crowd = table[:, 5] > 0.5 if table.shape[1] == 6 else np.zeros(len(table), bool)
    return table[:, :4], table[:, 4].astype(np.int64), crowd


def match(
    found: Detections,
    boxes: np.ndarray,
    classes: np.ndarray,
    ious: Sequence[float],
    crowd: np.ndarray | None = None,
) -> Matched:
    """Give each found box, the most certain first, the true one of its class that it overlaps most,
    where no other has it; a crowd may be met by many."""
    crowds = np.zeros(len(boxes), bool) if crowd is None else crowd
    levels = np.asarray(ious)[:, None]
    right = np.zeros((len(levels), len(found.boxes)), bool)
    ignored = np.zeros_like(right)
    for kind in np.intersect1d(found.classes, classes):
        wanted, taken = boxes[(classes == kind) & ~crowds], boxes[(classes == kind) & crowds]
        free = np.ones((len(levels), len(wanted)), bool)
        mine = np.flatnonzero(found.classes == kind)
        shared = overlaps(found.boxes[mine], wanted)
        within = _within(found.boxes[mine], taken)
        for row, i in enumerate(mine):
            able = np.where(free & (shared[row] >= levels), shared[row], -1.0)
            if able.shape[1]:
                best = able.argmax(axis=1)
                right[:, i] = able.max(axis=1) > 0
                free[right[:, i], best[right[:, i]]] = False
            ignored[:, i] = ~right[:, i] & (within[row] >= levels[:, 0])
    true = {int(kind): int(np.sum((classes == kind) & ~crowds)) for kind in np.unique(classes)}
    return Matched(found.scores, found.classes, right, ignored, true)


def _within(boxes: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """The largest share of each box that lies in a crowd."""
    if not len(crowds):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], crowds[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2).max(axis=1)
    areas = np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1)
    return np.asarray(np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0))


def mean_average_precision(rows: Rows) -> float:
    """The mean over the classes that have true boxes, and over overlaps; NaN where none have."""
    true: dict[int, int] = {}
    for row in rows:
        for kind, count in row.true.items():
            true[kind] = true.get(kind, 0) + count
    scores, classes = (np.concatenate([getattr(r, n) for r in rows]) for n in ("scores", "classes"))
    right, ignored = (
        np.concatenate([getattr(r, n) for r in rows], axis=1) for n in ("right", "ignored")
    )
    order = np.lexsort((-scores, classes))
    classes, right, ignored = classes[order], right[:, order], ignored[:, order]
    found = []
    for kind, count in sorted(true.items()):
        if count:
            mine = slice(*np.searchsorted(classes, (kind, kind + 1)))
            found.append(average_precision(right[:, mine], ignored[:, mine], count))
    return float(np.mean(found)) if found else float("nan")


def average_precision(right: np.ndarray, ignored: np.ndarray, true: int) -> float:
    """The mean over overlaps of precision at 101 recalls, none of them below a later one.

    Args:
        right, ignored: of boxes of one class, the most certain first, bool [overlaps, found].
    """
    if not right.shape[1]:
        return 0.0
    hits = np.cumsum(right & ~ignored, axis=1)
    misses = np.cumsum(~right & ~ignored, axis=1)
    precision = hits / np.maximum(hits + misses, 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for level, recall in enumerate(hits / true):
        places = np.searchsorted(recall, RECALLS, side="left")
        inside = places[places < len(recall)]
        total += float(precision[level, inside].sum()) / len(RECALLS)
    return total / len(right)

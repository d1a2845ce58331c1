"""Segmentation: a class for each pixel, or what is above a threshold."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from edgedl.benchmark.metrics.metric import (
    Answers,
    Metric,
    Rows,
    first,
    ratio_of_sums,
)
from edgedl.core.errors import BadSamples


def segmentation(*, axis: int = 1, threshold: float | None = None, ignore: int = 255) -> Metric:
    """The mean over classes of intersection over union, both summed over all samples.

    Everingham et al., The PASCAL Visual Object Classes Challenge, IJCV 88 (2010). The first output
    holds a score for each class along `axis`, or the classes themselves. Where it is one map, or a
    threshold is given, what is above it (0.5 as a rule) is the one class that counts: the
    background of a text detector would hide the rest. Pixels whose label is `ignore`, or negative,
    count nowhere.

    Without labels: the share of pixels that have float's class; for one map, the intersection over
    union with float's.
    """
    of = partial(_map, axis=axis, threshold=threshold)

    def collect(answers: Answers, label: Any) -> np.ndarray:
        return _overlaps(*_counted(of(first(answers)), label, ignore))

    def twin(answers: Answers, floats: Answers) -> tuple[float, float]:
        (found, single), (wanted, _) = of(first(answers)), of(first(floats))
        if single:
            intersection, union = _overlaps(found, wanted, single)[0]
            return float(intersection), float(union)
        return float(np.sum(found == wanted)), float(wanted.size)

    return Metric(
        "segmentation",
        "mIoU",
        collect,
        whole=mean_iou,
        parts=class_ious,
        without_labels=_alike("segmentation", twin),
        check=partial(_check, "segmentation", collect),
    )


def pixel_accuracy(*, axis: int = 1, threshold: float | None = None, ignore: int = 255) -> Metric:
    """The share of all samples' pixels that have their class; settings as of `segmentation`.

    Where one class covers most of the pictures, it says little of the others.
    """
    of = partial(_map, axis=axis, threshold=threshold)

    def collect(answers: Answers, label: Any) -> tuple[float, float]:
        found, wanted, _ = _counted(of(first(answers)), label, ignore)
        return float(np.sum(found == wanted)), float(wanted.size)

    def twin(answers: Answers, floats: Answers) -> tuple[float, float]:
        (found, _), (wanted, _) = of(first(answers)), of(first(floats))
        return float(np.sum(found == wanted)), float(wanted.size)

    return Metric(
        "pixel_accuracy",
        "pixel accuracy",
        collect,
        whole=partial(ratio_of_sums, nothing=float("nan")),
        without_labels=_alike("pixel_accuracy", twin),
        check=partial(_check, "pixel_accuracy", collect),
    )


def _alike(name: str, twin: Any) -> Metric:
    return Metric(name, "agreement of maps", twin, whole=partial(ratio_of_sums, nothing=1.0))


def _check(name: str, collect: Any, labels: np.ndarray, answers: Answers) -> None:
    if not np.issubdtype(labels.dtype, np.integer) and labels.dtype != bool:
        raise BadSamples(
            f"{name} needs a class for each pixel, the labels are {labels.dtype}",
            hint="save them as uint8 or int64 of shape (samples, height, width)",
        )
    collect(answers, labels[0])


def _counted(
    answered: tuple[np.ndarray, bool], label: Any, ignore: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """The classes given and wanted of the pixels that count, and whether only one class does.

    Raises:
        BadSamples: the map is of another size than the label.
    """
    found, single = answered
    wanted = np.asarray(label).reshape(-1)
    if found.size != wanted.size:
        raise BadSamples(
            f"a label has {wanted.size} pixels, the model's map {found.size}",
            hint="save labels in the size of the output, without a channel axis",
        )
    counted = (wanted != ignore) & (wanted >= 0)
    return found[counted], wanted[counted].astype(np.int64), single


def _map(answer: np.ndarray, axis: int, threshold: float | None) -> tuple[np.ndarray, bool]:
    """The class of each pixel, flat, and whether only one class counts."""
    if not np.issubdtype(answer.dtype, np.floating):
        return answer.reshape(-1).astype(np.int64), answer.dtype == bool
    if not -answer.ndim <= axis < answer.ndim:
        raise BadSamples(
            f"the first output, of shape {answer.shape}, has no axis {axis}",
            hint="segmentation:axis=... says where the classes lie",
        )
    if threshold is None and answer.shape[axis] > 1:
        return answer.argmax(axis).reshape(-1), False
    above = answer > (0.5 if threshold is None else threshold)
    return above.reshape(-1).astype(np.int64), True


def _overlaps(found: np.ndarray, wanted: np.ndarray, single: bool) -> np.ndarray:
    """Intersection and union of each class in pixels, int64 of shape [classes, 2]."""
    classes = int(max(found.max(initial=0), wanted.max(initial=0))) + 1
    shared = np.bincount(wanted[found == wanted], minlength=classes)
    union = np.bincount(found, minlength=classes) + np.bincount(wanted, minlength=classes) - shared
    both = np.stack([shared, union], axis=1)
    if not single:
        return both
    return both[1:2] if classes > 1 else np.zeros((1, 2), np.int64)


def class_ious(rows: Rows) -> np.ndarray:
    """Intersection over union of each class over all rows' maps, float64 of shape [classes]; NaN
    where it is in none."""
    sums = np.zeros((max(map(len, rows), default=0), 2))
    for row in rows:
        sums[: len(row)] += row
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1])


def mean_iou(rows: Rows) -> float:
    """The mean over the classes that are in any of the rows' maps; NaN where there are none."""
    ious = class_ious(rows)
    there = ious[~np.isnan(ious)]
    return float(np.mean(there)) if len(there) else float("nan")

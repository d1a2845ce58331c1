"""Classification: one class of several, or any number of labels that apply."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from edgedl.benchmark.metrics.metric import (
    Answers,
    Metric,
    Rows,
    against,
    first,
    numbers,
    ratio_of_sums,
    same_size,
    whole_numbers,
)
from edgedl.benchmark.metrics.ranks import area_under_roc, spearman_of_rows
from edgedl.core.errors import BadSamples


def top1() -> Metric:
    """Whether the largest entry of the first output stands at the label."""
    return _top("top1", 1)


def top5() -> Metric:
    """Whether the label is among the five largest entries of the first output."""
    return _top("top5", 5)


def _top(name: str, count: int) -> Metric:
    def collect(answers: Answers, label: Any) -> float:
        scores = first(answers).reshape(-1)
        best = [np.argmax(scores)] if count == 1 else np.argsort(scores)[-count:]
        return float(int(label) in best)

    metric = Metric(name, name, collect, each=numbers, check=_classes)
    return against(metric, lambda floats: np.argmax(first(floats)))


def _classes(labels: np.ndarray, answers: Answers) -> None:
    entries = first(answers).size
    whole_numbers(labels, "one class index a sample")
    if entries == 1:
        raise BadSamples(
            "the model's first output is one number, not a score for each class",
            hint="--metric binary, with labels 0 and 1, or --metric mse",
        )
    if labels.min() < 0 or labels.max() >= entries:
        raise BadSamples(
            f"label {labels.max() if labels.max() >= entries else labels.min()} is outside the"
            f" model's {entries} classes",
            hint="labels are class indices from 0",
        )


def binary(*, threshold: float = 0.5) -> Metric:
    """The share of the first output's entries that are on the label's side of a threshold.

    For one sigmoid, and for several labels of which each may apply; logits take `threshold=0`.
    """
    metric = Metric(
        "binary",
        "accuracy",
        lambda answers, label: float(np.mean(np.equal(*_sides(answers, label, threshold)))),
        each=numbers,
        check=_zeros_and_ones,
    )
    return against(metric, lambda floats: first(floats) > threshold)


def f1(*, threshold: float = 0.5) -> Metric:
    """F1 of all entries of the first output together (micro-averaged), as for rare labels.

    2 TP / (2 TP + FP + FN); van Rijsbergen, Information Retrieval (1979). 1 where nothing applies
    and nothing is said to.
    """

    def collect(answers: Answers, label: Any) -> tuple[int, int]:
        given, wanted = _sides(answers, label, threshold)
        return 2 * int(np.sum(given & wanted)), int(np.sum(given)) + int(np.sum(wanted))

    whole = partial(ratio_of_sums, nothing=1.0)
    metric = Metric("f1", "F1", collect, whole=whole, check=_zeros_and_ones)
    return against(metric, lambda floats: first(floats) > threshold)


def _sides(answers: Answers, label: Any, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = same_size(first(answers), label)
    return x > threshold, y > 0.5


def _zeros_and_ones(labels: np.ndarray, answers: Answers) -> None:
    same_size(first(answers), labels[0])
    if not np.isin(labels, (0, 1)).all():
        raise BadSamples(
            "the labels are not all 0 or 1",
            hint="save for each entry of the first output whether it applies, or --metric top1",
        )


def auc(*, entry: int = -1) -> Metric:
    """The area under the ROC curve of one entry of the first output, the last as a rule.

    Labels are 0 or 1, one a sample. Without them, how far samples are ranked as float ranks them
    (Spearman).
    """

    def collect(answers: Answers, label: Any) -> tuple[float, float]:
        return _entry(answers, entry), float(label)

    def whole(rows: Rows) -> float:
        scores, labels = np.asarray(rows, np.float64).T
        return area_under_roc(scores, labels)

    twin = Metric(
        "auc",
        "Spearman",
        lambda answers, floats: (_entry(answers, entry), _entry(floats, entry)),
        whole=spearman_of_rows,
    )
    return Metric("auc", "AUC", collect, whole=whole, without_labels=twin, check=_one_bit)


def _entry(answers: Answers, entry: int) -> float:
    values = first(answers).reshape(-1)
    if not -values.size <= entry < values.size:
        raise BadSamples(f"the first output has no entry {entry}", hint=f"it has {values.size}")
    return float(values[entry])


def _one_bit(labels: np.ndarray, answers: Answers) -> None:
    both_sides(labels)


def both_sides(labels: np.ndarray) -> None:
    """Check that labels are 0 or 1, one a sample, and that both are there.

    Raises:
        BadSamples: they are not.
    """
    if labels.size != len(labels) or set(np.unique(labels)) != {0, 1}:
        raise BadSamples(
            "an area under the curve needs labels 0 and 1, one a sample, and samples of both",
            hint="save `labels` as int64 of shape (samples,)",
        )

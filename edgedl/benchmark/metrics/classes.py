"""Classification: one class of several, or any number of labels that apply."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from edgedl.benchmark.metrics.metric import (
    Answers,
    Metric,
    Rows,
    against,
    first,
    numbers,
    same_size,
    whole_numbers,
)
from edgedl.benchmark.metrics.ranks import (
    area_under_roc,
    precision_of_ranks,
    spearman_of_rows,
)
from edgedl.core.errors import BadSamples, BadValue


def top1() -> Metric:
    """Whether the largest entry of the first output stands at the label; an output that is one
    integer is the class itself."""
    return _top("top1", 1)


def top5() -> Metric:
    """Whether the label is among the five largest entries of the first output."""
    return _top("top5", 5)


def top(*, k: int = 10) -> Metric:
    """Whether the label is among the `k` largest entries of the first output: the recall at k where
    one item is wanted.

    Raises:
        BadValue: `k` is below 1.
    """
    if k < 1:
        raise BadValue(f"`k` is {k}", keys=("k",), hint="1 or more")
    return _top(f"top{k}", k)


def _top(name: str, count: int) -> Metric:
    def collect(answers: Answers, label: Any) -> float:
        scores = first(answers).reshape(-1)
        best = [_class_of(answers)] if count == 1 else np.argsort(scores)[-count:]
        return float(int(label) in best)

    def check(labels: np.ndarray, answers: Answers) -> None:
        if count == 1 and _is_class(first(answers)):
            whole_numbers(labels, "one class index a sample")
        else:
            _classes(labels, answers)

    metric = Metric(name, name, collect, each=numbers, check=check)
    return against(metric, _class_of)


def _is_class(output: np.ndarray) -> bool:
    """Whether a model gives the class that it found, as scikit-learn's classifiers do, and no
    scores."""
    return output.size == 1 and np.issubdtype(output.dtype, np.integer)


def _class_of(answers: Answers) -> int:
    output = first(answers)
    return int(output.reshape(-1)[0]) if _is_class(output) else int(np.argmax(output))


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


def f1(*, threshold: float = 0.5, average: Literal["micro", "macro"] = "micro") -> Metric:
    """F1 of all entries of the first output together, as for rare labels, or its mean over classes.

    2 TP / (2 TP + FP + FN); van Rijsbergen, Information Retrieval (1979). Labels say of each entry
    whether it applies, or are one class index a sample: then the largest entry counts. `macro`
    takes the mean over entries, or classes, that occur or are said to; `micro` sums over all.
    1 where nothing applies and nothing is said to.
    """

    def collect(answers: Answers, label: Any) -> np.ndarray:
        given, wanted = _chosen(answers, label, threshold)
        found = np.stack([2 * (given & wanted), given.astype(int) + wanted])
        return found if average == "macro" else found.sum(axis=1, keepdims=True)

    def whole(rows: Rows) -> float:
        above, below = np.sum(np.asarray(rows), axis=0)
        there = below > 0
        return float(np.mean(above[there] / below[there])) if there.any() else 1.0

    figure = "F1" if average == "micro" else "macro F1"
    metric = Metric("f1", figure, collect, whole=whole, check=_entries_or_classes)
    return against(metric, lambda floats: first(floats) > threshold)


def _chosen(answers: Answers, label: Any, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Which entries are said to apply, and which do."""
    entries = first(answers).size
    if np.ndim(label) or entries == 1:
        return _sides(answers, label, threshold)
    places = np.arange(entries)
    return places == np.argmax(first(answers)), places == int(label)


def _entries_or_classes(labels: np.ndarray, answers: Answers) -> None:
    one_each = labels.ndim == 1 and first(answers).size > 1
    (_classes if one_each else _zeros_and_ones)(labels, answers)


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


def average_precision(*, entry: int = -1) -> Metric:
    """The mean of the precision at each sample labelled 1, samples ranked by one entry of the first
    output, the last as a rule; ties stand at one threshold.

    Labels are 0 or 1, one a sample. Without them, how far samples are ranked as float ranks them
    (Spearman).
    """

    def whole(rows: Rows) -> float:
        scores, labels = np.asarray(rows, np.float64).T
        return precision_of_ranks(scores, labels)

    twin = auc(entry=entry).without_labels
    name = "average_precision"
    return replace(
        auc(entry=entry), name=name, figure="average precision", whole=whole, without_labels=twin
    )


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

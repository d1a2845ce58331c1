"""Regression, and autoencoders, which are judged by what they make of their inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgedl.benchmark.metrics.classes import both_sides
from edgedl.benchmark.metrics.metric import (
    Answers,
    Metric,
    Rows,
    against,
    first,
    numbers,
    same_size,
)
from edgedl.benchmark.metrics.ranks import area_under_roc, spearman_of_rows
from edgedl.core.errors import BadSamples


def mse() -> Metric:
    """The mean squared error of the first output."""
    return _error("mse", lambda x, y: float(np.mean((x - y) ** 2)))


def rmse() -> Metric:
    """The root of the mean squared error of the first output, over all samples: in the labels' own
    unit."""

    def whole(rows: Rows) -> float:
        return float(np.sqrt(np.mean(np.asarray(rows, np.float64))))

    metric = mse()
    twin = metric.without_labels
    assert twin is not None
    rooted = replace(metric, name="rmse", figure="rmse", each=None, whole=whole)
    return replace(rooted, without_labels=replace(twin, figure="rmse", each=None, whole=whole))


def mae() -> Metric:
    """The mean absolute error of the first output."""
    return _error("mae", lambda x, y: float(np.mean(np.abs(x - y))))


def relative() -> Metric:
    """The length of the first output's error over that of the label."""

    def error(x: np.ndarray, y: np.ndarray) -> float:
        length, off = float(np.linalg.norm(y)), float(np.linalg.norm(x - y))
        if length == 0:
            return 0.0 if off == 0 else float("inf")
        return off / length

    return _error("relative", error)


def _error(name: str, error: Callable[[np.ndarray, np.ndarray], float]) -> Metric:
    def check(labels: np.ndarray, answers: Answers) -> None:
        same_size(first(answers), labels[0])

    metric = Metric(
        name,
        name,
        lambda answers, label: error(*same_size(first(answers), label)),
        each=numbers,
        perfect=0.0,
        check=check,
    )
    return against(metric, first)


def reconstruction() -> Metric:
    """The mean squared error between an autoencoder's first output and its input, which needs no
    labels."""
    metric = Metric(
        "reconstruction",
        "mse",
        lambda answers, seen: _reconstructed(answers, seen[0]),
        each=numbers,
        perfect=0.0,
        needs_labels=False,
        with_feed=True,
    )
    return replace(metric, without_labels=metric)


def anomaly() -> Metric:
    """The area under the ROC curve of the reconstruction error, where 1 labels what is not normal.

    Without labels, how far samples are ranked by their errors as float ranks them (Spearman).
    """

    def collect(answers: Answers, seen: Any) -> tuple[float, float]:
        feed, label = seen
        return _reconstructed(answers, feed), float(label)

    def whole(rows: Rows) -> float:
        errors, labels = np.asarray(rows, np.float64).T
        return area_under_roc(errors, labels)

    def twin(answers: Answers, seen: Any) -> tuple[float, float]:
        feed, floats = seen
        return _reconstructed(answers, feed), _reconstructed(floats, feed)

    return Metric(
        "anomaly",
        "AUC",
        collect,
        whole=whole,
        with_feed=True,
        without_labels=Metric("anomaly", "Spearman", twin, whole=spearman_of_rows, with_feed=True),
        check=lambda labels, _: both_sides(labels),
    )


def _reconstructed(answers: Answers, feed: Answers) -> float:
    answer = first(answers)
    given = next((array for array in feed.values() if array.size == answer.size), None)
    if given is None:
        raise BadSamples(
            f"the first output has {answer.size} values, as none of the inputs",
            hint="an autoencoder's output is of its input's size",
        )
    x, y = same_size(answer, given)
    return float(np.mean((x - y) ** 2))

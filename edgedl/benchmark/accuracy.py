"""How well a model does its task, and how alike two models answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgedl.benchmark.metrics import metric_of
from edgedl.benchmark.metrics.metric import Answers, Metric
from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import Agreement, AgreementMeter
from edgedl.runtime.process.boxes import Boxes
from edgedl.runtime.session import Session


def metric_for(samples: Samples, spec: str | None, boxes: Boxes | None = None) -> Metric | None:
    """The metric of this name and settings, or the one that the labels suggest; None without both.

    Raises:
        BadOption: there is no such metric. BadSamples: it needs labels, and there are none.
    """
    labels = samples.chosen_labels
    if spec is None:
        if labels is None:
            return None
        whole = np.issubdtype(labels.dtype, np.integer)
        usual = {1: "top1", 3: "segmentation"} if whole else {}
        return metric_of(usual.get(labels.ndim, "mse"))
    metric = metric_of(spec, boxes)
    if labels is None and metric.needs_labels and metric.without_labels is None:
        raise BadSamples(
            f"metric `{spec}` needs labels",
            where=samples.where,
            hint="add an array `labels`, or say `against_float = True` of your function",
        )
    return metric


def has_truth(metric: Metric, samples: Samples) -> bool:
    """Whether the samples say how well a model does, and not only how like float it answers."""
    return samples.labels is not None or not metric.needs_labels


def score(
    session: Session, samples: Samples, metric: Metric, progress: Progress = silent
) -> list[Any]:
    """The metric's row of every sample.

    Raises:
        MetricFailed: it could not take a sample.
    """
    labels = samples.chosen_labels

    def answered() -> Iterator[tuple[Answers, Any, Answers]]:
        for i, feed in enumerate(samples):
            yield session.run(feed), None if labels is None else labels[i], feed
            progress("scoring", i + 1, len(samples))

    return metric.rows(answered(), samples.rows.tolist(), samples.where)


def score_against(
    reference: Session,
    session: Session,
    samples: Samples,
    metric: Metric,
    progress: Progress = silent,
) -> list[Any]:
    """The rows of every sample without labels, with the reference's answers in their place.

    Raises:
        MetricFailed: the metric could not take a sample.
    """
    assert metric.without_labels is not None

    def answered() -> Iterator[tuple[Answers, Any, Answers]]:
        for i, feed in enumerate(samples):
            yield session.run(feed), reference.run(feed), feed
            progress("scoring", i + 1, len(samples))

    return metric.without_labels.rows(answered(), samples.rows.tolist(), samples.where)


def check_labels(session: Session, samples: Samples, metric: Metric) -> None:
    """Compare the labels with the first sample's outputs.

    Raises:
        BadSamples: class indices beyond the classes, or targets of another size or type.
        WrongInput: the outputs are not what the metric reads.
    """
    labels = samples.chosen_labels
    if labels is None or metric.check is None:
        return
    try:
        metric.check(labels, session.run(samples.feed(0)))
    except BadSamples as error:
        raise BadSamples(error.message, where=samples.where, hint=error.hint) from error


def agreement(
    reference: Session, session: Session, samples: Samples, progress: Progress = silent
) -> Agreement:
    """How alike two sessions answer the samples."""
    meter = AgreementMeter()
    for i, feed in enumerate(samples):
        meter.add(reference.run(feed), session.run(feed))
        progress("comparing answers", i + 1, len(samples))
    return meter.result()

"""Accuracy and agreement of the very artifacts that were timed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgedl.benchmark.accuracy import (
    agreement,
    check_labels,
    has_truth,
    metric_for,
    score,
    score_against,
)
from edgedl.benchmark.metrics.metric import Metric, named_parts
from edgedl.core.errors import MetricFailed
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.runtime.artifact import Artifact
from edgedl.runtime.process.boxes import Boxes
from edgedl.runtime.session import Session


@dataclass(frozen=True)
class Answered:
    """One artifact's accuracy, and its agreement with the first's answers; all as JSON.

    Attributes:
        accuracy: a metric's value and figure; None where nothing says what is right.
        agreement: None for the first itself.
        samples: how many there were to choose from.
        difference: what its score has over the first's, and whether that is chance.
        against_first: a named metric without labels, with the first's answers in their place.
        failed: why the metric gave nothing, or only what the first samples make.
    """

    accuracy: Mapping[str, Any] | None
    agreement: Mapping[str, Any] | None
    samples: int
    difference: Mapping[str, Any] | None = None
    against_first: Mapping[str, Any] | None = None
    failed: MetricFailed | None = None


def answered(
    artifacts: Mapping[str, Artifact],
    samples: Samples,
    metric: str | None,
    threads: int | None,
    progress: Progress = silent,
    *,
    boxes: Boxes | None = None,
    most_scored: int | None = None,
    most_compared: int | None = None,
) -> dict[str, Answered]:
    """The accuracy and the agreement by name, on the first samples, or on all where None.

    Args:
        boxes: how outputs hold boxes, where the post-processing says it.

    Raises:
        BadOption, BadSamples: the metric is unknown, or the labels do not fit.
    """
    if not artifacts:
        return {}
    found: dict[str, Answered] = {}
    with next(iter(artifacts.values())).open(threads) as first:
        bound = samples.bind(first.signature)
        named = metric_for(bound, metric, boxes)
        count = len(bound)
        scored = bound.take(range(min(most_scored or count, count)))
        compared = bound.take(range(min(most_compared or count, count)))
        rows: list[Any] | None = None
        for position, (name, artifact) in enumerate(artifacts.items()):
            told: dict[str, Any] = {}
            with artifact.open(threads) as session:
                if named is not None and has_truth(named, bound):
                    check_labels(session, scored, named)
                    told, own = _scored(session, scored, named, rows, progress)
                    rows = own if position == 0 else rows
                elif named is not None and position:
                    told = _against(first, session, compared, named, progress)
                alike = agreement(first, session, compared, progress) if position else None
            alike_json = None if alike is None else alike.to_json()
            found[name] = Answered(
                **{"accuracy": None, **told}, agreement=alike_json, samples=count
            )
    return found


def _scored(
    session: Session,
    samples: Samples,
    metric: Metric,
    first: list[Any] | None,
    progress: Progress,
) -> tuple[dict[str, Any], list[Any] | None]:
    """What is known with labels, and the rows; where the metric failed, of the samples before."""
    try:
        rows = score(session, samples, metric, progress)
        told: dict[str, Any] = {"accuracy": _json(metric, rows, samples.classes)}
        if first is not None:
            told["difference"] = metric.compare(first, rows).to_json()
        return told, rows
    except MetricFailed as error:
        kept = list(error.rows) if len(error.rows) < len(samples) else []
        found = _json(metric, kept, samples.classes) if kept else None
        return {"accuracy": found, "failed": error}, None


def _against(
    first: Session, session: Session, samples: Samples, metric: Metric, progress: Progress
) -> dict[str, Any]:
    assert metric.without_labels is not None
    try:
        rows = score_against(first, session, samples, metric, progress)
        return {"against_first": _json(metric.without_labels, rows)}
    except MetricFailed as error:
        return {"failed": error}


def _json(metric: Metric, rows: list[Any], classes: Sequence[str] = ()) -> dict[str, Any]:
    """`value` is the score, of which more is better; `figure` has it in its usual direction, and
    `parts`, where there are such, that of each class."""
    value = metric.score(rows)
    figure = {
        "name": metric.figure,
        "lower_is_better": metric.perfect is not None,
        "value": metric.turned(value),
    }
    told = {"metric": metric.name, "value": value, "samples": len(rows), "figure": figure}
    parts = {
        name: None if math.isnan(one) else one
        for name, (one,) in named_parts(metric, classes, rows).items()
    }
    return {**told, "parts": parts} if parts else told

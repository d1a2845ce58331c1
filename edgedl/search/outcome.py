"""What the result's answers are worth, on samples that no choice was made on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgedl.benchmark.accuracy import agreement, has_truth, score, score_against
from edgedl.benchmark.metrics.metric import Metric, named_parts
from edgedl.core.errors import MetricFailed
from edgedl.core.progress import Progress
from edgedl.core.samples import Samples
from edgedl.core.stats import Agreement, share_interval
from edgedl.report.compressed import Accuracy, AgainstFloat
from edgedl.runtime.session import Session
from edgedl.search.candidates import Candidate, without_labels
from edgedl.search.foretold import answering
from edgedl.search.limits import Drop

MOST_AGREEMENT = 256


@dataclass(frozen=True)
class Outcome:
    """How alike float and the result answer, and what a metric says of both.

    `failed` is why a named metric gave nothing; the rest stands all the same.
    """

    agreement: Agreement
    accuracy: Accuracy | None = None
    against_float: AgainstFloat | None = None
    failed: MetricFailed | None = None

    @property
    def drop(self) -> float:
        """What is lost against float; NaN where nobody knows."""
        if self.accuracy is not None:
            return self.accuracy.baseline - self.accuracy.result
        if self.against_float is not None:
            return self.against_float.drop
        return without_labels(self.agreement) if self.failed is None else float("nan")

    def beside(self, chosen: float, chosen_samples: int) -> Drop:
        """The drop beside the one on the samples of the choice."""
        if self.accuracy is not None:
            change = self.accuracy.difference
            interval, samples = (-change.high, -change.low), self.accuracy.samples
            known = math.isfinite(change.low) and math.isfinite(change.high)
            return Drop(chosen, chosen_samples, self.drop, samples, interval if known else None)
        if self.against_float is None and self.agreement.top1 is not None:
            low, high = share_interval(self.agreement.top1, self.agreement.samples)
            interval = 1 - high, 1 - low
            return Drop(chosen, chosen_samples, self.drop, self.agreement.samples, interval)
        return Drop(chosen, chosen_samples, self.drop, self.agreement.samples, None)


def outcome(
    baseline: Candidate,
    result: Candidate,
    samples: Samples,
    metric: Metric | None,
    threads: int,
    progress: Progress,
    machine: Mapping[str, Any] | None = None,
) -> Outcome:
    """The one look at the samples that the report is about.

    Args:
        machine: the one that the result is to answer as on; this one where None.
    """
    compared = samples.take(range(min(MOST_AGREEMENT, len(samples))))
    with baseline.open(threads) as before, answering(result, machine, threads) as after:
        alike = agreement(before, after, compared, progress)
        if metric is None:
            return Outcome(alike)
        try:
            if has_truth(metric, samples):
                accuracy = _accuracy(before, after, samples, metric, progress)
                return Outcome(alike, accuracy=accuracy)
            same = _against_float(before, after, compared, metric, progress)
            return Outcome(alike, against_float=same)
        except MetricFailed as error:
            return Outcome(alike, failed=error)


def _accuracy(
    before: Session, after: Session, samples: Samples, metric: Metric, progress: Progress
) -> Accuracy:
    first, second = (score(session, samples, metric, progress) for session in (before, after))
    return Accuracy(
        metric.name,
        metric.score(first),
        metric.score(second),
        len(samples),
        metric.figure,
        metric.perfect,
        metric.compare(first, second),
        {
            name: (before, after)
            for name, (before, after) in named_parts(metric, samples.classes, first, second).items()
        },
    )


def _against_float(
    before: Session, after: Session, samples: Samples, metric: Metric, progress: Progress
) -> AgainstFloat:
    twin = metric.without_labels
    assert twin is not None
    own, found = (
        twin.score(score_against(before, session, samples, metric, progress))
        for session in (before, after)
    )
    return AgainstFloat(metric.name, twin.figure, twin.turned(found), found, own, len(samples))

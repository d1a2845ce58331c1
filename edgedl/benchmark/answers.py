"""Accuracy and agreement of the very artifacts that were timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.benchmark.accuracy import agreement, check_labels, metric_for, score
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.runtime.artifact import Artifact

MOST_SCORED = 1000
MOST_COMPARED = 64


@dataclass(frozen=True)
class Answered:
    """One artifact's accuracy, where there are labels, and its agreement with the first's answers,
    None for the first itself; both as JSON."""

    accuracy: Mapping[str, Any] | None
    agreement: Mapping[str, Any] | None


def answered(
    artifacts: Mapping[str, Artifact],
    samples: Samples,
    metric: str | None,
    threads: int,
    progress: Progress = silent,
) -> dict[str, Answered]:
    """The accuracy on 1,000 samples at most, the agreement on 64.

    Raises:
        BadOption, BadSamples: the metric is unknown, or the labels do not fit.
    """
    if not artifacts:
        return {}
    found: dict[str, Answered] = {}
    with next(iter(artifacts.values())).open(threads) as first:
        bound = samples.bind(first.signature)
        named = metric_for(bound, metric)
        scored = bound.take(range(min(MOST_SCORED, len(bound))))
        compared = bound.take(range(min(MOST_COMPARED, len(bound))))
        for position, (name, artifact) in enumerate(artifacts.items()):
            with artifact.open(threads) as session:
                accuracy = None
                if named is not None:
                    check_labels(session, scored, named)
                    value = float(np.mean(score(session, scored, named, progress)))
                    accuracy = {"metric": named, "value": value, "samples": len(scored)}
                alike = agreement(first, session, compared, progress) if position else None
            found[name] = Answered(accuracy, None if alike is None else alike.to_json())
    return found

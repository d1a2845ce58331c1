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


@dataclass(frozen=True)
class Answered:
    """One artifact's accuracy, where there are labels, and its agreement with the first's answers,
    None for the first itself; both as JSON. `samples` is how many there were to choose from."""

    accuracy: Mapping[str, Any] | None
    agreement: Mapping[str, Any] | None
    samples: int


def answered(
    artifacts: Mapping[str, Artifact],
    samples: Samples,
    metric: str | None,
    threads: int | None,
    progress: Progress = silent,
    *,
    most_scored: int | None = None,
    most_compared: int | None = None,
) -> dict[str, Answered]:
    """The accuracy and the agreement by name, on the first samples, or on all where None.

    Raises:
        BadOption, BadSamples: the metric is unknown, or the labels do not fit.
    """
    if not artifacts:
        return {}
    found: dict[str, Answered] = {}
    with next(iter(artifacts.values())).open(threads) as first:
        bound = samples.bind(first.signature)
        named = metric_for(bound, metric)
        count = len(bound)
        scored = bound.take(range(min(most_scored or count, count)))
        compared = bound.take(range(min(most_compared or count, count)))
        for position, (name, artifact) in enumerate(artifacts.items()):
            with artifact.open(threads) as session:
                accuracy = None
                if named is not None:
                    check_labels(session, scored, named)
                    value = float(np.mean(score(session, scored, named, progress)))
                    accuracy = {"metric": named, "value": value, "samples": len(scored)}
                alike = agreement(first, session, compared, progress) if position else None
            found[name] = Answered(accuracy, None if alike is None else alike.to_json(), count)
    return found

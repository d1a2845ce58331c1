"""How well a model does its task, and how alike two models answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgedl.core.errors import BadOption, BadSamples, nearest
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import Agreement, AgreementMeter
from edgedl.runtime.session import Session

Answers = Mapping[str, np.ndarray]
Metric = Callable[[Answers, np.ndarray], float]


def top1(answers: Answers, label: np.ndarray) -> float:
    """1 where the largest entry of the first output stands at the label, else 0."""
    return float(int(np.argmax(_scores(answers))) == int(label))


def top5(answers: Answers, label: np.ndarray) -> float:
    """1 where the label is among the five largest entries of the first output, else 0."""
    return float(int(label) in np.argsort(_scores(answers))[-5:])


def mse(answers: Answers, label: np.ndarray) -> float:
    """Minus the mean squared error of the first output, so that more is better."""
    first = next(iter(answers.values()))
    return -float(np.mean((first.ravel().astype(np.float64) - np.ravel(label)) ** 2))


def _scores(answers: Answers) -> np.ndarray:
    return next(iter(answers.values())).reshape(-1)


METRICS: dict[str, Metric] = {"top1": top1, "top5": top5, "mse": mse}


def metric_for(samples: Samples, name: str | None) -> str | None:
    """The metric of this name, or the one that the labels suggest; None without labels.

    Raises:
        BadOption: there is no such metric. BadSamples: a metric was named, but there are no labels.
    """
    if name is not None and name not in METRICS:
        raise BadOption(f"unknown metric `{name}`", hint=nearest(name, METRICS))
    labels = samples.chosen_labels
    if labels is None:
        if name is not None:
            raise BadSamples(
                f"metric `{name}` needs labels", where=samples.where, hint="add an array `labels`"
            )
        return None
    if name is not None:
        return name
    return "top1" if np.issubdtype(labels.dtype, np.integer) and labels.ndim == 1 else "mse"


def score(
    session: Session, samples: Samples, metric: str, progress: Progress = silent
) -> np.ndarray:
    """The metric of every sample, float64 of shape [samples].

    Raises:
        BadSamples: a label is not one of the classes.
    """
    labels = samples.chosen_labels
    assert labels is not None
    values = np.empty(len(samples))
    for i, feed in enumerate(samples):
        values[i] = METRICS[metric](session.run(feed), labels[i])
        progress("scoring", i + 1, len(samples))
    return values


def check_labels(session: Session, samples: Samples, metric: str) -> None:
    """Compare the labels with the first output.

    Raises:
        BadSamples: class indices beyond the classes, or targets of another size.
    """
    labels = samples.chosen_labels
    assert labels is not None
    entries = next(iter(session.run(samples.feed(0)).values())).size
    if metric in ("top1", "top5"):
        if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
            raise BadSamples(
                f"metric `{metric}` needs one class index a sample, the labels are {labels.dtype}"
                f" of shape {labels.shape}",
                where=samples.where,
                hint="save them as int64 of shape (samples,), or choose --metric mse",
            )
        if labels.min() < 0 or labels.max() >= entries:
            raise BadSamples(
                f"label {labels.max() if labels.max() >= entries else labels.min()} is outside the"
                f" model's {entries} classes",
                where=samples.where,
                hint="labels are class indices from 0",
            )
    elif labels[0].size != entries:
        raise BadSamples(
            f"a label has {labels[0].size} values, the model's first output {entries}",
            where=samples.where,
            hint="one row of target values a sample",
        )


def agreement(
    reference: Session, session: Session, samples: Samples, progress: Progress = silent
) -> Agreement:
    """How alike two sessions answer the samples."""
    meter = AgreementMeter()
    for i, feed in enumerate(samples):
        meter.add(reference.run(feed), session.run(feed))
        progress("comparing answers", i + 1, len(samples))
    return meter.result()

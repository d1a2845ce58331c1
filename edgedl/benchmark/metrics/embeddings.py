"""Embeddings: directions, and whom each sample lies nearest to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
from edgedl.benchmark.metrics.ranks import spearman
from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.stats import cosine as cosine_of

BLOCK = 256


def cosine() -> Metric:
    """The cosine between the first output and its label, an embedding that was wanted."""
    metric = Metric(
        "cosine",
        "cosine",
        lambda answers, label: cosine_of(*same_size(first(answers), label)),
        each=numbers,
        check=_vectors,
    )
    return against(metric, first)


def recall_at_1() -> Metric:
    """`recall` at 1."""
    return recall(k=1)


def recall(*, k: int = 10) -> Metric:
    """The share of samples that have one of the same label among their `k` nearest others, by the
    cosine of the first output: leave-one-out retrieval (Jegou et al., Product Quantization for
    Nearest Neighbor Search, PAMI 33, 2011, section V).

    Without labels: the share whose nearest as float has it is among the `k` nearest.

    Raises:
        BadValue: `k` is below 1.
    """
    if k < 1:
        raise BadValue(f"`k` is {k}", keys=("k",), hint="1 or more")

    def each(rows: Rows) -> np.ndarray:
        labels = np.asarray([label for _, label in rows])
        near = _nearest([v for v, _ in rows], k)
        return np.asarray((labels[near] == labels[:, None]).any(axis=1), np.float64)

    def alike(rows: Rows) -> np.ndarray:
        own, floats = _nearest([row[0] for row in rows], k), _nearest([row[1] for row in rows], 1)
        return np.asarray((own == floats).any(axis=1), np.float64)

    name = f"recall@{k}"
    return Metric(
        name,
        name,
        lambda answers, label: (_vector(answers), int(label)),
        each=each,
        without_labels=Metric(name, name, _pair, each=alike),
        check=lambda labels, _: whole_numbers(labels, "whom each sample shows, as one number"),
    )


def similarity() -> Metric:
    """How far each sample ranks the others by cosine as its labels rank them, themselves embeddings
    (Spearman, the mean over samples). Without labels, as float ranks them."""

    def each(rows: Rows) -> np.ndarray:
        own, wanted = (_similarities([row[i] for row in rows]) for i in (0, 1))
        return np.asarray([spearman(a, b) for a, b in zip(own, wanted, strict=True)])

    metric = Metric(
        "spearman",
        "Spearman",
        lambda answers, label: (_vector(answers), np.ravel(label).astype(np.float32)),
        each=each,
        check=_vectors,
    )
    return against(metric, first)


def _vectors(labels: np.ndarray, answers: Answers) -> None:
    same_size(first(answers), labels[0])


def _pair(answers: Answers, floats: Answers) -> tuple[np.ndarray, np.ndarray]:
    return _vector(answers), _vector(floats)


def _vector(answers: Answers) -> np.ndarray:
    return first(answers).reshape(-1).astype(np.float32)


def _rows_of_cosines(vectors: list[Any]) -> Iterator[np.ndarray]:
    """Each sample's cosines to all, float32 of shape [samples]; of a vector of zeros, 0."""
    if len(vectors) < 2:
        raise BadSamples("a ranking needs two samples", hint="give more samples")
    if len({len(vector) for vector in vectors}) > 1:
        raise BadSamples("embeddings of unlike length", hint="name the output of one length first")
    stacked = np.stack(vectors)
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
    unit = np.divide(stacked, lengths, out=np.zeros_like(stacked), where=lengths > 0)
    for start in range(0, len(unit), BLOCK):
        yield from unit[start : start + BLOCK] @ unit.T


def _nearest(vectors: list[Any], count: int) -> np.ndarray:
    """The nearest other samples of each, as many as there are at most, int64 of shape [samples,
    count]."""
    found = []
    for i, row in enumerate(_rows_of_cosines(vectors)):
        row[i] = -np.inf
        # among equals the first comes first
        found.append(np.argsort(-row, kind="stable")[: min(count, len(row) - 1)])
    return np.stack(found)


def _similarities(vectors: list[Any]) -> Iterator[np.ndarray]:
    """Each sample's cosines to the others."""
    return (np.delete(row, i) for i, row in enumerate(_rows_of_cosines(vectors)))

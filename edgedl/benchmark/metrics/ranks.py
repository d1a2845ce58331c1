"""Statistics of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1 along the only axis, those of ties their mean, float64 of shape [values]."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return np.asarray((ends - (count - 1) / 2)[np.ravel(place)], np.float64)


def area_under_roc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a sample labelled 1 scores higher than one labelled 0, ties for half; NaN
    where one of them is missing.

    Mann and Whitney's U over its largest value (Hanley and McNeil, Radiology 143, 1982).
    """
    positive = labels > 0.5
    ones, zeros = int(positive.sum()), int((~positive).sum())
    if ones == 0 or zeros == 0:
        return float("nan")
    u = ranks(scores)[positive].sum() - ones * (ones + 1) / 2
    return float(u / (ones * zeros))


def precision_of_ranks(scores: np.ndarray, labels: np.ndarray) -> float:
    """Average precision: over thresholds from the highest score down, precision weighed by how much
    recall grows there; NaN where no sample is labelled 1.

    Manning et al., Introduction to Information Retrieval (2008), chapter 8, without interpolation.
    """
    _, place, count = np.unique(-scores, return_inverse=True, return_counts=True)
    right = np.bincount(np.ravel(place), labels > 0.5, minlength=len(count))
    if right.sum() == 0:
        return float("nan")
    precision = np.cumsum(right) / np.cumsum(count)
    return float(np.sum(precision * right) / right.sum())


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two sequences' ranks (Spearman, American Journal of Psychology 15, 1904).

    Where a sequence is constant: 1 if both are, else 0.
    """
    x, y = (r - r.mean() for r in (ranks(a), ranks(b)))
    norms = float(np.sqrt((x @ x) * (y @ y)))
    if norms == 0:
        return float(not x.any() and not y.any())
    return float(np.clip(x @ y / norms, -1, 1))


def spearman_of_rows(rows: Sequence[Any]) -> float:
    """Spearman's correlation of pairs of numbers."""
    a, b = np.asarray(rows, np.float64).T
    return spearman(a, b)

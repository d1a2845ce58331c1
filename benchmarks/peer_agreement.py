"""How alike two models answer, as a peer's own Python can ask: numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Answers = dict[str, np.ndarray]


def has_classes(expected: Sequence[Answers]) -> bool:
    """Whether the first output scores classes along its last axis: one row a sample that is not
    always a unit vector, as an embedding is, or rows of probabilities.

    Asked of single samples, a sure answer looks like a unit vector.
    """
    first = [next(iter(answer.values())) for answer in expected]
    if any(array.ndim == 0 or array.shape[-1] < 2 for array in first):
        return False
    rows = np.concatenate([array.reshape(-1, array.shape[-1]) for array in first])
    if first[0].ndim <= 2:
        return not np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-3)
    return bool(np.allclose(rows.sum(axis=1), 1, atol=1e-2) and rows.min() >= 0)


def alike(expected: Answers, given: Answers, classes: bool) -> float:
    """Of one sample: the share of rows with the same class, else the least cosine of any output."""
    if classes:
        x, y = (next(iter(answer.values())) for answer in (expected, given))
        return float(np.mean(x.argmax(-1) == y.argmax(-1)))
    return min(cosine(array, given[name]) for name, array in expected.items())


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    """Of two arrays of any shape; 1 where both are all zeros, 0 where one is."""
    a, b = np.ravel(x).astype(np.float64), np.ravel(y).astype(np.float64)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(not a.any() and not b.any())

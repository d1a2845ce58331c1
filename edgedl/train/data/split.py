"""Rows into three disjoint parts: by class, by group, or in time, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadSamples

MORE = "more rows, or a smaller `validation` or `holdout`"


@dataclass(frozen=True, eq=False)
class Parts:
    """The rows of each part, int64, sorted."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(
    count: int,
    *,
    labels: np.ndarray | None,
    groups: np.ndarray | None,
    test: np.ndarray | None,
    validation: float,
    holdout: float,
    seed: int,
    where: str = "data",
) -> Parts:
    """Three disjoint parts of `count` rows.

    Classes stand in each part in their proportions, as far as whole rows and groups allow. A group
    stands in one part. An official test split is kept as it is.

    Args:
        labels: int64, one a row, to keep proportions; others are not looked at.
        groups: int64, one a row.
        test: one truth value a row.
        validation, holdout: shares of all rows; with a test split, `validation` is one of the rest.

    Raises:
        BadSamples: there are too few rows, or groups.
    """
    rows = np.arange(count)
    random = np.random.default_rng(seed)
    classes = labels if labels is not None and labels.dtype.kind in "iu" else np.zeros(count, int)
    if labels is not None and labels.ndim != 1:
        classes = np.zeros(count, int)
    if test is None:
        tested = _part(rows, holdout, classes, groups, random, where)
        rest = np.setdiff1d(rows, tested)
        share = validation * count / max(1, len(rest))
    else:
        tested, rest = np.flatnonzero(test), np.flatnonzero(~test)
        share = validation
        for part, name in ((tested, "test"), (rest, "training")):
            if not len(part):
                raise BadSamples(f"the {name} split has no rows", where=where, hint="give both")
    validated = _part(rest, share, classes, groups, random, where)
    return Parts(np.setdiff1d(rest, validated), validated, tested)


def split_in_time(
    spans: np.ndarray, validation: float, holdout: float, where: str = "data"
) -> Parts:
    """The windows of each stream in time: first those to train on, the last ones for the test.

    A window that shares a frame with the next part is left out.

    Args:
        spans: int64 [rows, 3]: stream, first frame, and the frame behind the last.

    Raises:
        BadSamples: a part has no window.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for stream in np.unique(spans[:, 0]):
        rows = np.flatnonzero(spans[:, 0] == stream)
        rows = rows[np.argsort(spans[rows, 1], kind="stable")]
        test = len(rows) - round(len(rows) * holdout)
        middle = max(0, test - round(len(rows) * validation))
        first = rows[:middle]
        second = rows[middle:test]
        third = rows[test:]
        parts["train"].append(_before(spans, first, rows[middle : middle + 1]))
        parts["validation"].append(_before(spans, second, rows[test : test + 1]))
        parts["test"].append(third)
    found = {name: np.sort(np.concatenate(lists)) for name, lists in parts.items()}
    for name, rows in found.items():
        if not len(rows):
            message = f"{len(spans)} windows leave none for the {name} part"
            hint = "longer streams, a larger share for it, or a smaller `hop`"
            raise BadSamples(message, where=where, hint=hint)
    return Parts(**found)


def draw(rows: np.ndarray, labels: np.ndarray | None, most: int, seed: int) -> np.ndarray:
    """At most so many of the rows, classes in their proportions, sorted."""
    if len(rows) <= most:
        return rows
    random = np.random.default_rng(seed)
    flat = labels is None or labels.dtype.kind not in "iu" or labels.ndim != 1
    classes = np.zeros(int(rows.max()) + 1, int) if flat else labels
    assert classes is not None
    return _by_class(rows, most, classes, random)


def _before(spans: np.ndarray, rows: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Those of the rows that end before the following one begins."""
    return rows[spans[rows, 2] <= spans[following[0], 1]] if len(following) else rows


def _part(
    rows: np.ndarray,
    share: float,
    classes: np.ndarray,
    groups: np.ndarray | None,
    random: np.random.Generator,
    where: str,
) -> np.ndarray:
    size = max(1, round(len(rows) * share))
    if size >= len(rows):
        raise BadSamples(f"{len(rows)} rows cannot be split", where=where, hint=MORE)
    if groups is None:
        return _by_class(rows, size, classes, random)
    return _by_group(rows, share, classes, groups, random, where)


def _by_class(
    rows: np.ndarray, size: int, classes: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """`size` rows, shares of the classes rounded so that they add up (largest remainders)."""
    names, counts = np.unique(classes[rows], return_counts=True)
    exact = counts * (size / len(rows))
    taken = np.floor(exact).astype(int)
    # the shuffle decides between equal remainders
    order = random.permutation(len(names))
    order = order[np.argsort(-(exact - taken)[order], kind="stable")]
    taken[order[: size - int(taken.sum())]] += 1
    picked = [
        random.permutation(rows[classes[rows] == name])[:number]
        for name, number in zip(names, taken, strict=True)
    ]
    return np.sort(np.concatenate(picked))


def _by_group(
    rows: np.ndarray,
    share: float,
    classes: np.ndarray,
    groups: np.ndarray,
    random: np.random.Generator,
    where: str,
) -> np.ndarray:
    """Groups taken in random order, each where it brings the classes' counts closer to theirs."""
    names, which = np.unique(groups[rows], return_inverse=True)
    if len(names) < 2:
        hint = "name another `group` column, or none"
        raise BadSamples("one group cannot be split", where=where, hint=hint)
    kinds, kind = np.unique(classes[rows], return_inverse=True)
    counts = np.zeros((len(names), len(kinds)))
    np.add.at(counts, (which, kind), 1)
    wanted = counts.sum(axis=0) * share
    scale = np.maximum(wanted, 1e-9)
    left = wanted.copy()
    taken = np.zeros(len(names), bool)
    order = random.permutation(len(names))
    for group in order:
        rest = left - counts[group]
        if (np.square(rest) / scale).sum() < (np.square(left) / scale).sum():
            taken[group], left = True, rest
    if not taken.any():
        taken[order[np.argmin(counts[order].sum(axis=1))]] = True
    if taken.all():
        taken[order[-1]] = False
    return np.sort(rows[taken[which]])

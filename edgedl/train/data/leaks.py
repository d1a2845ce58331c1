"""What makes a test worth less: rows on two sides of a split, groups that are torn, imbalance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples

IMBALANCED = 5.0
MOST_NAMED = 20


@dataclass(frozen=True, eq=False)
class Shared:
    """Samples of one part that are those of another, exactly: `places` in it, and in the other."""

    part: str
    other: str
    places: np.ndarray
    twins: np.ndarray


def duplicates(parts: Mapping[str, Samples], progress: Progress = silent) -> list[Shared]:
    """What each part shares with those before it; every sample is read once.

    Raises:
        BadSamples: samples are damaged, or hold values that are not finite; the error names them.
    """
    total, done = sum(map(len, parts.values())), 0
    seen: dict[str, dict[bytes, int]] = {}
    found = []
    damaged: list[BadSamples] = []
    for name, samples in parts.items():
        digests: dict[bytes, int] = {}
        pairs: dict[str, list[tuple[int, int]]] = {}
        for i in range(len(samples)):
            done += 1
            progress("checking samples", done, total)
            try:
                digest = _digest(samples, i)
            except BadSamples as error:
                damaged.append(error)
                continue
            for other, known in seen.items():
                if digest in known:
                    pairs.setdefault(other, []).append((i, known[digest]))
            digests.setdefault(digest, i)
        for other, both in pairs.items():
            places, twins = np.array(both, np.int64).T
            found.append(Shared(name, other, places, twins))
        seen[name] = digests
    if damaged:
        raise _all_of(damaged, total)
    return found


def said_of(shared: Shared, parts: Mapping[str, Samples], dropped: bool) -> str:
    """A sentence on samples that two parts share."""
    samples, others = parts[shared.part], parts[shared.other]
    row, twin = samples.rows[shared.places[0]], others.rows[shared.twins[0]]
    which = f"(row {row} is row {twin}{_contrary(samples, others, shared)})"
    count = f"{len(shared.places)} of {len(samples)} {shared.part} samples"
    if dropped:
        return f"{count} were {shared.other} samples, too {which}, and were left out"
    return (
        f"{count} are {shared.other} samples, too {which}: what is measured on them says too much"
    )


def torn(groups: np.ndarray, parts: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """A sentence for each two parts that share groups."""
    names = list(parts)
    doubts = []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = np.intersect1d(groups[parts[first]], groups[parts[second]])
            if len(both):
                doubts.append(f"{len(both)} groups have rows for {first} and for {second}")
    return tuple(doubts)


def imbalance(labels: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A sentence where the largest class has five times the rows of the smallest or more."""
    counts = np.bincount(labels, minlength=len(classes))
    if not counts.size or counts.max() < IMBALANCED * max(1, counts.min()):
        return ()
    most, least = int(counts.argmax()), int(counts.argmin())
    names = classes or tuple(map(str, range(len(counts))))
    return (
        f"classes are unlike in size: `{names[most]}` has {counts[most]} training rows,"
        f" `{names[least]}` {counts[least]}; weigh them in the loss, and mind F1 beside top1",
    )


def class_weights(labels: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Weights that give each class the same say: rows / (classes that occur * rows of the class).

    Args:
        labels: int64 of shape [rows].
        classes: how many there are; up to the largest label where None.

    Returns:
        float32 of shape [classes]; 0 for a class without rows.

    Raises:
        BadSamples: they are no labels of classes, or one lies beyond `classes`.
    """
    found = np.asarray(labels)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not found.size:
        message = f"labels of type {found.dtype} and shape {found.shape} name no classes"
        raise BadSamples(message, hint="one whole number a row")
    if found.min() < 0 or (classes is not None and found.max() >= classes):
        worst = found.min() if found.min() < 0 else found.max()
        raise BadSamples(f"label {worst} of {classes} classes", hint="labels begin at 0")
    counts = np.bincount(found, minlength=classes or 0)
    weights = np.zeros(len(counts))
    present = counts > 0
    weights[present] = len(found) / (present.sum() * counts[present])
    return weights.astype(np.float32)


def _digest(samples: Samples, i: int) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, array in samples.feed(i).items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            message = f"row {samples.rows[i]} makes values of `{name}` that are not finite"
            raise BadSamples(message, where=samples.where, hint="remove it, or mend it")
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _all_of(damaged: list[BadSamples], total: int) -> BadSamples:
    """One error that names them, the first with its reason."""
    first = damaged[0]
    if len(damaged) == 1:
        return first
    others = ", ".join(f"`{error.where}`" for error in damaged[1:MOST_NAMED])
    more = f" and {len(damaged) - MOST_NAMED} more" if len(damaged) > MOST_NAMED else ""
    message = f"{first.message}; {len(damaged)} of {total} samples are damaged, also {others}{more}"
    return BadSamples(message, where=first.where, hint=first.hint)


def _contrary(samples: Samples, others: Samples, shared: Shared) -> str:
    mine, theirs = samples.chosen_labels, others.chosen_labels
    if mine is None or theirs is None:
        return ""
    pairs = zip(shared.places, shared.twins, strict=True)
    unlike = sum(not np.array_equal(mine[i], theirs[j]) for i, j in pairs)
    return f"; {unlike} of them bear another label" if unlike else ""

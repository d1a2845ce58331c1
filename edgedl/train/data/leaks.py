"""What makes a test worth less: rows on two sides of a split, groups that are torn, imbalance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples

IMBALANCED = 5.0
MOST_NAMED = 20
MOST_SHOWN = 3


@dataclass(frozen=True, eq=False)
class Shared:
    """Samples of one part that are those of another, exactly: `places` in it, and in the other."""

    part: str
    other: str
    places: np.ndarray
    twins: np.ndarray


@dataclass(frozen=True, eq=False)
class Looked:
    """What parts share with those before them, and by part what is wrong with damaged samples, by
    their places in it."""

    shared: list[Shared]
    damaged: Mapping[str, Mapping[int, BadSamples]]


def looked_through(parts: Mapping[str, Samples], progress: Progress = silent) -> Looked:
    """Copies and damage in all parts; every sample is read once."""
    total, done = sum(map(len, parts.values())), 0
    seen: dict[str, dict[bytes, int]] = {}
    found = []
    damaged: dict[str, dict[int, BadSamples]] = {name: {} for name in parts}
    for name, samples in parts.items():
        digests: dict[bytes, int] = {}
        pairs: dict[str, list[tuple[int, int]]] = {}
        for i in range(len(samples)):
            done += 1
            progress("checking samples", done, total)
            try:
                digest = _digest(samples, i)
            except BadSamples as error:
                damaged[name][i] = error
                continue
            for other, known in seen.items():
                if digest in known:
                    pairs.setdefault(other, []).append((i, known[digest]))
            digests.setdefault(digest, i)
        for other, both in pairs.items():
            places, twins = np.array(both, np.int64).T
            found.append(Shared(name, other, places, twins))
        seen[name] = digests
    return Looked(found, damaged)


def all_of(damaged: Mapping[str, Mapping[int, BadSamples]], total: int) -> BadSamples:
    """One error that names all damaged samples, the first with its reason."""
    first, *others = [error for errors in damaged.values() for error in errors.values()]
    hint = f"{first.hint}; or `damaged: drop` leaves such samples out"
    message = first.message
    if others:
        message += f"; {len(others) + 1} of {total} samples are damaged, also {_named(others)}"
    return BadSamples(message, where=first.where, hint=hint)


def said_of_damage(damaged: Mapping[str, Mapping[int, BadSamples]], total: int) -> tuple[str, ...]:
    """A sentence on damaged samples that were left out, where there are any."""
    errors = [error for part in damaged.values() for error in part.values()]
    if not errors:
        return ()
    counts = ", ".join(f"{len(part)} of {name}" for name, part in damaged.items() if part)
    return (
        f"{len(errors)} of {total} samples are damaged and were left out ({counts}):"
        f" {_named(errors)}; the first: {errors[0].message}",
    )


def _named(errors: Sequence[BadSamples]) -> str:
    more = f" and {len(errors) - MOST_NAMED} more" if len(errors) > MOST_NAMED else ""
    return ", ".join(f"`{error.where}`" for error in errors[:MOST_NAMED]) + more


def said_of(shared: Shared, parts: Mapping[str, Samples], dropped: bool) -> str:
    """A sentence on samples that two parts share."""
    samples, others = parts[shared.part], parts[shared.other]
    pairs = list(zip(shared.places, shared.twins, strict=True))[:MOST_SHOWN]
    named = ", ".join(f"{called(samples, int(i))} is {called(others, int(j))}" for i, j in pairs)
    which = f"({named}{_contrary(samples, others, shared)})"
    count = f"{len(shared.places)} of {len(samples)} {shared.part} samples"
    if dropped:
        return f"{count} were {shared.other} samples, too {which}, and were left out"
    return (
        f"{count} are {shared.other} samples, too {which}: what is measured on them says too much"
    )


def called(samples: Samples, place: int) -> str:
    """A sample as its source calls it: a file, or a row with its line; else by its number."""
    name = getattr(samples.source, "name_of", None)
    row = int(samples.rows[place])
    return f"row {row}" if name is None else str(name(row))


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
            message = f"{called(samples, i)} makes values of `{name}` that are not finite"
            raise BadSamples(message, where=samples.where, hint="remove it, or mend it")
        digest.update(f"{name} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


def _contrary(samples: Samples, others: Samples, shared: Shared) -> str:
    mine, theirs = samples.chosen_labels, others.chosen_labels
    if mine is None or theirs is None:
        return ""
    pairs = zip(shared.places, shared.twins, strict=True)
    unlike = sum(not np.array_equal(mine[i], theirs[j]) for i, j in pairs)
    return f"; {unlike} of them bear another label" if unlike else ""

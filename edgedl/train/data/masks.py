"""Masks: which of their values are classes, and the class of each pixel of a network's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.train.data.dataset import IGNORED
from edgedl.train.data.settings import Data

VALUES = 256
WHITE = 255
# What stands in a mask where there is no picture.
OUTSIDE = -1
MOST_SHOWN = 8
RARE = 20.0
BLOCK = 256
SHAPES = "whole numbers of shape (rows, height, width), 0 for the first class"


@dataclass(frozen=True, eq=False)
class Coding:
    """What the values of masks mean.

    Attributes:
        classes: their names in order.
        table: int16 [257], the class of each value, and behind these that of `OUTSIDE`.
    """

    classes: tuple[str, ...]
    table: np.ndarray


def coding_of(counts: np.ndarray, settings: Data, called: Callable[[int], str]) -> Coding:
    """What the values of masks mean, as the settings say it, or the values themselves.

    Values are class numbers, and `ignore` counts nowhere. Masks of 0 and 255 alone, where nothing
    says that there are more than two classes, hold two.

    Args:
        counts: pixels of each value in each mask, int64 [masks, 256].
        called: what a mask is called in errors.

    Raises:
        BadSamples: a value is beyond the classes; there are less than two, or numbers with so many
            gaps that they are hardly classes.
    """
    total = counts.sum(axis=0)
    values = np.flatnonzero(total)
    said = len(settings.classes) or settings.class_count or 0
    white = settings.ignore is None and said in (0, 1, 2) and total[WHITE] > 0
    if white and set(values.tolist()) <= {0, WHITE}:
        table = np.full(VALUES + 1, IGNORED, np.int16)
        table[[0, WHITE]] = 0, 1
        return Coding(_named(2, settings, called), table)
    none = WHITE if settings.ignore is None else settings.ignore
    real = values[values != none]
    if not len(real):
        hint = f"{none} counts nowhere; `ignore` names another value"
        raise BadSamples("not one pixel of the masks has a class", where=called(0), hint=hint)
    count = said or int(real[-1]) + 1
    if not said and 2 * len(real) < count > 2:
        listing = ", ".join(map(str, real[:MOST_SHOWN])) + " ..." * (len(real) > MOST_SHOWN)
        message = f"masks hold the values {listing}: as numbers, most of {count} classes are absent"
        hint = f"number the classes from 0 on; where there are {count}, `class_count: {count}`"
        raise BadSamples(message, where=called(_holder(counts, int(real[-1]))), hint=hint)
    if count > real[-1]:
        table = np.arange(VALUES + 1, dtype=np.int16)
        table[[*range(count, VALUES + 1), none]] = IGNORED
        return Coding(_named(count, settings, called), table)
    wrong = int(real[real >= count][0])
    mask = _holder(counts, wrong)
    raise BadSamples(
        f"has the value {wrong} in {counts[mask, wrong]} pixels, and there are {count} classes",
        where=called(mask),
        hint=f"values run from 0 to {count - 1}, and {none} counts nowhere; name all `classes`, or"
        f" `ignore: {wrong}`",
    )


def counted(mask: np.ndarray, where: str) -> np.ndarray:
    """Pixels of each value, int64 [256]; negative values are not counted.

    Raises:
        BadSamples: a value is above 255.
    """
    flat = mask.reshape(-1)
    if flat.size and flat.max() >= VALUES:
        hint = "class numbers, from 0 to 254"
        raise BadSamples(f"has the value {flat.max()}", where=where, hint=hint)
    return np.bincount(flat[flat >= 0].astype(np.int64), minlength=VALUES)


def coded(masks: Sequence[np.ndarray] | np.ndarray, coding: Coding) -> np.ndarray:
    """The class of each pixel, int16 [masks, height, width]; `IGNORED` where none counts.

    Args:
        masks: values of one height and width; all below 0 is `OUTSIDE`.
    """
    found = np.empty((len(masks), *masks[0].shape), np.int16)
    for one, mask in zip(found, masks, strict=True):
        one[:] = coding.table[np.maximum(mask.astype(np.int16), OUTSIDE)]
    return found


def archived(
    labels: np.ndarray, inputs: Mapping[str, np.ndarray], settings: Data, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Masks of an archive as `coded` gives them, as large as the input, and the classes' names.

    Raises:
        BadSamples: they are no masks, or of another size than the images.
    """
    if labels.ndim == 4 and 1 in (labels.shape[1], labels.shape[3]):
        labels = labels[:, 0] if labels.shape[1] == 1 else labels[..., 0]
    if labels.ndim != 3 or labels.dtype.kind not in "iub":
        message = f"labels of type {labels.dtype} and shape {labels.shape} are no masks"
        raise BadSamples(message, where=where, hint=SHAPES)
    name, images = next(iter(inputs.items()))
    if images.ndim not in (3, 4):
        message = f"`{name}` of shape {images.shape} holds no images"
        raise BadSamples(message, where=where, hint="(rows, height, width, 3), or without the 3")
    sides = _sides(images)
    if labels.shape[1:] != sides:
        message = f"masks of {_by(labels.shape[1:])} pixels, and `{name}` is of {_by(sides)}"
        raise BadSamples(message, where=where, hint="a mask has a value for each pixel")

    def called(row: int) -> str:
        return f"{where}: row {row}"

    counts = np.stack([counted(mask, called(i)) for i, mask in enumerate(labels)])
    coding = coding_of(counts, settings, called)
    before = settings.image
    if before is None or images.dtype != np.uint8:
        return coded(labels, coding), coding.classes
    place = before.place(sides)
    masks = [place.taken(mask.astype(np.int16), OUTSIDE) for mask in labels]
    return coded(masks, coding), coding.classes


def pixel_doubts(labels: np.ndarray, rows: np.ndarray, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on classes that have no or few pixels in these rows."""
    counts = np.zeros(len(classes), np.int64)
    for i in range(0, len(rows), BLOCK):
        some = labels[rows[i : i + BLOCK]]
        counts += np.bincount(some[some >= 0].astype(np.int64), minlength=len(classes))
    lacking = np.flatnonzero(counts == 0)[:5]
    doubts = [f"class `{classes[i]}` has no training pixel" for i in lacking]
    there = np.flatnonzero(counts)
    if len(there) < 2:
        return tuple(doubts)
    most, least = (int(there[pick(counts[there])]) for pick in (np.argmax, np.argmin))
    if counts[most] >= RARE * counts[least]:
        shares = 100 * counts / counts.sum()
        doubts.append(
            f"`{classes[most]}` has {shares[most]:.1f} % of the training pixels,"
            f" `{classes[least]}` {shares[least]:.2g} %: `loss: {{name: cross_entropy, balanced:"
            " true}` or `dice: 0.5` weighs them, and mean IoU says more than pixel accuracy"
        )
    return tuple(doubts)


def _named(count: int, settings: Data, called: Callable[[int], str]) -> tuple[str, ...]:
    names = settings.classes or tuple(map(str, range(settings.class_count or count)))
    if len(names) < 2:
        raise BadSamples(
            f"there is one class, `{names[0]}`",
            where=called(0),
            hint="what is not of it is a class, too: `classes: [background, ...]`, the name of"
            " value 0 first",
        )
    return names


def _holder(counts: np.ndarray, value: int) -> int:
    """The first mask that holds a value."""
    return int(np.flatnonzero(counts[:, value])[0])


def _sides(images: np.ndarray) -> tuple[int, int]:
    """Height and width of images: behind the rows, or the last axes where channels come first."""
    last = images.ndim == 3 or (images.dtype == np.uint8 and not _channels_first(images))
    height, width = images.shape[1:3] if last else images.shape[-2:]
    return height, width


def _channels_first(images: np.ndarray) -> bool:
    return images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3)


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))

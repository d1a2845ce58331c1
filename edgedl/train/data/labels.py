"""Labels as people write them, as numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples, nearest
from edgedl.runtime.process.table import category, is_missing

MOST_CLASSES = 1000
FEW_VALUES = 20
DATE = re.compile(r"\s*(\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}|\d{1,2}:\d{2})")
GROUPED = re.compile(r"\s*[+-]?\d[\d., ']*\d\s*")


def to_classes(
    cells: Sequence[Any],
    classes: tuple[str, ...],
    where: str,
    name: str,
    rows: Sequence[int] = (),
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers int64 of the classes' names, and the names: as given, or those that occur, sorted.

    Args:
        rows: how each row is called; from 1 on where there are none.

    Raises:
        BadSamples: a row has no label, or one that is none of the names; the error has the row.
    """
    texts = [category(cell) for cell in cells]
    called = rows or range(1, len(cells) + 1)
    for row, cell in zip(called, cells, strict=True):
        if is_missing(cell):
            message = f"row {row} has no `{name}`"
            raise BadSamples(message, where=where, hint="label it, or `missing: drop`")
    known = classes or tuple(sorted(set(texts), key=_order))
    if len(known) > MOST_CLASSES and not classes:
        message = f"`{name}` has {len(known)} different values"
        hint = "`task: regression`, or name the `classes`"
        raise BadSamples(message, where=where, hint=hint)
    places = {text: i for i, text in enumerate(known)}
    for row, text in zip(called, texts, strict=True):
        if text not in places:
            message = f"row {row} has the label `{text}`, which is none of the classes"
            raise BadSamples(message, where=where, hint=nearest(text, known))
    return np.array([places[text] for text in texts], np.int64), known


def to_values(cells: Sequence[Any], where: str, name: str, rows: Sequence[int] = ()) -> np.ndarray:
    """Float32 of shape [rows, 1].

    Raises:
        BadSamples: a cell is no number; the error has the row.
    """
    return numbers(cells, where, name, rows=rows).astype(np.float32)[:, None]


def numbers(
    cells: Sequence[Any], where: str, name: str, missing: bool = False, rows: Sequence[int] = ()
) -> np.ndarray:
    """Float64 of shape [rows]; NaN for what is missing, where it may be.

    Args:
        rows: how each row is called; from 1 on where there are none.

    Raises:
        BadSamples: a cell is no finite number, or missing; the error has row and column.
    """
    found = np.empty(len(cells))
    for i, cell in enumerate(cells):
        row = rows[i] if len(rows) else i + 1
        if is_missing(cell):
            if not missing:
                message = f"row {row} has no value in column `{name}`"
                hint = "`missing: drop` leaves such rows out, `missing: mean` fills them"
                raise BadSamples(message, where=where, hint=hint)
            found[i] = np.nan
            continue
        is_number = True
        try:
            found[i] = float(cell)
        except (TypeError, ValueError, OverflowError):
            found[i], is_number = np.inf, False
        if not np.isfinite(found[i]):
            message = f"row {row} has `{str(cell)[:40]}` in the number column `{name}`"
            hint = f"`categories: [{name}]` where texts are meant, or mend the row"
            if is_number:
                hint = "it is not finite: mend the row, or leave the cell empty and say `missing`"
            elif DATE.match(str(cell)):
                hint = f"a date is no number: name the other `columns`, without `{name}`"
            elif GROUPED.fullmatch(str(cell)):
                hint = "numbers have a point before their decimals, and none between thousands"
            raise BadSamples(message, where=where, hint=hint)
    return found


def alike_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """A sentence for names of classes that differ in spaces or capitals alone."""
    known: dict[str, list[str]] = {}
    for name in classes:
        known.setdefault(" ".join(name.split()).casefold(), []).append(name)
    return tuple(
        f"classes {', '.join(f'`{name}`' for name in names)} differ in spaces or capitals alone:"
        " are they one?"
        for names in known.values()
        if len(names) > 1
    )


def is_regression(cells: Sequence[Any]) -> bool:
    """Whether labels look like values to regress: numbers, with points or more than 20 of them."""
    values = set()
    for cell in cells:
        if isinstance(cell, (bool, np.bool_)):
            return False
        try:
            values.add(float(cell))
        except (TypeError, ValueError, OverflowError):
            return False
    return len(values) > FEW_VALUES or any(not value.is_integer() for value in values)


def is_number(cell: Any) -> bool:
    """Whether a cell is a number, or text that reads as one."""
    try:
        return not isinstance(cell, (bool, np.bool_)) and np.isfinite(float(cell))
    except (TypeError, ValueError, OverflowError):
        return False


def check_range(labels: np.ndarray, count: int, where: str) -> None:
    """Labels of so many classes.

    Raises:
        BadSamples: one is below 0 or beyond; the error has the row.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= count))
    if len(wrong):
        row = int(wrong[0])
        message = f"row {row} has the label {labels[row]}, and there are {count} classes"
        raise BadSamples(message, where=where, hint=f"labels run from 0 to {count - 1}")


def anomalies(
    labels: np.ndarray, classes: tuple[str, ...], normal: str, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """0 for the normal class and 1 for all others, as the metric `anomaly` wants it.

    Raises:
        BadSamples: there is no class of this name.
    """
    if normal not in classes:
        hint = nearest(normal, classes)
        raise BadSamples(f"there is no class `{normal}`", where=where, hint=hint)
    return (labels != classes.index(normal)).astype(np.int64), (normal, "anomalous")


def group_numbers(cells: Sequence[Any]) -> np.ndarray:
    """Numbers int64, the same for the same cell."""
    _, found = np.unique(np.array([category(cell) for cell in cells]), return_inverse=True)
    return found.astype(np.int64)


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by value, before texts."""
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def true_boxes(
    labels: np.ndarray, classes: tuple[str, ...], where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Boxes float32 [rows, most, 5], left, top, right, bottom and a class, and the classes' names;
    rows of class -1 fill up.

    Raises:
        BadSamples: they have another shape, or one has no size, or none of the classes.
    """
    hint = "float32 of shape (rows, most, 5): left, top, right, bottom, class; -1 fills up"
    if labels.ndim != 3 or labels.shape[2] != 5 or labels.dtype.kind not in "iuf":
        message = f"labels of type {labels.dtype} and shape {labels.shape} are no boxes"
        raise BadSamples(message, where=where, hint=hint)
    boxes = labels.astype(np.float32)
    numbers = boxes[..., 4]
    real = numbers != -1
    if not np.isfinite(boxes[real]).all() or np.isnan(numbers).any():
        raise BadSamples("a box is not finite", where=where, hint=hint)
    wrong = real & ((numbers < 0) | (numbers != np.rint(numbers)))
    if wrong.any():
        row = int(np.argwhere(wrong)[0, 0])
        message = f"row {row} has a box of class {numbers[wrong][0]:g}"
        raise BadSamples(message, where=where, hint="classes are 0, 1, 2 ..., and -1 fills up")
    flat = real & ((boxes[..., 2] <= boxes[..., 0]) | (boxes[..., 3] <= boxes[..., 1]))
    if flat.any():
        row, place = (int(one) for one in np.argwhere(flat)[0])
        message = f"row {row} has a box without size: {boxes[row, place, :4].tolist()}"
        raise BadSamples(message, where=where, hint="left < right and top < bottom")
    if not real.any():
        raise BadSamples("there is not one box", where=where, hint=hint)
    count = int(numbers[real].max()) + 1
    names = classes or tuple(map(str, range(count)))
    if count > len(names):
        message = f"a box has the class {count - 1}, and there are {len(names)} classes"
        raise BadSamples(message, where=where, hint="name them all under `classes`")
    return boxes, names

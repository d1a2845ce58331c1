"""Tables of numbers and categories: CSV or Parquet, a row a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.runtime.process import Processing
from edgedl.runtime.process.table import Column, Table, category, is_missing
from edgedl.train.data.dataset import Found, Prepared, Task
from edgedl.train.data.ids import ids_of
from edgedl.train.data.labels import (
    alike_classes,
    anomalies,
    group_numbers,
    is_number,
    is_regression,
    numbers,
    to_classes,
    to_values,
)
from edgedl.train.data.rows import prepared
from edgedl.train.data.settings import Data
from edgedl.train.data.table_files import Columns, Records, joined, read_table

USUAL = ("label", "labels", "target", "class")
MOST_CATEGORIES = 4096
MOST_NAMED = 20
INDEX_NAMES = frozenset({"", "id", "index", "idx", "row", "no", "nr", "unnamed: 0"})
INPUT = "row"


def find(settings: Data, *, progress: Progress = silent) -> Found:  # noqa: ARG001
    """The table that the settings name.

    Raises:
        BadSamples: it cannot be read, lacks a column, or a cell is not what its column wants.
    """
    assert settings.table is not None
    table = read_table(settings.table)
    test = None
    if settings.test is not None:
        tested = read_table(settings.test)
        test = np.arange(len(table) + len(tested)) >= len(table)
        table = joined(table, tested)
    return from_table(table, settings, test)


def from_table(table: Columns, settings: Data, test: np.ndarray | None = None) -> Found:
    """The rows of a table, as the settings say what is what in it.

    Raises:
        BadSamples: a column is not there, or a cell is not what its column wants.
    """
    label = label_column(table, settings)
    names = feature_columns(table, settings, label)
    used = [*names, *([label] if label else []), *([settings.group] if settings.group else [])]
    doubts: tuple[str, ...] = ()
    if settings.missing == "drop":
        table, test, doubts = _whole(table, used, test)
    labels, task, classes = _labels(table, settings, label)
    if settings.missing == "error":
        _no_gaps(table, names)
    if settings.ids:
        made, sparse = ids_of(table, settings.ids)
        prepare, doubts = (lambda _: made), (*doubts, *sparse)
    else:
        prepare = _Checked(table, names, settings).prepare
        doubts = (*doubts, *_counting(table, names, settings))
    return Found(
        count=len(table),
        prepare=prepare,
        labels=labels,
        task=task,
        outputs=_outputs(task, classes),
        where=table.where,
        classes=classes,
        groups=group_numbers(table.column(settings.group)) if settings.group else None,
        test=test,
        normal_only=settings.normal is not None,
        # no and yes stay what `bce` wants
        standardize=not (settings.ids and labels is not None and {*np.unique(labels)} <= {0, 1}),
        doubts=(
            *table.doubts,
            *doubts,
            *_filled(table, names, settings),
            *alike_classes(classes),
        ),
    )


def _outputs(task: Task, classes: tuple[str, ...]) -> int | None:
    if task == "classification":
        return len(classes)
    return {"regression": 1, "reconstruction": 0}.get(task)


def label_column(table: Columns, settings: Data) -> str | None:
    """The name of the column with the labels; None where there need be none.

    Raises:
        BadSamples: nobody has said which.
    """
    if settings.label is not None:
        table.column(settings.label)
        return settings.label
    found = next((name for name in USUAL if name in table.cells), None)
    if found is None and settings.task not in ("reconstruction", "unlabelled"):
        names = ", ".join(list(table.cells)[:20])
        message = "which column has the labels?"
        raise BadSamples(message, where=table.where, hint=f"`label: NAME`, one of {names}")
    return found


def feature_columns(table: Columns, settings: Data, label: str | None) -> list[str]:
    """The names of the columns that the network sees.

    Raises:
        BadSamples: one is not there, or is the label.
    """
    if settings.group is not None:
        table.column(settings.group)
    for name in (*settings.columns, *settings.categories, *settings.ids):
        table.column(name)
        if name == label:
            message = f"column `{name}` is the label, and cannot be seen"
            raise BadSamples(message, where=table.where, hint="leave it out of `columns`")
    left_out = {label, settings.group}
    if settings.ids:
        return list(settings.ids)
    found = list(settings.columns) or [name for name in table.cells if name not in left_out]
    found += [name for name in settings.categories if name not in found]
    if not found:
        message = "there is no column beside the label"
        raise BadSamples(message, where=table.where, hint="add what the network is to see")
    return found


@dataclass(frozen=True, eq=False)
class _Checked:
    """Columns of numbers and of categories, and what makes inputs of them."""

    table: Columns
    names: list[str]
    settings: Data

    def __post_init__(self) -> None:
        # every cell is looked at now, before any work is done
        for name in self.names:
            if name not in self.settings.categories:
                self._numbers(name)

    def prepare(self, train: np.ndarray) -> Prepared:
        cells: dict[str, Sequence[Any]] = {}
        columns = []
        for name in self.names:
            if name in self.settings.categories:
                cells[name] = self.table.column(name)
                columns.append(self._categories(name, train))
                continue
            values = self._numbers(name)
            known = values[train][~np.isnan(values[train])]
            if not len(known):
                message = f"column `{name}` has no value in any training row"
                raise BadSamples(message, where=self.table.where, hint="leave it out")
            mean, std = float(known.mean()), float(known.std())
            # a column of one value stays one of zeros, whatever rounding says of its deviation
            flat = std <= 1e-12 * max(1.0, abs(mean))
            cells[name] = values.tolist()
            columns.append(Column(name, mean, 1.0 if flat else std))
        gaps = self.settings.missing == "mean"
        unknown = self.settings.unknown
        before = Table(tuple(columns), "mean" if gaps else "error", unknown)
        if unknown != "warn":
            return prepared(Records(cells), INPUT, before, self.table.where, self.table.called)
        found = prepared(
            Records(cells), INPUT, replace(before, unknown="zeros"), self.table.where,
            self.table.called,
        )  # fmt: skip
        shipped = Processing(replace(before, input=INPUT))
        return replace(found, processing=shipped, doubts=self._unknown(before, train))

    def _unknown(self, table: Table, train: np.ndarray) -> tuple[str, ...]:
        """What is said of categories that stand in no training row."""
        said = []
        others = np.setdiff1d(np.arange(len(self.table)), train)
        for column in table.columns:
            cells = self.table.column(column.name) if column.categories else ()
            texts = [category(cells[i]) for i in others if cells and not is_missing(cells[i])]
            strange = [text for text in texts if text not in set(column.categories)]
            if strange:
                names = ", ".join(f"`{text}`" for text in sorted(set(strange))[:3])
                said.append(
                    f"{len(strange)} rows have a `{column.name}` that no training row has, as"
                    f" {names}: taken for none of the known"
                )
        return tuple(said)

    def _numbers(self, name: str) -> np.ndarray:
        cells, where = self.table.column(name), self.table.where
        return numbers(cells, where, name, self.settings.missing == "mean", self.table.lines)

    def _categories(self, name: str, train: np.ndarray) -> Column:
        cells = self.table.column(name)
        texts = sorted({category(cells[i]) for i in train if not is_missing(cells[i])})
        if not 1 <= len(texts) <= MOST_CATEGORIES:
            message = f"column `{name}` has {len(texts)} categories in the training rows"
            hint = f"1 to {MOST_CATEGORIES}; leave out what names each row"
            raise BadSamples(message, where=self.table.where, hint=hint)
        return Column(name, categories=tuple(texts))


def _gaps(table: Columns, names: Sequence[str]) -> dict[str, int]:
    """How many rows lack a value, by the columns where some do."""
    counts = {name: sum(map(is_missing, table.column(name))) for name in names}
    return {name: count for name, count in counts.items() if count}


def _no_gaps(table: Columns, names: Sequence[str]) -> None:
    found = _gaps(table, names)
    if not found:
        return
    name = next(iter(found))
    row = next(i for i, cell in enumerate(table.column(name)) if is_missing(cell))
    others = _listed([f"{count} in `{one}`" for one, count in found.items()])
    message = f"no value in column `{name}`; of {len(table)} rows values lack: {others}"
    hint = "`missing: drop` leaves such rows out, `missing: mean` fills them"
    raise BadSamples(message, where=table.called(row), hint=hint)


def _filled(table: Columns, names: Sequence[str], settings: Data) -> tuple[str, ...]:
    """A sentence on the values that are not there and are made up."""
    found = _gaps(table, names) if settings.missing == "mean" else {}
    if not found:
        return ()
    zeros = settings.categories
    listing = _listed(
        [f"{n} in `{one}` by {'zeros' if one in zeros else 'the mean'}" for one, n in found.items()]
    )
    return (f"of {len(table)} rows values that lack were filled: {listing}",)


def _counting(table: Columns, names: Sequence[str], settings: Data) -> tuple[str, ...]:
    """A sentence for an index that was saved with the table, and that nobody asked for."""
    asked = {*settings.columns, *settings.categories}
    found = []
    for name in names:
        cells = table.column(name) if name.strip().lower() in INDEX_NAMES - asked else [""]
        first = str(cells[0]).strip()
        if first in ("0", "1") and all(
            str(cell).strip() == str(i) for i, cell in enumerate(cells, int(first))
        ):
            found.append(
                f"column `{name}` numbers the rows, and the network sees it: leave it out, by"
                " `columns`, unless it means something"
            )
    return tuple(found)


def _listed(parts: list[str]) -> str:
    more = f" and {len(parts) - MOST_NAMED} columns more" if len(parts) > MOST_NAMED else ""
    return ", ".join(parts[:MOST_NAMED]) + more


def _whole(
    table: Columns, names: list[str], test: np.ndarray | None
) -> tuple[Columns, np.ndarray | None, tuple[str, ...]]:
    """Without the rows that lack a value."""
    columns = [table.column(name) for name in names]
    kept = [i for i in range(len(table)) if not any(is_missing(column[i]) for column in columns)]
    if len(kept) == len(table):
        return table, test, ()
    if not kept:
        message = "every row lacks a value"
        raise BadSamples(message, where=table.where, hint="`missing: mean`, or fewer `columns`")
    said = f"{len(table) - len(kept)} of {len(table)} rows lack a value and were dropped"
    return table.take(kept), None if test is None else test[kept], (said,)


def _labels(
    table: Columns, settings: Data, label: str | None
) -> tuple[np.ndarray | None, Task, tuple[str, ...]]:
    if settings.task == "unlabelled":
        return None, "unlabelled", ()
    if label is None and settings.normal is not None:
        message = "which column says what is normal?"
        raise BadSamples(message, where=table.where, hint="`label: NAME`")
    if label is None:
        return None, "reconstruction", ()
    cells = table.column(label)
    there = [cell for cell in cells if not is_missing(cell)]
    # stars are few whole numbers, and a rating all the same
    regress = not settings.classes and (
        is_regression(there) or bool(settings.ids and all(map(is_number, there)))
    )
    task: Task = settings.task or ("regression" if regress else "classification")
    if task == "regression":
        return to_values(cells, table.where, label, table.lines), task, ()
    labels, classes = to_classes(cells, settings.classes, table.where, label, table.lines)
    if settings.normal is not None:
        labels, classes = anomalies(labels, classes, settings.normal, table.where)
    return labels, task, classes

"""Tables as columns, of CSV by the standard library or of Parquet."""

from __future__ import annotations

import csv
import re
import sys
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadSamples, nearest
from edgedl.runtime.process.table import is_missing
from edgedl.train.data.parquet import read_parquet

TABS = (".tsv", ".tab")
SUFFIXES = (".csv", *TABS, ".parquet", ".pq")
DELIMITERS = ",;\t|"
MOST_BYTES = 1 << 31
MOST_NAMED = 20
COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?([eE][+-]?\d+)?\s*")


@dataclass(frozen=True, eq=False)
class Columns:
    """A table's cells by column, as they lie in the file, and where it lies.

    Attributes:
        lines: how each row is called in errors: its line in the file, or its number from 1 on.
        doubts: sentences for the user on how cells were read.
        behind: where the rows of a second file begin, and that file; none where there is one.
        refused: why columns hold no cells, by their names, and a way out.
    """

    cells: Mapping[str, list[Any]]
    lines: Sequence[int]
    where: str
    doubts: tuple[str, ...] = ()
    behind: tuple[int, str] | None = None
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, name: str) -> list[Any]:
        """The cells of a column.

        Raises:
            BadSamples: there is none of this name, and the hint has the nearest; or it is refused.
        """
        if name in self.refused:
            reason, hint = self.refused[name]
            raise BadSamples(f"column `{name}` {reason}", where=self.where, hint=hint)
        if name not in self.cells:
            hint = nearest(name, self.cells)
            raise BadSamples(f"there is no column `{name}`", where=self.where, hint=hint)
        return self.cells[name]

    def take(self, rows: Sequence[int]) -> Columns:
        """Some of the rows."""
        cells = {name: [column[i] for i in rows] for name, column in self.cells.items()}
        behind = self.behind
        if behind is not None:
            behind = sum(i < behind[0] for i in rows), behind[1]
        return replace(self, cells=cells, lines=[self.lines[i] for i in rows], behind=behind)

    def called(self, row: int) -> str:
        """A row, counted from 0, as its file and line."""
        second = self.behind is not None and row >= self.behind[0]
        where = self.behind[1] if self.behind is not None and second else self.where
        return f"{where}: row {self.lines[row]}"


@dataclass(frozen=True, eq=False)
class Records(Sequence[Any]):
    """The rows of a table as values by column, made when they are asked for."""

    cells: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))

    def __getitem__(self, row: Any) -> Any:
        return {name: column[row] for name, column in self.cells.items()}


def read_table(path: str | Path) -> Columns:
    """The table in a file.

    Raises:
        BadSamples: it is missing, damaged, empty, or its lines differ in length. Missing: pyarrow
            is not installed, and the file is Parquet.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        hint = f"a file that ends in {', '.join(SUFFIXES)}"
        raise BadSamples("is no table that is read", where=str(path), hint=hint)
    try:
        if path.stat().st_size > MOST_BYTES:
            message = f"larger than {MOST_BYTES >> 30} GiB"
            raise BadSamples(message, where=str(path), hint="split it")
        found = _parquet(path) if suffix in (".parquet", ".pq") else _csv(path)
    except FileNotFoundError as error:
        raise BadSamples("no such file", where=str(path), hint="name one") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        message = f"cannot be read ({' '.join(str(error).split())[:120]})"
        raise BadSamples(message, where=str(path), hint="save it as CSV in UTF-8") from error
    if not found.lines:
        raise BadSamples("the table has no rows", where=str(path), hint="give at least three")
    return found


def joined(first: Columns, second: Columns) -> Columns:
    """The rows of two tables, the second's behind the first's; a column that the second lacks is
    refused where it is used."""
    gaps = [None] * len(second)
    cells = {name: [*one, *second.cells.get(name, gaps)] for name, one in first.cells.items()}
    doubts = tuple(dict.fromkeys((*first.doubts, *second.doubts)))
    hint = f"add it, or name other `columns`; there: {', '.join(list(second.cells)[:MOST_NAMED])}"
    reason = f"is not in `{second.where}`", hint
    lacking = {name: reason for name in first.cells if name not in second.cells}
    return Columns(
        cells,
        [*first.lines, *second.lines],
        first.where,
        doubts,
        (len(first), second.where),
        {**second.refused, **first.refused, **lacking},
    )


def _csv(path: Path) -> Columns:
    csv.field_size_limit(min(sys.maxsize, 1 << 26))
    with path.open(encoding=_encoding(path), newline="") as file:
        first = file.readline()
        file.seek(0)
        names, *_ = *_rows(file, first, path), []
        if not names:
            raise BadSamples("the table has no line of names", where=str(path), hint="add one")
        file.seek(0)
        columns: list[list[Any]] = [[] for _ in names]
        lines = []
        reader = csv.reader(file, delimiter=_delimiter(first, path))
        next(reader)
        for row in reader:
            if not row:
                continue
            if len(row) != len(names):
                message = f"line {reader.line_num} has {len(row)} values for {len(names)} columns"
                raise BadSamples(message, where=str(path), hint="mend the line")
            lines.append(reader.line_num)
            for column, cell in zip(columns, row, strict=True):
                column.append(cell)
    cells = _named(names, columns, path)
    doubts = _pointed(cells) if _delimiter(first, path) != "," else ()
    return Columns(cells, lines, str(path), doubts)


def _pointed(cells: dict[str, list[Any]]) -> tuple[str, ...]:
    """Write the columns whose numbers have decimal commas with points, and say so of each."""
    doubts = []
    for name, column in cells.items():
        there = [cell for cell in column if not is_missing(cell)]
        commas = next((cell for cell in there if "," in cell), None)
        if commas is None or not all(map(COMMA.fullmatch, there)):
            continue
        cells[name] = [cell.replace(",", ".") for cell in column]
        doubts.append(f"`{commas.strip()}` in column `{name}` is taken for a decimal comma")
    return tuple(doubts)


def _rows(file: Any, first: str, path: Path) -> Iterator[list[str]]:
    reader = csv.reader(file, delimiter=_delimiter(first, path))
    yield [name.strip() for name in next(reader, [])]


def _delimiter(first: str, path: Path) -> str:
    if path.suffix.lower() in TABS:
        return "\t"
    return max(DELIMITERS, key=first.count)


def _encoding(path: Path) -> str:
    """UTF-16 where a file begins as spreadsheets save that, else UTF-8."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"


def _parquet(path: Path) -> Columns:
    names, columns, refused = read_parquet(path)
    cells = _named(names, columns, path)
    lines = range(1, len(columns[0]) + 1) if columns else ()
    hint = "write its values as columns of their own, or name the other `columns`"
    reasons = {name: (reason, hint) for name, reason in refused.items()}
    return Columns(cells, lines, str(path), refused=reasons)


def _named(names: list[str], columns: list[list[Any]], path: Path) -> dict[str, list[Any]]:
    for name in names:
        if names.count(name) > 1:
            message = f"two columns are called `{name}`"
            raise BadSamples(message, where=str(path), hint="name them apart")
    return dict(zip(names, columns, strict=True))

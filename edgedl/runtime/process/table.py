"""Rows of a table to inputs: numbers normalised, categories to one place each."""

from __future__ import annotations

import csv
import io
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadSamples, BadValue, nearest
from edgedl.runtime.process.normalise import check_normal, normalised

MOST_COLUMNS = 1 << 16
MOST_WIDTH = 1 << 20
MOST_BYTES = 1 << 24
NO_VALUE = frozenset({"", "?", "na", "n/a", "nan", "null", "none"})


@dataclass(frozen=True)
class Column:
    """One column: a number, `(value - mean) / std`, or a category, 1 at its place and 0 elsewhere.

    Attributes:
        categories: their texts in the order of their places; a number where empty.
    """

    name: str
    mean: float = 0.0
    std: float = 1.0
    categories: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_normal((self.mean,), (self.std,), 1, "column")
        if len(set(self.categories)) != len(self.categories):
            message = f"column `{self.name}` names a category twice"
            raise BadValue(message, keys=("categories",), hint="leave one of them out")

    @property
    def width(self) -> int:
        """How many of the input's values it makes."""
        return len(self.categories) or 1


@dataclass(frozen=True)
class Table:
    """What turns a row of named values into an input: its columns' values, one behind the other.

    Attributes:
        missing: what a value that is not there (nothing, NaN, `NA`, `?`, ...) becomes: with `mean`
            the mean of a number and zeros of a category; with `error` the row is refused.
        unknown: what a category that is none of the column's becomes: zeros, with `warn` after a
            warning; with `error` the row is refused.
        layout: the axes of the input: `n` is 1, `f` are the values.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "table"
    suffixes: ClassVar[frozenset[str]] = frozenset({".csv", ".json"})
    dtype: ClassVar[str] = "float32"

    columns: tuple[Column, ...]
    missing: Literal["mean", "error"] = "error"
    unknown: Literal["zeros", "warn", "error"] = "error"
    layout: Literal["nf", "f"] = "nf"
    input: str | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        if not 1 <= len(names) <= MOST_COLUMNS:
            hint = f"1 to {MOST_COLUMNS}"
            raise BadValue(f"`columns` are {len(names)}", keys=("columns",), hint=hint)
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            message = f"two columns are called `{twice}`"
            raise BadValue(message, keys=("columns",), hint="name them apart")
        if self.width > MOST_WIDTH:
            message = f"the columns make {self.width} values"
            raise BadValue(message, keys=("columns",), hint=f"{MOST_WIDTH} at most")

    @property
    def width(self) -> int:
        """How many values the input has."""
        return sum(column.width for column in self.columns)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input."""
        return (1, self.width) if self.layout == "nf" else (self.width,)

    @property
    def decoder(self) -> str:
        """What decodes, and its version."""
        return "edgedl 1"

    @cached_property
    def _places(self) -> tuple[dict[str, int], ...]:
        return tuple({text: i for i, text in enumerate(c.categories)} for c in self.columns)

    @cached_property
    def _normal(self) -> np.ndarray:
        return np.array([[c.mean for c in self.columns], [c.std for c in self.columns]])

    def decode(self, path: str | Path) -> Mapping[str, Any]:
        """The values of a file by column: a JSON object, or CSV of a line of names and one more.

        Raises:
            BadSamples: the file is missing, damaged, too large, or holds something else.
        """
        try:
            with Path(path).open("rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) > MOST_BYTES:
                raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
            text = content.decode("utf-8-sig")
            json_file = Path(path).suffix.lower() == ".json"
            return _object(text) if json_file else _line(text)
        except FileNotFoundError as error:
            raise _bad(path, "no such file") from error
        except (OSError, ValueError, RecursionError, csv.Error) as error:
            raise _bad(path, f"cannot be read ({' '.join(str(error).split())[:120]})") from error

    def apply(self, raw: Mapping[str, Any] | Sequence[Any]) -> np.ndarray:
        """The model's input, of a row's values by column, or in the columns' order.

        Raises:
            BadSamples: a column is not there, or its value cannot be used; the error names it.
        """
        row = self._named(raw)
        found = np.zeros(self.width, np.float32)
        numbers: list[tuple[int, int, float]] = []
        place = 0
        for i, column in enumerate(self.columns):
            value = row[column.name]
            if is_missing(value):
                if self.missing == "error":
                    hint = "give a value, or train with `missing: mean`"
                    raise BadSamples(f"column `{column.name}` has no value", hint=hint)
            elif not column.categories:
                numbers.append((place, i, _number(column.name, value)))
            elif (text := category(value)) in self._places[i]:
                found[place + self._places[i][text]] = 1
            elif self.unknown != "zeros":
                message = f"column `{column.name}` is `{text}`"
                if self.unknown == "error":
                    raise BadSamples(message, hint=nearest(text, self._places[i]))
                known = "none that training knew, and is taken for none of them"
                warnings.warn(f"{message}, {known}", stacklevel=2)
            place += column.width
        if numbers:
            places, which, values = zip(*numbers, strict=True)
            mean, std = self._normal[:, list(which)]
            found[list(places)] = normalised(np.array(values), mean, std)
        return found[None] if self.layout == "nf" else found

    def _named(self, raw: Mapping[str, Any] | Sequence[Any]) -> Mapping[str, Any]:
        names = [column.name for column in self.columns]
        if isinstance(raw, Mapping):
            for name in names:
                if name not in raw:
                    message = f"the row has no column `{name}`"
                    raise BadSamples(message, hint=nearest(name, map(str, raw)))
            return raw
        if not hasattr(raw, "__len__") or getattr(raw, "ndim", 1) != 1:
            message = f"{type(raw).__name__} is no row"
            raise BadSamples(message, hint="values by column, or in the columns' order")
        if isinstance(raw, (str, bytes)) or len(raw) != len(names):
            message = f"{len(raw)} values for {len(names)} columns"
            raise BadSamples(message, hint="values by column, or in the columns' order")
        return dict(zip(names, raw, strict=True))


def _number(name: str, value: Any) -> float:
    try:
        number: float | None = float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or not math.isfinite(number):
        message = f"column `{name}` is `{value}`, not a number"
        raise BadSamples(message, hint="write it as a number")
    return number


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, or one of the usual words for it."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return True
    return isinstance(value, str) and value.strip().lower() in NO_VALUE


def category(value: Any) -> str:
    """A cell as a category's text: whole numbers without a point, truth in lower case."""
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _object(text: str) -> Mapping[str, Any]:
    found = json.loads(text)
    if not isinstance(found, Mapping):
        raise ValueError("not an object")
    return found


def _line(text: str) -> Mapping[str, Any]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        raise ValueError("wants a line of names, and one of as many values")
    return dict(zip(rows[0], rows[1], strict=True))


def _bad(path: str | Path, reason: str) -> BadSamples:
    return BadSamples(reason, where=str(path), hint="remove it, or put a sound one")

"""Parquet files as columns of plain values, by pyarrow where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgedl.core.errors import BadSamples
from edgedl.core.registry import missing

UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def read_parquet(path: Path) -> tuple[list[str], list[list[Any]], dict[str, str]]:
    """The names of a file's columns, their cells, and why some of them are no cells, by name.

    Numbers, truth, texts, decimals and categories are what they are; bytes are texts, dates and
    times as ISO 8601 writes them, and durations are seconds. Columns of lists or of records hold
    None throughout, and a reason.

    Raises:
        Missing: pyarrow is not installed. BadSamples: the file is damaged.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise missing(error, "reading Parquet") from error
    columns: list[list[Any]] = []
    refused: dict[str, str] = {}
    try:
        table = parquet.read_table(path)
        for name, column in zip(table.column_names, table.columns, strict=True):
            found = _cells(column, pa)
            if found is None:
                refused[name] = f"holds {column.type}, and not one value a row"
            columns.append([None] * len(column) if found is None else found)
    except pa.ArrowException as error:
        message = f"cannot be read ({' '.join(str(error).split())[:120]})"
        raise BadSamples(message, where=str(path), hint="is it Parquet?") from error
    return list(table.column_names), columns, refused


def _cells(column: Any, pa: Any) -> list[Any] | None:
    """A column's values; None where each is several."""
    types = pa.types
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if types.is_nested(kind):
        return None
    if types.is_duration(kind):
        ticks = column.cast(pa.int64()).to_pylist()
        return [None if one is None else one / UNITS[kind.unit] for one in ticks]
    if types.is_temporal(kind):
        # as texts: Python's own dates and times have no nanoseconds
        plain = pa.timestamp(kind.unit) if types.is_timestamp(kind) else kind
        texts: list[Any] = column.cast(plain).cast(pa.string()).to_pylist()
        return texts
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        try:
            texts = column.cast(pa.binary()).cast(pa.string()).to_pylist()
        except pa.ArrowInvalid:
            return None
        return texts
    found: list[Any] = column.to_pylist()
    return found

"""The columns of a table of rows: which there are, in which units, and what each cell says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgedl.report.reading import Document, figure, mappings, name, number, word


@dataclass(frozen=True)
class Column:
    """A column: its head, its unit, and the number under the keys, in units of `per`."""

    head: str
    unit: str
    keys: tuple[str, ...]
    per: float = 1.0
    digits: int | None = None

    def value(self, row: Any) -> float | None:
        """The cell's number."""
        found = number(row, *self.keys)
        return None if found is None else found / self.per

    def text(self, row: Any) -> str:
        """The cell's number as people read it."""
        found = self.value(row)
        if found is None or self.digits is None:
            return figure(found)
        return f"{found:,.{self.digits}f}"


WORDS = ("engine", "precision")
ACCURACY = "accuracy"
COLUMNS = (
    Column("threads", "", ("threads",), digits=0),
    Column("p50", "ms", ("latency_ms", "p50")),
    Column("p90", "ms", ("latency_ms", "p90")),
    Column("p99", "ms", ("latency_ms", "p99")),
    Column(ACCURACY, "accuracy", ("accuracy", "value"), digits=4),
    Column("top-1", "agreement", ("agreement", "top1"), digits=3),
    Column("cosine", "agreement", ("agreement", "cosine"), digits=4),
    Column("SQNR", "dB", ("agreement", "sqnr_db"), digits=1),
    Column("size", "MB", ("bytes",), 1e6),
    Column("memory", "MB", ("peak_rss_bytes",), 1e6),
    Column("GPU", "MB", ("gpu_bytes",), 1e6),
    Column("energy", "mJ", ("energy_mj",)),
    Column("throughput", "per s", ("throughput_per_s",)),
    Column("end to end", "p50, ms", ("end_to_end_ms", "p50")),
    Column("load", "ms", ("load_ms",)),
    Column("first", "ms", ("first_ms",)),
    Column("packed", "MB", ("compressed_bytes",), 1e6),
)
ALWAYS = frozenset({"p50"})


def columns(rows: Sequence[Any]) -> list[Column]:
    """The columns in which any row has a figure; accuracy is named after its metric."""
    metric = next((m for row in rows if (m := word(row, "accuracy", "metric"))), ACCURACY)
    return [
        replace(column, head=metric) if column.head == ACCURACY else column
        for column in COLUMNS
        if column.head in ALWAYS or any(column.value(row) is not None for row in rows)
    ]


def words(rows: Sequence[Any]) -> list[str]:
    """The columns of text in which any row has some."""
    return [key for key in WORDS if any(word(row, key) for row in rows)]


def ratios(document: Document) -> Mapping[str, Mapping[str, Any]]:
    """The pair of each artifact with the first row."""
    rows = mappings(document, "rows")
    first = name(rows[0]) if rows else ""
    return {word(p, "b"): p for p in mappings(document, "pairs") if word(p, "a") == first}

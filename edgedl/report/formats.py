"""What `bench` found, as Markdown for a pull request and as CSV for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from edgedl.report.listing import columns, ratios, words
from edgedl.report.reading import (
    Document,
    chance,
    headline,
    interval,
    is_valid,
    lede,
    mappings,
    name,
    number,
    reasons,
    sentences,
    times,
    word,
)
from edgedl.report.staged import staged
from edgedl.report.table import markdown

MOST_ROWS = 50
MOST_PAIRS = 20
FORMULA = ("=", "+", "-", "@", "\t", "\r")
FIGURES = (
    "threads", "latency_ms.min", "latency_ms.p50", "latency_ms.p90", "latency_ms.p99",
    "latency_ms.mean", "latency_ms.samples", "end_to_end_ms.min", "end_to_end_ms.p50",
    "end_to_end_ms.p90", "end_to_end_ms.p99", "end_to_end_ms.mean", "end_to_end_ms.samples",
    "stages_ms.decode", "stages_ms.preprocess", "stages_ms.run", "stages_ms.postprocess",
    "throughput_per_s", "import_ms", "load_ms", "first_ms", "peak_rss_bytes", "gpu_bytes",
    "bytes", "compressed_bytes", "energy_mj", "energy.net_mj", "energy.gross_mj", "energy.idle_w",
    "energy.least_mj", "energy.most_mj", "energy.window_s", "accuracy.value", "accuracy.samples",
    "agreement.top1", "agreement.cosine", "agreement.sqnr_db", "agreement.samples",
)  # fmt: skip
TEXTS = ("artifact", "engine", "precision", "digest", "accuracy.metric", "energy.power_mode")


def to_markdown(document: Document) -> str:
    """A comment for a pull request: the verdict, then the rows, the pairs and the doubts."""
    rows = mappings(document, "rows")
    parts = [f"### {_inline(headline(document))}"]
    broken = [name(row) for row in rows if not is_valid(row)]
    if broken:
        parts.append(f"**Not valid, must not be used:** {', '.join(_code(b) for b in broken[:20])}")
        parts += [_inline(why)] if (why := reasons(rows)) else []
    if below := lede(document):
        parts.append(_inline(below))
    if rows:
        parts.append(_rows(document, rows[:MOST_ROWS]))
        if len(rows) > MOST_ROWS:
            parts.append(f"{MOST_ROWS} of {len(rows):,} rows.")
    if stages := staged(rows[:MOST_ROWS]):
        head, *body = stages
        lines = [[_code(line[0]), *line[1:]] for line in body]
        parts.append(markdown([head, *lines], right=range(1, len(head))))
    if pairs := mappings(document, "pairs"):
        parts.append(_pairs(pairs[:MOST_PAIRS]))
        floor = number(document, "noise_floor")
        notes = [f"Noise floor {100 * floor:.1f} %."] if floor is not None else []
        if len(pairs) > MOST_PAIRS:
            notes.append(f"{MOST_PAIRS} of {len(pairs):,} pairs.")
        parts += [" ".join(notes)] if notes else []
    if doubts := sentences(document):
        parts.append("**Doubts**\n\n" + "\n".join(f"- {_inline(doubt)}" for doubt in doubts))
    if footer := _footer(document):
        parts.append(f"<sub>{footer}</sub>")
    return "\n\n".join(parts) + "\n"


def _rows(document: Document, rows: Sequence[Any]) -> str:
    found, labels, pairs = columns(rows), words(rows), ratios(document)
    head = ["artifact", *labels]
    for column in found:
        head.append(f"{_inline(column.head)} {column.unit}".strip())
        if pairs and column.keys == ("latency_ms", "p50"):
            head.append("x the first")
    body = []
    for i, row in enumerate(rows):
        cells = [_code(name(row)) + ("" if is_valid(row) else " **invalid**")]
        cells += [_inline(word(row, key)) or "-" for key in labels]
        for column in found:
            cells.append(column.text(row))
            if pairs and column.keys == ("latency_ms", "p50"):
                ratio = number(pairs.get(name(row)), "ratio")
                cells.append("1" if i == 0 else "-" if ratio is None else times(ratio))
        body.append(cells)
    return markdown([head, *body], right=range(1 + len(labels), len(head)))


def _pairs(pairs: Sequence[Any]) -> str:
    head = ["pair", "times faster", "verdict", ""]
    body = [
        [
            f"{_code(word(pair, 'b'))} against {_code(word(pair, 'a'))}",
            interval(pair) or "-",
            _inline(word(pair, "verdict")) or "-",
            chance(number(pair, "p")),
        ]
        for pair in pairs
    ]
    return markdown([head, *body], right=[1])


def _footer(document: Document) -> str:
    machine = document.get("machine")
    texts = [
        word(document, "time"),
        word(machine, "processor"),
        word(machine, "system"),
        word(document, "command"),
    ]
    return " &middot; ".join(_inline(text) for text in texts if text)


def _inline(text: str) -> str:
    """Text in which nothing is Markdown or HTML, on one line."""
    flat = " ".join(text.split())
    for mark in "\\`*_|[]~":
        flat = flat.replace(mark, "\\" + mark)
    return (
        flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    )


def _code(text: str) -> str:
    """Text as code in a cell of a table; the bar, which ends a cell, keeps text from being code."""
    flat = " ".join(text.split())
    if "`" in flat or "|" in flat or not flat:
        return _inline(flat)
    return f"`{flat}`"


def to_csv(document: Document) -> str:
    """One line a row (RFC 4180), flat columns with their units in their names.

    Text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    heads = [_flat(key) for key in (*TEXTS, *FIGURES)]
    writer.writerow(["valid", *heads, "speed_ratio", "speed_low", "speed_high", "speed_verdict"])
    pairs = ratios(document)
    for row in mappings(document, "rows"):
        cells = [("false", "true")[is_valid(row)]]
        cells += [_text(word(row, *key.split("."))) for key in TEXTS]
        cells += [_number(row, *key.split(".")) for key in FIGURES]
        pair = pairs.get(name(row), {})
        cells += [_number(pair, key) for key in ("ratio", "low", "high")]
        writer.writerow([*cells, _text(word(pair, "verdict"))])
    return out.getvalue()


def _flat(key: str) -> str:
    """A column's head, its unit last: `latency_ms.p50` is `latency_p50_ms`."""
    group, _, leaf = key.rpartition(".")
    if group.endswith("_ms"):
        stem = f"{group.removesuffix('_ms')}_{leaf}"
        return stem if leaf == "samples" else f"{stem}_ms"
    return f"{group}_{leaf}" if group else leaf


def _text(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _number(row: Mapping[str, Any], *keys: str) -> str:
    found = number(row, *keys)
    if found is None:
        return ""
    return f"{found:.0f}" if found.is_integer() and abs(found) < 1e15 else repr(found)

"""Sections of the page that are words alone: the machine, the doubts, and the document itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from edgedl.core.units import format_bytes
from edgedl.report.reading import Document, figure, number, sentences, word

MOST_PRETTY_ROWS = 50
MOST_RAW_ROWS = 1000


def section(key: str, heading: str, content: str) -> str:
    """A section of the page with its heading; the content is HTML."""
    return f'<section id="{key}"><h2>{escape(heading)}</h2>\n{content}</section>'


def machine(document: Document) -> str:
    """What the figures were taken on; empty where the document does not tell."""
    found = document.get("machine")
    content = _definitions(found) if isinstance(found, Mapping) else ""
    return section("machine", "Machine", content) if content else ""


def _definitions(values: Mapping[str, Any], depth: int = 0) -> str:
    """A nested mapping as a definition list; what is null is left out."""
    parts = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat = all(not isinstance(item, (Mapping, list, tuple)) for item in value.values())
            text = (
                ", ".join(escape(f"{k} {word(value, k)}") for k in value if word(value, k))
                if flat
                else (_definitions(value, depth + 1) if depth < 4 else "")
            )
        elif isinstance(value, (list, tuple)):
            text = ", ".join(escape(word({"v": v}, "v")) for v in value if word({"v": v}, "v"))
        elif key.endswith("_bytes") and number(values, key) is not None:
            text = format_bytes(number(values, key) or 0)
        elif isinstance(value, float) and number(values, key) is not None:
            text = figure(value)
        else:
            text = escape(word(values, key))
        if text:
            head = key.removesuffix("_bytes").replace("_", " ")
            parts.append(f"<dt>{escape(head)}</dt><dd>{text}</dd>")
    return f"<dl>{''.join(parts)}</dl>" if parts else ""


def doubts(document: Document) -> str:
    """What to think of the figures; empty where there is no doubt."""
    items = "".join(f"<li>{escape(doubt)}</li>" for doubt in sentences(document))
    return section("doubts", "Doubts", f'<ul class="doubts">{items}</ul>') if items else ""


def raw(document: Document) -> str:
    """The document as JSON that can be copied, folded away."""
    text, note = _json(document)
    return section(
        "document",
        "Document",
        f"<details><summary>What <code>bench --json</code> prints{note}</summary>"
        f"<pre>{escape(text, quote=False)}</pre></details>",
    )


def _json(document: Document) -> tuple[str, str]:
    """Pretty JSON, or a line a row where there are many; and what was left out of very many."""
    rows = document.get("rows")
    if not isinstance(rows, list) or len(rows) <= MOST_PRETTY_ROWS:
        return _dumped(document, indent=2), ""
    note = ""
    if len(rows) > MOST_RAW_ROWS:
        note = f", the first {MOST_RAW_ROWS:,} of {len(rows):,} rows"
        rows = rows[:MOST_RAW_ROWS]
    lines = ",\n".join(_dumped(row) for row in rows)
    rest = [
        f"{json.dumps(str(key))}: " + (f"[\n{lines}\n]" if key == "rows" else _dumped(value))
        for key, value in document.items()
    ]
    return "{\n" + ",\n".join(rest) + "\n}", note


def _dumped(value: Any, indent: int | None = None) -> str:
    try:
        return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value), indent=indent, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """The value with null for numbers, and text for other things, that JSON cannot say."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)

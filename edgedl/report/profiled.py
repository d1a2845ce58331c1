"""Where the time goes, engines side by side, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedl.core.units import format_ms
from edgedl.report.table import table

Key = tuple[str, str]


def text(document: Mapping[str, Any]) -> str:
    """`{"profiles": [...]}`, each a `Profile` as JSON, as one table: rows by kind and precision.

    Operators that a reference kernel computed, or float between two conversions, are marked
    `fallback`.
    """
    profiles: Sequence[Mapping[str, Any]] = document["profiles"]
    heads = _heads([profile["engine"] for profile in profiles])
    cells = [{_key(row): row for row in profile["rows"]} for profile in profiles]
    longest: dict[Key, float] = {}
    for found in cells:
        for key, row in found.items():
            longest[key] = max(row["us"], longest.get(key, 0.0))
    keys = sorted(longest, key=lambda key: (not key[1], -longest[key]))
    rows = [["operator", "precision"]]
    for head in heads:
        rows[0] += [head, "us", "share"]
    for key in keys:
        rows.append([*key])
        for found in cells:
            rows[-1] += _cells(found.get(key))
    lines = [
        f"{head}: {profile['artifact']}, {format_ms(profile['total_us'] / 1e3)} a call,"
        f" {100 * profile['accounted']:.0f} % of it in the engine's profile"
        for head, profile in zip(heads, profiles, strict=True)
    ]
    return "\n".join([*lines, "", table(rows, right=range(2, len(rows[0])))])


def _heads(engines: Sequence[str]) -> list[str]:
    """The engines' names, numbered where one stands there twice."""
    return [
        f"{engine} {engines[:i].count(engine) + 1}" if engines.count(engine) > 1 else engine
        for i, engine in enumerate(engines)
    ]


def _key(row: Mapping[str, Any]) -> Key:
    return row["kind"], row["precision"] + (", fallback" if row["fallback"] else "")


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    count = str(row["count"]) if row["count"] else ""
    return [count, f"{row['us']:.1f}", f"{100 * row['share']:.1f} %"]

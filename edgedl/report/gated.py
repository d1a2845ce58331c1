"""What a gate found, as a comment for a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedl.core.units import format_ms
from edgedl.report.table import markdown as as_markdown


def markdown(against: Mapping[str, Any]) -> str:
    """A verdict, a line an artifact, and libraries in other versions, from `Against.to_json`."""
    rows, limit = against["rows"], against["limit"]
    red = [row for row in rows if row["red"]]
    second = ", timed twice" if against["again"] and red else ""
    verdict = (
        f"**slower**: {len(red)} of {len(rows)} by more than {100 * limit:g} %{second}"
        if red
        else f"**ok**: nothing is slower by more than {100 * limit:g} %"
    )
    lines = [["artifact", "engine", "before", "now", "slow-down", ""]]
    for row in rows:
        slowdown = row["slowdown"]
        change, low, high = (100 * (slowdown[key] - 1) for key in ("ratio", "low", "high"))
        lines.append(
            [
                f"`{row['artifact']}`",
                row["engine"],
                _ms(row["before_ms"]),
                _ms(row["after_ms"]),
                f"{change:+.1f} % [{low:+.1f}, {high:+.1f}]",
                "slower" if row["red"] else "ok",
            ]
        )
    note = (
        f"Against `{against['baseline']}`; slow-downs are corrected for the speed of the machine,"
        " by a fixed yardstick that was timed in the same rounds, so they may differ from the"
        " ratio of times."
    )
    parts = [f"### edgedl bench: {verdict}", as_markdown(lines, right=(2, 3, 4)), note]
    if differences := against["library_differences"]:
        parts.append(
            f"Libraries in other versions, then against now: {'; '.join(differences)}."
            " A difference may come from them."
        )
    return "\n\n".join(parts)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else format_ms(milliseconds)

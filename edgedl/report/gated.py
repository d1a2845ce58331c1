"""What a gate found, as a comment for a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgedl.core.units import format_ms
from edgedl.report.table import markdown as as_markdown


def markdown(rows: Sequence[Mapping[str, Any]], limit: float, again: bool, baseline: str) -> str:
    """A verdict, then a line an artifact; `again` where what was red was timed a second time."""
    red = [row for row in rows if row["red"]]
    second = ", timed twice" if again and red else ""
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
        f"Against `{baseline}`; slow-downs are corrected for the speed of the machine, by a fixed"
        " yardstick that was timed in the same rounds, so they may differ from the ratio of times."
    )
    return "\n\n".join([f"### edgedl bench: {verdict}", as_markdown(lines, right=(2, 3, 4)), note])


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else format_ms(milliseconds)

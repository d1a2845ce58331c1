"""What `bench` found, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedl.core.units import format_bytes, format_ms
from edgedl.report.table import table


def text(document: Mapping[str, Any]) -> str:
    """The contract's document of `bench` as tables."""
    rows = [
        ["artifact", "engine", "precision", "p50", "p90", "p99", "load", "first", "memory", "bytes"]
    ]
    for row in document["rows"]:
        latency = row["latency_ms"]
        memory = row["peak_rss_bytes"]
        rows.append(
            [
                row["artifact"],
                row["engine"],
                row["precision"],
                *(
                    "-" if latency[name] is None else format_ms(latency[name])
                    for name in ("p50", "p90", "p99")
                ),
                format_ms(row["load_ms"]),
                format_ms(row["first_ms"]),
                "-" if memory is None else format_bytes(memory),
                format_bytes(row["bytes"]),
            ]
        )
    parts = [table(rows, right=range(3, 10))]
    for pair in document["pairs"]:
        ratio = f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}]"
        parts.append(f"{pair['b']} against {pair['a']}: {ratio} {pair['verdict']}")
    parts.append(f"noise floor {100 * document['noise_floor']:.1f} %")
    parts += [f"doubt: {doubt}" for doubt in document["doubts"]]
    return "\n".join(parts)

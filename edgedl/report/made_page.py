"""What became of a recipe as one HTML page: how training went, stage by stage."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from edgedl.report.curves import Curve, curves_drawn, pareto
from edgedl.report.made import Made, Shrink, original_text, shrink_columns
from edgedl.report.page import figure_section, whole
from edgedl.report.palette import series
from edgedl.report.reading import figure, number
from edgedl.report.section import section
from edgedl.report.svg import Figure, drawn

LOSSES = (("loss", "training"), ("validation_loss", "validation"))
# Of a line of the log, what is no metric.
OTHERS = frozenset({"epoch", "rate", "samples_per_second", "seconds", "loss", "validation_loss"})


def page(found: Made) -> str:
    """The page: self-contained, and asking nothing of any network."""
    title = escape(found.name)
    rows = "".join(
        f"<tr><td>{escape(stage.name)}</td><td>{escape(stage.about)}</td><td>{stage.time}</td></tr>"
        for stage in found.stages
    )
    stages = section("stages", "Stages", f"<table><tbody>{rows}</tbody></table>")
    parts = [stages, *(figure_section(one) for one in figures(found.history))]
    if found.shrink:
        parts.append(section("shrink", "Shrinking, step by step", _steps(found.shrink)))
        parts += [figure_section(one) for one in [pareto(_points(found.shrink))] if one is not None]
    if found.original is not None:
        told = f"<pre>{escape(original_text(found.original))}</pre>"
        parts.append(section("original", "Beside the original", told))
    if found.doubts:
        items = "".join(f"<li>{escape(doubt)}</li>" for doubt in found.doubts)
        parts.append(section("doubts", "Doubts", f"<ul>{items}</ul>"))
    if found.compressed is not None:
        parts.append(
            section("compressed", "Compressed", f"<pre>{escape(found.compressed['text'])}</pre>")
        )
    document = escape(json.dumps(found.to_json(), indent=1))
    parts.append(section("document", "As JSON", f"<details><pre>{document}</pre></details>"))
    head = (
        f'<header><p class="kicker"><b>edgedl make</b> &nbsp;{escape(found.recipe)}</p>'
        f"<h1>{title}</h1></header>"
    )
    return whole(title, (head, *parts))


def _steps(rows: Sequence[Shrink]) -> str:
    names, rows_of_cells = shrink_columns(rows)
    head = "".join(f"<th>{escape(cell)}</th>" for cell in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
        for cells in rows_of_cells
    )
    undone = "".join(
        f"<p>{escape(row.step)} was undone: {escape(row.undone)}</p>"
        for row in rows
        if row.undone is not None
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{undone}"


def _points(rows: Sequence[Shrink]) -> dict[str, Any]:
    """The trained network in float32, and what would ship after each step, as rows of a
    benchmark."""
    first = rows[0]
    every = [("float32", first.float_ms, first.float_figure, first.float_bytes, True)]
    every += [(r.step, r.latency_ms, r.figure, r.bytes, r.undone is None) for r in rows]
    return {
        "rows": [
            {
                "artifact": step,
                "latency_ms": {"p50": latency_ms},
                "accuracy": None if value is None else {"metric": first.metric, "value": value},
                "bytes": size,
                "valid": stands,
            }
            for step, latency_ms, value, size, stands in every
        ]
    }


def figures(history: Sequence[Any]) -> list[Figure]:
    """The losses and the metric, epoch by epoch; none where fewer than two epochs tell of them."""
    names = [name for name in (history[-1] if history else ()) if name not in OTHERS]
    found = [
        _figure("losses", "Loss", history, LOSSES, "loss"),
        *(_figure("metric", name, history, ((name, "validation"),), name) for name in names),
    ]
    return [one for one in found if one is not None]


def _figure(
    key: str, heading: str, history: Sequence[Any], lines: Sequence[tuple[str, str]], axis: str
) -> Figure | None:
    curves: list[Curve] = []
    for place, (name, words) in enumerate(lines):
        points = [
            (epoch, value, True, f"epoch {epoch:.0f}, {words}: {figure(value)}")
            for row in history
            if (epoch := number(row, "epoch")) is not None
            and (value := number(row, name)) is not None
        ]
        if len(points) > 1:
            curves.append((series(place), words, points))
    if not curves:
        return None
    said = ". ".join(
        f"{words}: {figure(points[0][1])} to {figure(points[-1][1])}" for _, words, points in curves
    )
    return drawn(key, heading, "", said, lambda width: curves_drawn(curves, ("epoch", axis), width))

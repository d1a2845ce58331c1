"""Plots with two axes: latency against accuracy, latency under load, and history."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgedl.core.units import format_bytes
from edgedl.report.bars import titles
from edgedl.report.palette import series
from edgedl.report.reading import (
    Document,
    figure,
    is_valid,
    mappings,
    milliseconds,
    name,
    number,
    short_names,
    subset,
    telling,
    word,
)
from edgedl.report.scale import Scale, spanning, ticks
from edgedl.report.svg import (
    TICK_PX,
    Drawing,
    Figure,
    drawn,
    element,
    elide,
    label,
    legend,
    line,
    polyline,
    text_width,
    tipped,
    x_axis,
    y_axis,
)

MOST_POINTS = 300
MOST_CURVES = 8
MOST_RUNS = 200
HIGHEST_PX = 340.0


def _frame(width: float, top: float) -> tuple[float, float, float, float]:
    """Left, right, top and bottom of a plot below `top`."""
    return 54, width - 10, top + 26, top + 26 + (HIGHEST_PX if width > 600 else 230)


def pareto(document: Document) -> Figure | None:
    """Median latency against accuracy, or against the cosine of the answers; bytes as area."""
    rows = mappings(document, "rows")
    for keys in (("accuracy", "value"), ("agreement", "cosine")):
        points = [
            (p50, quality, i)
            for i, row in enumerate(rows)
            if (p50 := number(row, "latency_ms", "p50")) is not None
            and (quality := number(row, *keys)) is not None
        ]
        if len(points) > 1:
            break
    else:
        return None
    metric = _metric(rows, points, keys)
    front = _front([point for point in points if is_valid(rows[point[2]])])
    drawn_points = _thin(points, front)
    caption = "Better is up and to the left; the line joins what nothing else beats."
    sizes = [size for row in rows if (size := number(row, "bytes"))]
    if sizes:
        caption += f" A mark's area stands for bytes, the largest for {format_bytes(max(sizes))}."
    if len(drawn_points) < len(points):
        caption += f" {len(drawn_points)} of {len(points):,} rows are drawn, with all on the line."
    said = ". ".join(
        f"{name(rows[i])}: {milliseconds(p50)}, {metric} {quality:.4f}"
        for p50, quality, i in drawn_points[:40]
    )
    heading = "Latency against " + ("accuracy" if keys[0] == "accuracy" else "agreement")
    return drawn(
        "pareto", heading, caption, said,
        lambda width: _pareto(rows, drawn_points, front, metric, max(sizes, default=1), width),
    )  # fmt: skip


Point = tuple[float, float, int]


def _metric(rows: Sequence[Any], points: Sequence[Point], keys: tuple[str, str]) -> str:
    if keys[0] == "agreement":
        return "cosine"
    return next((m for _, _, i in points if (m := word(rows[i], "accuracy", "metric"))), "accuracy")


def _front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in both, by latency."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def _thin(points: Sequence[Point], front: Sequence[Point]) -> list[Point]:
    if len(points) <= MOST_POINTS:
        return list(points)
    step = math.ceil(len(points) / MOST_POINTS)
    kept = {*front[:MOST_POINTS], points[0], *points[::step]}
    return sorted(kept, key=lambda point: point[2])


def _pareto(
    rows: Sequence[Any],
    points: Sequence[Point],
    front: Sequence[Point],
    metric: str,
    largest: float,
    width: float,
) -> Drawing:
    left, right, top, bottom = _frame(width, 0)
    x, y, log = _scales(points, left, right, top, bottom)
    parts = y_axis(y, left, right, metric)
    axis, height = x_axis(x, top, bottom, width, "p50, ms" + (" (logarithmic)" if log else ""))
    parts += axis
    steps: list[tuple[float, float]] = []
    for p50, quality, _ in front:
        if steps:
            steps.append((x(p50), steps[-1][1]))
        steps.append((x(p50), y(quality)))
    parts.append(polyline(steps, "front"))
    boxes = []
    for p50, quality, i in sorted(
        points, key=lambda point: -(number(rows[point[2]], "bytes") or 0)
    ):
        size = number(rows[i], "bytes")
        radius = (
            4.0 if not size else max(3.0, (18 if width > 600 else 13) * math.sqrt(size / largest))
        )
        tip = f"{name(rows[i])}: {milliseconds(p50)}, {metric} {quality:.4f}"
        tip += f", {format_bytes(size)}" if size else ""
        kind = "hollow" if not is_valid(rows[i]) else "bubble"
        parts.append(
            tipped(
                element("circle", cx=x(p50), cy=y(quality), r=radius, class_=f"{series(i)} {kind}"),
                tip,
            )
        )
        boxes.append((x(p50), y(quality), radius, i))
    wanted = {i for _, _, i in front[:14]} | {points[0][2]}
    if len(points) <= 14:
        wanted |= {i for _, _, i in points}
    parts += _labelled(
        rows, [box for box in boxes if box[3] in wanted], boxes, (left, right, top, bottom)
    )
    return parts, height


def _scales(
    points: Sequence[Point], left: float, right: float, top: float, bottom: float
) -> tuple[Scale, Scale, bool]:
    times = [p50 for p50, _, _ in points]
    log = min(times) > 0 and max(times) > 5 * min(times)
    x = spanning(times, left, right, log=log, pad=0.12)
    return x, spanning([quality for _, quality, _ in points], bottom, top, pad=0.12), log


Box = tuple[float, float, float, float]


def _labelled(
    rows: Sequence[Any],
    wanted: Sequence[tuple[float, float, float, int]],
    bubbles: Sequence[tuple[float, float, float, int]],
    bounds: Box,
) -> list[str]:
    """Names beside marks where there is room that no other name or mark has taken."""
    left, right, top, bottom = bounds
    short = dict(zip((i for *_, i in wanted), titles([rows[i] for *_, i in wanted]), strict=True))
    taken: list[Box] = []
    if len(bubbles) <= 60:
        taken = [(x - r * 0.7, y - r * 0.7, x + r * 0.7, y + r * 0.7) for x, y, r, _ in bubbles]
    parts = []
    for x, y, r, i in sorted(wanted, key=lambda item: item[3]):
        text, full = short[i]
        text = elide(text, 190 if right > 600 else 110)
        w = text_width(text)
        spots = (
            (x + r + 5, y + 4), (x - r - 5 - w, y + 4), (x - w / 2, y - r - 6),
            (x - w / 2, y + r + 14), (x + r, y - r - 3), (x - r - w, y + r + 12),
        )  # fmt: skip
        for lx, ly in spots:
            box = (lx - 2, ly - 11, lx + w + 2, ly + 4)
            inside = box[0] >= left and box[2] <= right and box[1] >= top and box[3] <= bottom
            if inside and not any(_meet(box, other) for other in taken):
                taken.append(box)
                parts.append(label(lx, ly, text, "name halo", full=full))
                break
    return parts


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


Curve = tuple[str, str, list[tuple[float, float, bool, str]]]


def curves_drawn(
    curves: Sequence[Curve],
    titles_: tuple[str, str],
    width: float,
    x_text: Callable[[float], str] | None = None,
) -> Drawing:
    """Lines with marks, (colour, name, points of x, y, solid or hollow, tip), y from 0 or log."""
    key, below = legend([(colour, text) for colour, text, _ in curves], width)
    left, right, top, bottom = _frame(width, below)
    xs = [x for _, _, points in curves for x, *_ in points]
    ys = [y for _, _, points in curves for _, y, *_ in points]
    log = min(ys) > 0 and max(ys) > 10 * min(ys)
    x_scale = spanning(xs, left + 8, right - 8, pad=0.02)
    y_scale = spanning(ys, bottom, top, log=log, zero=True, pad=0.06)
    parts = [*key, *y_axis(y_scale, left, right, titles_[1] + (" (logarithmic)" if log else ""))]
    if x_text is None:
        axis, height = x_axis(x_scale, top, bottom, width, titles_[0])
    else:
        axis, height = _run_axis(x_scale, top, bottom, width, titles_[0], x_text)
    parts += axis
    for colour, _, points in curves:
        places = [(x_scale(x), y_scale(y)) for x, y, *_ in points]
        parts.append(polyline(places, colour))
        if len(points) <= 60:
            radius = 3.5 if len(points) <= 16 else 2.5
            for (px, py), (*_, solid, tip) in zip(places, points, strict=True):
                kind = "mark" if solid else "hollow"
                parts.append(
                    tipped(
                        element("circle", cx=px, cy=py, r=radius, class_=f"{colour} {kind}"), tip
                    )
                )
    return parts, height


def _run_axis(
    scale: Scale, top: float, bottom: float, width: float, title: str, text: Callable[[float], str]
) -> Drawing:
    """An axis of runs: a tick at whole positions, as many as have room."""
    places = [i for i, _ in ticks(scale, lambda _: 84.0) if i == int(i)]
    parts, taken = [], -1e9
    for i in places or [math.ceil(scale.low)]:
        words = text(i)
        half = text_width(words, TICK_PX) / 2
        x = min(max(scale(i), half), width - half)
        if not words or x - half < taken:
            continue
        taken = x + half + 8
        parts.append(line(scale(i), top, scale(i), bottom + 4, "rule"))
        parts.append(label(x, bottom + 17, words, "tick", "middle"))
    parts.append(label((scale.start + scale.end) / 2, bottom + 34, title, "axis", "middle"))
    return parts, bottom + 40


def load(document: Document) -> Figure | None:
    """The tail latency over the offered rate, for the rows that were loaded."""
    every = mappings(document, "rows")
    rows = [row for row in every if mappings(row, "load")]
    shown = telling(rows, MOST_CURVES)
    short = short_names([name(row) for row in shown])
    colours = {name(row): series(i) for i, row in reversed(list(enumerate(every)))}
    for tail in ("p99_ms", "p90_ms", "p50_ms"):
        drawable = [(row, points) for row in shown if (points := _load(row, tail))]
        if drawable:
            break
    else:
        return None
    curves = [(colours[name(row)], short[name(row)], points) for row, points in drawable]
    percentile = tail.removesuffix("_ms")
    caption = (
        "Open loop: calls arrive at the offered rate whether or not the last is answered. "
        "Hollow marks: the rate could not be kept."
    )
    caption = f"{subset(len(shown), len(rows))} {caption}".strip()
    said = ". ".join(
        f"{text}: " + ", ".join(tip for *_, tip in points) for _, text, points in curves
    )
    return drawn(
        "load", "Under load", caption, said,
        lambda width: curves_drawn(
            curves, ("offered rate, calls a second", f"{percentile}, ms"), width
        ),
    )  # fmt: skip


def _load(row: Any, tail: str) -> list[tuple[float, float, bool, str]]:
    points = []
    for entry in mappings(row, "load"):
        rate, value = number(entry, "rate_per_s"), number(entry, tail)
        if rate is not None and value is not None:
            kept = entry.get("kept") is not False
            tip = f"{figure(rate)} a second: {milliseconds(value)}" + ("" if kept else ", not kept")
            points.append((rate, value, kept, tip))
    return sorted(points)


def history(document: Document, earlier: Sequence[Document]) -> Figure | None:
    """Median latency of each artifact, run by run, this one last; at most the last 200 runs."""
    ordered = sorted(earlier, key=lambda run: word(run, "time"))
    runs = [*ordered, document][-MOST_RUNS:]
    rows = mappings(document, "rows")
    known: Mapping[str, list[tuple[float, float, bool, str]]] = {name(row): [] for row in rows}
    for i, run in enumerate(runs):
        for row in mappings(run, "rows"):
            p50 = number(row, "latency_ms", "p50")
            if p50 is not None and name(row) in known:
                tip = f"{name(row)}, {day(run) or f'run {i + 1}'}: {milliseconds(p50)}"
                known[name(row)].append((float(i), p50, is_valid(row), tip))
    picked = telling([row for row in rows if len(known[name(row)]) > 1], MOST_CURVES)
    if len(runs) < 2 or not picked:
        return None
    colours = {name(row): series(i) for i, row in reversed(list(enumerate(rows)))}
    short = short_names([name(row) for row in picked])
    curves = [(colours[name(row)], short[name(row)], known[name(row)]) for row in picked]
    machines = {m for run in runs if (m := word(run.get("machine"), "processor"))}
    caption = f"{len(runs)} runs, evenly spaced, the last is this one."
    if len(machines) > 1:
        caption += f" They ran on {len(machines)} processors: {', '.join(sorted(machines))}."
    said = ". ".join(
        f"{text}: {milliseconds(points[0][1])} to {milliseconds(points[-1][1])}"
        for _, text, points in curves
    )

    def date(i: float) -> str:
        return (day(runs[int(i)]) or f"run {int(i) + 1}") if 0 <= i < len(runs) else ""

    return drawn(
        "history", "History", caption, said,
        lambda width: curves_drawn(curves, ("run", "p50, ms"), width, date),
    )  # fmt: skip


def day(document: Document) -> str:
    """The date of a document."""
    return word(document, "time")[:10]

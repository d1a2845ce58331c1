"""The distribution of latencies: a ridge of density over a strip of raw points, a lane a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.report.bars import titles
from edgedl.report.palette import series
from edgedl.report.reading import Document, mappings, milliseconds, name, number, subset, telling
from edgedl.report.scale import Scale, spanning
from edgedl.report.svg import (
    TICK_PX,
    Drawing,
    Figure,
    dots,
    drawn,
    element,
    label,
    lanes,
    line,
    place,
    text_width,
    tipped,
    x_axis,
)

MOST_POINTS = 240
LOWEST, HIGHEST = 8, 40
BINS = 160
LONG_TAIL = 4.0
MARKS = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Spread:
    """One row's samples, readied for drawing: ascending `points` of `total`, percentiles in ms."""

    row: Mapping[str, Any]
    colour: str
    times: np.ndarray
    points: np.ndarray
    marks: tuple[tuple[str, float], ...]

    @property
    def total(self) -> int:
        return len(self.times)


def thinned(ascending: np.ndarray, most: int = MOST_POINTS) -> np.ndarray:
    """At most so many of the samples: every extreme one, and even ranks between them."""
    if len(ascending) <= most:
        return ascending
    middle = np.linspace(LOWEST, len(ascending) - HIGHEST - 1, most - LOWEST - HIGHEST)
    ranks = np.concatenate(
        [
            np.arange(LOWEST),
            middle.round().astype(np.int64),
            np.arange(len(ascending) - HIGHEST, len(ascending)),
        ]
    )
    return np.asarray(ascending[np.unique(ranks)])


def distribution(document: Document, samples: Mapping[str, np.ndarray]) -> Figure | None:
    """Every row's raw samples, none clipped; None where there are none."""
    every = mappings(document, "rows")
    colours = {name(row): series(i) for i, row in reversed(list(enumerate(every)))}
    known = [row for row in every if np.size(samples.get(name(row), ())) > 0]
    rows = telling(known)
    spreads = [spread for row in rows if (spread := _spread(row, samples, colours[name(row)]))]
    if not spreads:
        return None
    ends = [float(spread.times[i]) for spread in spreads for i in (0, -1)]
    long = min(ends) > 0 and any(
        s.times[-1] > LONG_TAIL * s.times[len(s.times) // 2] for s in spreads
    )
    log = bool(long or (min(ends) > 0 and max(ends) > LONG_TAIL * min(ends)))
    drawn_count, total = sum(len(s.points) for s in spreads), sum(s.total for s in spreads)
    thin = (
        f"{drawn_count:,} of {total:,} samples are drawn, the extremes always."
        if drawn_count < total
        else f"All {total:,} samples are drawn."
    )
    caption = (
        f"{subset(len(spreads), len(known))} Above: density. Below: single calls; {thin} Tall mark "
        f"p50, shorter marks p90 and p99.{' The axis is logarithmic.' if log else ''}"
    )
    said = ". ".join(
        f"{name(s.row)}: {milliseconds(float(s.times[0]))} to {milliseconds(float(s.times[-1]))}"
        + "".join(f", {mark} {milliseconds(value)}" for mark, value in s.marks)
        for s in spreads
    )
    return drawn(
        "latency", "Latency", caption.strip(), said,
        lambda width: _draw(spreads, ends, log, width),
    )  # fmt: skip


def _spread(
    row: Mapping[str, Any], samples: Mapping[str, np.ndarray], colour: str
) -> Spread | None:
    times = np.asarray(samples[name(row)], np.float64).ravel()
    times = np.sort(times[np.isfinite(times)])
    if not len(times):
        return None
    found = ((mark, number(row, "latency_ms", mark)) for mark in MARKS)
    marks = tuple((mark, value) for mark, value in found if value is not None)
    return Spread(row, colour, times, thinned(times), marks)


def _density(times: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
    """Places along the axis and the density there, at most 1 (a histogram smoothed by a Gaussian
    of Silverman's width, Density Estimation, 1986)."""
    low, high = (np.log(scale.low), np.log(scale.high)) if scale.log else (scale.low, scale.high)
    edges = np.linspace(low, high, BINS + 1)
    at = np.log(np.maximum(times, scale.low)) if scale.log else times
    counts = np.histogram(at, edges)[0].astype(np.float64)
    quarter, three = np.quantile(at, [0.25, 0.75])
    width = 0.9 * min(float(at.std()), float(three - quarter) / 1.34 or float(at.std()))
    bins = max(0.6, width * len(at) ** -0.2 / float(edges[1] - edges[0]))
    reach = np.arange(-int(4 * bins) - 1, int(4 * bins) + 2)
    kernel = np.exp(-0.5 * (reach / bins) ** 2)
    smooth = np.convolve(counts, kernel, "full")[len(reach) // 2 :][:BINS]
    share = (np.arange(BINS) + 0.5) / BINS
    return scale.start + share * (scale.end - scale.start), smooth / smooth.max()


def _draw(spreads: Sequence[Spread], ends: Sequence[float], log: bool, width: float) -> Drawing:
    figures = []
    for spread in spreads:
        lines = [f"{mark} {milliseconds(value)}" for mark, value in spread.marks]
        figures.append([*lines, f"max {milliseconds(float(spread.times[-1]))}"])
    plan = lanes(width, titles([s.row for s in spreads]), figures, 58, top=22)
    values = [*ends, *(value for spread in spreads for _, value in spread.marks)]
    scale = spanning(values, plan.left, plan.right, log=log and min(values) > 0)
    axis, height = x_axis(scale, 20, plan.bottom + 4, width, "latency, ms")
    parts = [*axis, *plan.parts]
    for spread, top in zip(spreads, plan.tops, strict=True):
        base = top + 34
        xs, density = _density(spread.times, scale)
        seen = density > 0.002
        ridge = "L".join(
            f"{place(x)} {place(base - 32 * y)}"
            for x, y in zip(xs[seen], density[seen], strict=True)
        )
        first, last = xs[seen][0], xs[seen][-1]
        path = f"M{place(first)} {place(base)}L{ridge}L{place(last)} {place(base)}Z"
        parts.append(element("path", d=path, class_=f"{spread.colour} ridge"))
        parts.append(line(plan.left, base, plan.right, base, "rule"))
        turns = (0.6180339887 * i % 1 for i in range(len(spread.points)))
        parts.append(
            dots(
                (
                    (scale(float(v)), base + 6 + 14 * turn)
                    for v, turn in zip(spread.points, turns, strict=True)
                ),
                spread.colour,
            )
        )
        parts += _marks(spread, scale, base, width > 600 and top == plan.tops[0])
    return parts, height


def _marks(spread: Spread, scale: Scale, base: float, named: bool) -> list[str]:
    """The percentiles as marks; some are named where there is room."""
    parts, taken = [], -1e9
    for mark, value in spread.marks:
        x = scale(value)
        up, kind = (38, "percentile thick") if mark == "p50" else (0, "percentile")
        shape = line(x, base, x, base + 24, "paper halo") + line(x, base, x, base + 24, kind)
        if up:
            shape += line(x, base - up, x, base, "percentile thin")
        parts.append(tipped(shape, f"{mark} {milliseconds(value)}"))
        half = text_width(mark, TICK_PX) / 2
        left = x - half if mark == "p50" else max(x - half, taken)
        if named and left <= x + 6 and left + 2 * half < scale.end + 6:
            parts.append(label(left + half, base - up - 4, mark, "tick halo", "middle"))
            taken = left + 2 * half + 4 if mark != "p50" else x + 4
    return parts

"""The main plot for slides, as PNG: latency and speed-up side by side, 16:9."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from edgedl.core.errors import BadOption
from edgedl.report.listing import ratios
from edgedl.report.palette import LIGHT, of_verdict, series
from edgedl.report.reading import (
    Document,
    headline,
    interval,
    is_valid,
    mappings,
    milliseconds,
    name,
    number,
    sentences,
    short_names,
    subset,
    telling,
    word,
)
from edgedl.report.scale import spanning, ticks
from edgedl.report.spread import thinned
from edgedl.report.svg import elide, text_width

MOST_LANES = 10
PAGE_POINTS = 0.93 * 12.8 * 72
LONG_TAIL = 4.0


def write_png(document: Document, samples: Mapping[str, np.ndarray], path: Path | str) -> None:
    """Draw each row's latency (raw samples, p50, p99) beside its speed-up over the first row.

    The picture is 2560 x 1440 pixels, for a slide of 16:9.

    Raises:
        BadOption: no row has a median, or the folder cannot be written to.
    """
    every = [
        row for row in mappings(document, "rows") if number(row, "latency_ms", "p50") is not None
    ]
    if not every:
        raise BadOption("there is no latency to plot", hint="give `edgedl bench` more --seconds")
    rows = telling(every, MOST_LANES)
    pairs = [ratios(document).get(name(row)) for row in rows]
    figure = Figure(figsize=(12.8, 7.2), dpi=200, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    compared = any(pair is not None for pair in pairs)
    grid = figure.add_gridspec(
        1, 2 if compared else 1, width_ratios=(3, 2) if compared else None,
        left=0.21, right=0.965, top=0.80, bottom=0.15, wspace=0.08,
    )  # fmt: skip
    left = figure.add_subplot(grid[0])
    colours = {name(row): LIGHT[series(i)] for i, row in reversed(list(enumerate(every)))}
    _latency(left, rows, samples, colours)
    if compared:
        _speed(figure.add_subplot(grid[1]), pairs, number(document, "noise_floor") or 0.0)
    _words(figure, document, subset(len(rows), len(every)))
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise BadOption(
            f"cannot write `{path}`: {error.strerror}", hint="give --plot a folder that exists"
        ) from error


def _words(figure: Figure, document: Document, left_out: str) -> None:
    """The headline above, and below it where the figures come from."""
    lines = _wrapped(headline(document), 20, 2)
    figure.text(
        0.035, 0.955, "\n".join(lines), fontsize=20, color=LIGHT["ink"], weight="bold", va="top",
        linespacing=1.25, parse_math=False,
    )  # fmt: skip
    broken = sum(not is_valid(row) for row in mappings(document, "rows"))
    parts = [left_out, f"{broken} not valid" if broken else ""]
    doubts = sentences(document)
    parts.append(f"{len(doubts)} doubt{'s' * (len(doubts) != 1)}" if doubts else "")
    parts += [word(document.get("machine"), "processor"), word(document, "time")[:10], "edgedl"]
    figure.text(
        0.035, 0.035, elide(" · ".join(part for part in parts if part), PAGE_POINTS, 11.5),
        fontsize=11.5, color=LIGHT["muted"], parse_math=False,
    )  # fmt: skip


def _wrapped(text: str, size: float, most: int) -> list[str]:
    """Bold text as lines of the page's width, the last of at most so many cut short."""
    lines = [""]
    for part in text.split():
        longer = f"{lines[-1]} {part}".strip()
        if text_width(longer, 1.05 * size) <= PAGE_POINTS or len(lines) == most or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(part)
    return [elide(one, PAGE_POINTS, 1.05 * size) for one in lines]


def _bare(axes: Axes, lanes: int, title: str) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LIGHT["rule"])
    axes.tick_params(axis="both", length=0, labelsize=13, colors=LIGHT["muted"])
    axes.grid(axis="x", color=LIGHT["rule"], linewidth=0.9)
    axes.set_axisbelow(True)
    axes.set_ylim(lanes - 0.45, -0.62)
    axes.set_xlabel(title, fontsize=13, color=LIGHT["muted"], labelpad=8)


def _x_ticks(axes: Axes, low: float, high: float, *, log: bool, unit: str = "") -> None:
    """Round values only, in plain figures."""
    scale = spanning([low, high], 0, 560, log=log, pad=0.05)
    axes.set_xscale("log" if log else "linear")
    axes.set_xlim(scale.low, scale.high)
    found = ticks(scale, lambda text: text_width(text, 18) + 14, unit)
    axes.set_xticks([value for value, _ in found], [text for _, text in found])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _latency(
    axes: Axes,
    rows: Sequence[Any],
    samples: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
) -> None:
    short = short_names([name(row) for row in rows])
    ends: list[float] = []
    large = 15.0 if len(rows) < 7 else 11.5
    for i, row in enumerate(rows):
        colour, p50 = colours[name(row)], number(row, "latency_ms", "p50") or 0.0
        times = np.sort(np.asarray(samples.get(name(row), ()), np.float64).ravel())
        points = thinned(times[np.isfinite(times)], 400)
        turns = (np.arange(len(points)) * 0.6180339887) % 1
        axes.scatter(points, i + 0.10 + 0.22 * turns, s=9, color=colour, alpha=0.35, linewidths=0)
        far = number(row, "latency_ms", "p99") or number(row, "latency_ms", "p90") or p50
        axes.plot([p50, far], [i, i], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(
            p50,
            i,
            "o",
            color=colour,
            markersize=11 if len(rows) < 7 else 8,
            markeredgecolor=LIGHT["paper"],
        )
        axes.annotate(
            milliseconds(p50), (p50, i - 0.14), ha="center", va="bottom", fontsize=large,
            color=LIGHT["ink"], weight="bold", annotation_clip=False,
        )  # fmt: skip
        ends += [p50, far, *points[:1].tolist(), *points[-1:].tolist()]
    _bare(axes, len(rows), "latency, ms: p50, line to p99; single calls below")
    log = min(ends) > 0 and max(ends) > LONG_TAIL * min(ends)
    _x_ticks(axes, min(ends) if log else 0.0, max(ends), log=log)
    labels = [short[name(row)] + ("" if is_valid(row) else " (invalid)") for row in rows]
    axes.set_yticks(range(len(rows)), [elide(text, 170, 13) for text in labels])
    for text in axes.get_yticklabels():
        text.set(color=LIGHT["ink"], fontsize=13, parse_math=False)


def _speed(axes: Axes, pairs: Sequence[Any], floor: float) -> None:
    ends = [1 / (1 + 2 * floor + 0.02), 1 + 2 * floor + 0.02]
    large = 14.0 if len(pairs) < 7 else 12.0
    axes.axvspan(max(1 - floor, 1e-3), 1 + floor, color=LIGHT["rule"], alpha=0.7, linewidth=0)
    axes.axvline(1, color=LIGHT["muted"], linewidth=1)
    for i, pair in enumerate(pairs):
        ratio = number(pair, "ratio")
        if ratio is None or ratio <= 0:
            continue
        low, high = number(pair, "low") or ratio, number(pair, "high") or ratio
        colour = LIGHT[of_verdict(word(pair, "verdict"))]
        axes.plot([low, high], [i, i], color=colour, linewidth=7, alpha=0.45, solid_capstyle="butt")
        axes.plot(ratio, i, "o", color=colour, markersize=6)
        axes.annotate(
            interval(pair), (ratio, i - 0.14), ha="center", va="bottom", fontsize=large - 1,
            color=LIGHT["ink"], annotation_clip=False,
        )  # fmt: skip
        ends += [low, ratio, high]
    _bare(axes, len(pairs), "times faster than the first")
    low_end, high_end = min(ends), max(ends)
    _x_ticks(axes, low_end / 1.25, high_end * 1.25, log=True, unit="x")
    axes.set_yticks([])

"""The plot of how cost grows: seconds above, memory below, one column an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from edgedl.report.palette import LIGHT

AXES = {
    "samples": "calibration samples",
    "operators": "operators",
    "parameters": "parameters",
}
ENGINES = {"onnxruntime": "s1", "openvino": "s2"}
KINDS = {"seconds": ("time (s)", 1.0), "peak_rss_bytes": ("peak memory (GB)", 1e-9)}
Row = Mapping[str, Any]


def draw(rows: Sequence[Row], path: Path) -> None:
    """`edgedl compress` as solid lines, plain inference dashed, points that failed as crosses."""
    shown = [axis for axis in AXES if any(row["axis"] == axis for row in rows)]
    engines = [name for name in ENGINES if any(row["engine"] == name for row in rows)]
    figure = Figure(figsize=(1.2 + 3.7 * len(shown), 6.6), dpi=160, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(shown), squeeze=False, sharex="col", sharey="row")
    for i, (kind, (label, unit)) in enumerate(KINDS.items()):
        for j, axis in enumerate(shown):
            axes = grid[i][j]
            _frame(axes, sorted({row["value"] for row in rows if row["axis"] == axis}))
            groups = {
                n: [r for r in rows if (r["axis"], r["engine"]) == (axis, n)] for n in engines
            }
            for name, chosen in groups.items():
                colour = LIGHT[ENGINES[name]]
                _lines(axes, chosen, kind, unit, colour)
                above = all(
                    _dearest(chosen, kind) >= _dearest(other, kind) for other in groups.values()
                )
                _figures(axes, chosen, kind, unit, colour, above)
            if j == 0:
                axes.set_ylabel(label)
            if i == 1:
                axes.set_xlabel(AXES[axis])
    _legend(figure, engines, any(row["compress"]["problem"] for row in rows))
    figure.suptitle(
        "What `edgedl compress --int8` costs, from start to end",
        x=0.01,
        ha="left",
        color=LIGHT["ink"],
        fontsize=13,
    )
    figure.tight_layout(rect=(0, 0.05, 1, 0.98), w_pad=1.5, h_pad=1.5)
    figure.savefig(path, facecolor=LIGHT["paper"])


def _frame(axes: Axes, values: Sequence[int]) -> None:
    axes.set_facecolor(LIGHT["paper"])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [_short(value) for value in values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.12, y=0.14)
    axes.grid(axis="y", color=LIGHT["rule"], linewidth=0.8)
    axes.tick_params(colors=LIGHT["muted"], which="both", length=0, labelsize=9)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(LIGHT["rule"])
    axes.xaxis.label.set_color(LIGHT["ink"])
    axes.yaxis.label.set_color(LIGHT["ink"])


def _lines(axes: Axes, rows: Sequence[Row], kind: str, unit: float, colour: str) -> None:
    for what, style, width in (("plain", (0, (4, 2)), 1.2), ("compress", "-", 2.0)):
        points = [(r["value"], unit * r[what][kind]) for r in rows if not r[what]["problem"]]
        if not points:
            continue
        marker = "o" if what == "compress" else "_" if len(points) == 1 else ""
        axes.plot(
            *zip(*points, strict=True), color=colour, linestyle=style, linewidth=width,
            marker=marker, markersize=5,
        )  # fmt: skip


def _dearest(rows: Sequence[Row], kind: str) -> float:
    return max((float(row["compress"][kind]) for row in rows), default=0.0)


def _figures(
    axes: Axes, rows: Sequence[Row], kind: str, unit: float, colour: str, above: bool
) -> None:
    """A figure at every point, above the dearest engine's and below the others', and crosses."""
    for row in rows:
        x, y = row["value"], unit * row["compress"][kind]
        if row["compress"]["problem"]:
            axes.plot(x, y, marker="x", markersize=8, markeredgewidth=2, color=colour)
            continue
        axes.annotate(
            f"{y:.2g}" if y < 10 else f"{y:.0f}", (x, y), (0, 7 if above else -14),
            textcoords="offset points", ha="center", fontsize=8, color=colour,
        )  # fmt: skip


def _legend(figure: Figure, engines: Sequence[str], failed: bool) -> None:
    handles = [
        Line2D([], [], color=LIGHT[ENGINES[n]], linewidth=2, marker="o", label=f"compress, {n}")
        for n in engines
    ]
    grey = LIGHT["muted"]
    handles.append(
        Line2D(
            [],
            [],
            color=grey,
            linestyle=(0, (4, 2)),
            label="float32 inference over the same samples",
        )
    )
    if failed:
        handles.append(
            Line2D(
                [], [], color=grey, linestyle="", marker="x", label="ended at a limit, or failed"
            )
        )
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.005, 0.0), ncols=len(handles),
        frameon=False, fontsize=9, labelcolor=LIGHT["ink"],
    )  # fmt: skip


def _short(value: int) -> str:
    for limit, letter in ((10**9, " G"), (10**6, " M")):
        if value >= limit:
            return f"{value / limit:g}{letter}"
    return f"{value:,}"

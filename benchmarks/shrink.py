"""What the steps of a shrinking recipe do, and what ships in the end beside the float network that
the recipe began with.

    python benchmarks/shrink.py [RECIPE ...] [--results DIR] [--seconds 20]

Each recipe goes down the whole line (what is in the store is kept). Then the trained network in
float32 and the bundle are timed in one run on the bundle's engine, and both are scored on all test
samples. Writes `benchmarks/results/shrink.md`, `shrink.json` and `shrink.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from edgedl.benchmark.machine import this_machine
from edgedl.core.progress import silent
from edgedl.core.units import format_bytes
from edgedl.line.begin import begun, network_of
from edgedl.line.form import form_of
from edgedl.line.make import make
from edgedl.line.shipped import exported
from edgedl.line.trained import trained
from edgedl.recipe import read_recipe
from edgedl.report.made import SHRINK_HEAD, Shrink, shrink_cells
from edgedl.report.palette import LIGHT
from edgedl.report.table import markdown
from edgedl.verbs import bench

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def run(name: str, folder: Path, seconds: float) -> dict[str, Any]:
    path = ROOT / "recipes" / f"{name}.yaml"
    bundle = folder / f"{name}.edl"
    made = make(path, output=bundle, progress=silent).to_json()
    line = begun(read_recipe(path), silent)
    network = network_of(line)
    key, _ = trained(line, network, None)
    whole = exported(line, form_of(line, network), key)
    told = made["compressed"]
    timed = bench([whole, bundle], target=told["engine"], seconds=seconds).to_json()
    pair = {k: timed["pairs"][0][k] for k in ("ratio", "low", "high", "verdict")}
    return {
        "recipe": name,
        "rows": made["shrink"],
        "qat": told.get("qat"),
        "engine": told["engine"],
        "metric": told["accuracy"]["figure"]["name"],
        "samples": told["accuracy"]["samples"],
        "float": made["shrink"][0]["float_figure"],
        "ships": told["accuracy"]["figure"]["result"],
        "float_bytes": whole.stat().st_size,
        "bytes": bundle.stat().st_size,
        "p50_ms": [row["latency_ms"]["p50"] for row in timed["rows"]],
        "faster": pair,
        "noise_floor": timed["noise_floor"],
        "doubts": [*made["doubts"], *timed["doubts"]],
        "stages": made["stages"],
        "machine": this_machine().to_json(),
    }


def tables(found: list[dict[str, Any]]) -> str:
    parts = []
    for one in found:
        steps = [Shrink(**row) for row in one["rows"]]
        cells = [[f"`{one['recipe']}`: {row[0]}", *row[1:]] for row in shrink_cells(steps)]
        last, pair = cells[-1], one["faster"]
        end = [
            f"`{one['recipe']}`: what ships", last[1], last[2], f"{one['ships']:.4f}", "", last[5],
            format_bytes(one["bytes"]), f"{one['p50_ms'][1]:.3g} ms",
            f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}]",
            f"{one['float_bytes'] / one['bytes']:.1f}x",
        ]  # fmt: skip
        lines = [list(SHRINK_HEAD), *cells, end]
        told = [i for i in range(len(SHRINK_HEAD)) if any(line[i] for line in lines[1:])]
        lines = [[line[i] for i in told] for line in lines]
        parts.append(markdown(lines, right=range(1, len(told))))
    return "\n\n".join(parts) + "\n"


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over latency, step by step; the area of a mark stands for bytes."""
    figure = Figure(figsize=(8, 4.5), dpi=150, facecolor=LIGHT["paper"])
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(found), squeeze=False)[0]
    for axis, one in zip(axes, found, strict=True):
        first = one["rows"][0]
        points = [("float32", first["float_ms"], first["float_figure"], one["float_bytes"])]
        points += [
            (f"{row['step']} + int8", row["latency_ms"], row["figure"], row["bytes"])
            for row in one["rows"] if row["undone"] is None
        ]  # fmt: skip
        points.append(("ships", one["p50_ms"][1], one["ships"], one["bytes"]))
        xs, ys = [p[1] for p in points], [100 * p[2] for p in points]
        areas = [900 * p[3] / points[0][3] + 12 for p in points]
        axis.plot(xs, ys, color="0.6", lw=1, zorder=1)
        axis.scatter(xs, ys, s=areas, zorder=2, alpha=0.85)
        for i, (word, x, _, size) in enumerate(points):
            axis.annotate(
                f"{word}\n{format_bytes(size)}", (x, ys[i]), textcoords="offset points",
                xytext=(8, 12 if i % 2 else -26), fontsize=8,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(f"latency, ms, one thread, {one['engine']}")
        axis.set_ylabel(f"{one['metric']}, %")
        axis.set_title(one["recipe"], fontsize=10)
        axis.margins(x=0.35, y=0.25)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Software": None})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=["fashion_mnist_composed"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--bundles", type=Path, default=Path("build"))
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    given.bundles.mkdir(parents=True, exist_ok=True)
    kept = given.results / "shrink.json"
    found = {row["recipe"]: row for row in json.loads(kept.read_text())} if kept.exists() else {}
    for name in given.names:
        found[name] = run(name, given.bundles, given.seconds)
        kept.write_text(json.dumps([found[key] for key in sorted(found)], indent=1) + "\n")
    ordered = [found[key] for key in sorted(found)]
    (given.results / "shrink.md").write_text(tables(ordered))
    draw(ordered, given.results / "shrink.png")
    print(tables(ordered))
    return 0


if __name__ == "__main__":
    sys.exit(main())

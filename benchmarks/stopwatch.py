"""`edgedl bench` of the line's models: float32 and the bundles that `line.py` made, side by side.

    python benchmarks/stopwatch.py [NAME ...] [--cache DIR] [--seconds 15]

Run `line.py` with the same cache before. All artifacts of a model are timed in one call, one
thread, on samples that calibration did not see. Writes `benchmarks/results/stopwatch.json` and
`stopwatch.md`, model after model, and the README's table.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from readme import README, fill
from zoo import RECIPES, Entry, fetch

from edgedl import verbs
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import EdgeError
from edgedl.core.samples import open_npz
from edgedl.core.units import format_bytes, format_ms
from edgedl.report.table import markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
HELD = 64


def held_back(entry: Entry) -> Path:
    """The last samples, which `line.py` compares on, in a file of their own."""
    path = Path("line") / f"{entry.name}-held.npz"
    given = open_npz(entry.samples)
    with np.load(entry.samples, allow_pickle=False) as arrays:
        count = min(HELD, len(given) // 2)
        np.savez(path, **{name: arrays[name][-count:] for name in arrays.files})
    return path


def measure(entry: Entry, seconds: float) -> list[dict[str, Any]]:
    """Rows by engine: the model in float32 first, then its bundle; called in the cache's folder, so
    that names are short."""
    samples = held_back(entry)
    model = entry.model.relative_to(Path.cwd())
    shapes = {n: tuple(map(int, s.split("x"))) for n, s in entry.shapes.items()}
    documents = []
    for engine in ("onnxruntime", "openvino"):
        bundle = Path("line") / f"{entry.name}-{engine}.edl"
        row: dict[str, Any] = {"model": entry.name, "engine": engine}
        for fixed in (shapes, None):
            try:
                found = verbs.bench(
                    [model, bundle], target=engine, samples=samples, shapes=fixed, seconds=seconds
                )
            except EdgeError as error:
                row.setdefault("problem", str(error))
                continue
            row["bench"] = {**found.to_json(), "machine": None}
            break
        documents.append(row)
    return documents


def table(rows: list[dict[str, Any]]) -> str:
    head = ["model", "engine", "float32 p50", "p99", "bundle p50", "p99", "gain", "noise floor"]
    lines = [[*head, "load", "first", "memory", "end to end"]]
    for row in rows:
        if "bench" not in row:
            lines.append([row["model"], row["engine"], row["problem"][:80], *[""] * 9])
            continue
        found = row["bench"]
        before, after = found["rows"]
        if not found["pairs"]:
            lines.append([row["model"], row["engine"], str(found["failures"])[:80], *[""] * 9])
            continue
        [pair] = found["pairs"]
        lines.append(
            [
                row["model"],
                row["engine"],
                *(_ms(one["latency_ms"][p]) for one in (before, after) for p in ("p50", "p99")),
                f"{pair['ratio']:.2f}x [{pair['low']:.2f}, {pair['high']:.2f}] {pair['verdict']}",
                f"{100 * found['noise_floor']:.1f} %",
                _ms(after["load_ms"]),
                _ms(after["first_ms"]),
                format_bytes(after["peak_rss_bytes"]) if after["peak_rss_bytes"] else "",
                _ms(after["end_to_end_ms"]["p50"]) if after["end_to_end_ms"] else "",
            ]
        )
    return markdown(lines, right=range(2, 12))


@contextmanager
def chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else format_ms(milliseconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(RECIPES))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    results = RESULTS / "stopwatch.json"
    kept = json.loads(results.read_text())["rows"] if results.exists() else []
    rows = [row for row in kept if row["model"] not in arguments.names]
    order = {model: i for i, model in enumerate(RECIPES)}
    cache = arguments.cache.resolve()
    for name in arguments.names:
        entry = fetch(name, cache)
        with chdir(cache):
            made = measure(entry, arguments.seconds)
        rows = sorted([*rows, *made], key=lambda r: (order.get(r["model"], 99), r["engine"]))
        RESULTS.mkdir(exist_ok=True)
        document = {"machine": this_machine().to_json(), "rows": rows}
        results.write_text(json.dumps(document) + "\n")
        (RESULTS / "stopwatch.md").write_text(table(rows) + "\n")
        print("\n".join(table(made).splitlines()[-2:]), flush=True)
    README.write_text(fill(README.read_text()))


if __name__ == "__main__":
    main()

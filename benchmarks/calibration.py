"""What calibration costs beside plain inference: seconds and peak memory, each in a fresh process.

    python benchmarks/calibration.py [--model resnet50] [--cache DIR] [--counts 32 64 256]

Plain inference is the float32 model on onnxruntime over the same samples, read from the same file,
with the same threads. Calibration is what `edgedl compress` does for both engines: every tensor
that any of their plans could quantize, all four kinds of range from one pass. Both are counted
from an opened file to the last sample, the session's start included, the modules' imports not.
Turns alternate, three each. Writes `benchmarks/results/calibration.json` and `calibration.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from zoo import fetch

from edgedl.backends import backend
from edgedl.benchmark.machine import this_machine
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.samples import open_npz
from edgedl.core.target import target_of
from edgedl.core.units import format_bytes
from edgedl.inputs import load_model
from edgedl.passes.calibrate import calibrate
from edgedl.passes.ranges import METHODS, Grid, find_range
from edgedl.report.table import markdown
from edgedl.runtime import engine
from edgedl.search.candidates import tensors_to_watch
from edgedl.search.ready import prepare

RESULTS = Path(__file__).parent / "results"
TURNS = 3


def plain(model: str, samples: str, count: int) -> None:
    taken = open_npz(Path(samples))
    begun = perf_counter()
    with engine("onnxruntime").open_model(Path(model), settings={}) as session:
        for feed in taken.bind(session.signature).take(range(count)):
            session.run(feed)
    report(perf_counter() - begun)


def calibrated(model: str, samples: str, count: int) -> None:
    clean = prepare(load_model(Path(model)), {})
    taken = open_npz(Path(samples)).bind(clean.signature).take(range(count))
    schemes = [backend(name).scheme for name in target_of("cpu").engines]
    watched = tensors_to_watch(clean, schemes)
    begun = perf_counter()
    histograms = calibrate(clean, watched, taken)
    for histogram in histograms.values():
        for method in METHODS:
            find_range(histogram, method, Grid(symmetric=False))
    report(perf_counter() - begun)


def report(seconds: float) -> None:
    print(json.dumps({"seconds": seconds, "peak_rss_bytes": peak_rss_bytes()}))


def turn(kind: str, model: Path, samples: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--turn", kind, str(model), str(samples), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(model: Path, samples: Path, count: int) -> dict[str, Any]:
    turns: dict[str, list[dict[str, Any]]] = {"plain": [], "calibrate": []}
    for _ in range(TURNS):
        for kind, found in turns.items():
            found.append(turn(kind, model, samples, count))
    middle = {
        kind: {key: statistics.median(t[key] for t in found) for key in found[0]}
        for kind, found in turns.items()
    }
    times = [
        c["seconds"] / p["seconds"] for p, c in zip(turns["plain"], turns["calibrate"], strict=True)
    ]
    return {
        "samples": count,
        **middle,
        "time_ratio": statistics.median(times),
        "memory_ratio": middle["calibrate"]["peak_rss_bytes"] / middle["plain"]["peak_rss_bytes"],
        "turns": turns,
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [["samples", "plain", "calibration", "times", "plain peak", "its peak", "times"]]
    for found in rows:
        before, after = found["plain"], found["calibrate"]
        lines.append(
            [
                str(found["samples"]),
                f"{before['seconds']:.2f} s",
                f"{after['seconds']:.2f} s",
                f"{found['time_ratio']:.2f}",
                format_bytes(round(before["peak_rss_bytes"])),
                format_bytes(round(after["peak_rss_bytes"])),
                f"{found['memory_ratio']:.2f}",
            ]
        )
    return markdown(lines, right=range(7))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--counts", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--turn", nargs=4, metavar=("KIND", "MODEL", "SAMPLES", "COUNT"))
    arguments = parser.parse_args()
    if arguments.turn:
        kind, model, samples, count = arguments.turn
        {"plain": plain, "calibrate": calibrated}[kind](model, samples, int(count))
        return
    entry = fetch(arguments.model, arguments.cache)
    prepare(load_model(entry.model), {})
    rows = []
    for count in arguments.counts:
        rows.append(row(entry.model, entry.samples, count))
        document = {"model": entry.name, "machine": this_machine().to_json(), "rows": rows}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "calibration.json").write_text(json.dumps(document, indent=1) + "\n")
        (RESULTS / "calibration.md").write_text(table(rows) + "\n")
        print(table(rows).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

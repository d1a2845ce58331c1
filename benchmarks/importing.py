"""What the device's part of edgedl weighs, and what importing it costs beyond numpy and the engine.

    python benchmarks/importing.py [--processes 40]

The files of `packaging/device` are copied for one engine and compiled, as installing does. Then
fresh processes alternate: one imports numpy and the engine, the other all that a device needs to
open a bundle and answer by it. The figure is the difference of each pair, whose order is turned
from pair to pair. Writes `benchmarks/results/importing.json` and `importing.md`.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from medians import median_interval

from edgedl.benchmark.machine import this_machine
from edgedl.report.table import markdown
from edgedl.runtime import ENGINES, installed_engines

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIRST = {"onnxruntime": "onnxruntime.InferenceSession", "openvino": "openvino.Core()"}
BOUND_MS = 50.0
BOUND_BYTES = 300_000
ALONE = """
import time
start = time.perf_counter()
import numpy, {engine}
{first}
"""
PRINT = "print((time.perf_counter() - start) * 1e3)"
# `run` is what opens and answers; the others are what a picture's bundle needs beside it.
OURS = """
import edgedl
assert edgedl.__file__.startswith({folder!r}), edgedl.__file__
edgedl.open, edgedl.answering
from edgedl.runtime import engine
engine("{engine}")
import edgedl.runtime.process.image, edgedl.runtime.process.scores, edgedl.runtime.process.detect
"""


def device_tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "device_tree", ROOT / "packaging" / "device" / "tree.py"
    )
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def timed(code: str, folder: Path) -> float:
    """The milliseconds that a fresh process prints, with the device's files before all others, also
    before those beside this one's working directory, which `-c` would find first."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=folder
    )
    return float(done.stdout)


def measured(engine: str, folder: Path, pairs: int) -> dict[str, Any]:
    files = device_tree().copy(folder, [engine])
    compileall.compile_dir(folder, quiet=1)
    alone = ALONE.format(engine=engine, first=FIRST.get(engine, ""))
    codes = [alone + PRINT, alone + OURS.format(engine=engine, folder=str(folder)) + PRINT]
    for code in codes:
        timed(code, folder)
    times = np.empty((pairs, 2))
    for i in range(pairs):
        for which in (0, 1) if i % 2 else (1, 0):
            times[i, which] = timed(codes[which], folder)
    more, low, high = median_interval(times[:, 1] - times[:, 0])
    return {
        "engine": engine,
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
        "alone_ms": float(np.median(times[:, 0])),
        "more_ms": more,
        "low_ms": low,
        "high_ms": high,
        "times_ms": times.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, default=40, help="pairs of them, an engine")
    pairs = parser.parse_args().processes
    rows = []
    for engine in ENGINES:
        if engine in installed_engines():
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(engine, Path(folder), pairs))
    lines = [["engine", "files", "bytes", "numpy and the engine", "edgedl beyond", "95 %", "bars"]]
    for row in rows:
        kept = row["bytes"] <= BOUND_BYTES and row["high_ms"] <= BOUND_MS
        lines.append([
            row["engine"], str(row["files"]), str(row["bytes"]), f"{row['alone_ms']:.0f} ms",
            f"{row['more_ms']:.1f} ms", f"{row['low_ms']:.1f} to {row['high_ms']:.1f} ms",
            "kept" if kept else "broken",
        ])  # fmt: skip
    document = {"machine": this_machine().to_json(), "pairs": pairs, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "importing.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "importing.md").write_text(markdown(lines, right=(1, 2, 3, 4, 5)) + "\n")
    print(markdown(lines, right=(1, 2, 3, 4, 5)))


if __name__ == "__main__":
    main()

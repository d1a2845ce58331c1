"""edgedl's stopwatch beside the engines' own: medians of the same model, threads and settings.

    python benchmarks/tools.py [NAME ...] [--cache DIR] [--turns 5] [--seconds 4]

OpenVINO's `benchmark_app` (synchronous, one stream, random resident input) stands in the Python
package. onnxruntime's `onnxruntime_perf_test` does not; its loop (one resident random input, warm
up once, call after call) is done here in Python, in a fresh process. Both alternate with
`edgedl bench` on random inputs, which rotates over 16 of them. Writes
`benchmarks/results/tools.json` and `tools.md`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from zoo import Entry, fetch

from edgedl import verbs
from edgedl.benchmark.machine import this_machine
from edgedl.report.table import markdown
from edgedl.runtime.artifact import find_artifact

RESULTS = Path(__file__).parent / "results"
NAMES = ["mobilenetv2", "resnet50", "vit", "blazeface"]
PERF_TEST = """
import sys, time, statistics, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
feed = {
    v.name: rng.standard_normal([d if isinstance(d, int) else 1 for d in v.shape]).astype("f4")
    for v in session.get_inputs()
}
session.run(None, feed)
times, end = [], time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    start = time.perf_counter()
    session.run(None, feed)
    times.append(time.perf_counter() - start)
print(statistics.median(times) * 1e3)
"""


def perf_test_ms(model: Path, seconds: float) -> float:
    command = [sys.executable, "-c", PERF_TEST, str(model), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout)


def benchmark_app_ms(model: Path, seconds: float, shape: str) -> float:
    command = [str(Path(sys.executable).parent / "benchmark_app"), "-m", str(model), "-d", "CPU"]
    command += ["-api", "sync", "-hint", "none", "-nstreams", "1", "-nthreads", "1"]
    command += ["-infer_precision", "f32", "-t", str(round(seconds)), "-shape", shape]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"Median:\s*([0-9.]+) (ms|us)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) / (1 if found[2] == "ms" else 1000)


def one(entry: Entry, engine: str, turns: int, seconds: float) -> dict[str, Any]:
    with find_artifact(entry.model, engine).open(1) as session:
        [given] = session.signature.inputs
    sizes = [d if isinstance(d, int) else 1 for d in given.shape or ()]
    shape = f"{given.name}[{','.join(map(str, sizes))}]"
    shapes = {given.name: tuple(sizes)}
    ours, theirs, floors = [], [], []
    for _ in range(turns):
        found = verbs.bench([entry.model], target=engine, shapes=shapes, seconds=seconds, pin=False)
        ours.append(float(found.to_json()["rows"][0]["latency_ms"]["p50"]))
        floors.append(found.noise_floor or 0.0)
        if engine == "openvino":
            theirs.append(benchmark_app_ms(entry.model, seconds, shape))
        else:
            theirs.append(perf_test_ms(entry.model, seconds))
    return {
        "model": entry.name,
        "engine": engine,
        "edgedl_ms": ours,
        "tool_ms": theirs,
        "ratio": statistics.median(o / t for o, t in zip(ours, theirs, strict=True)),
        "noise_floor": statistics.median(floors),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [["model", "engine", "its own tool", "`edgedl bench`", "ratio", "noise floor"]]
    lines += [
        [
            row["model"],
            row["engine"],
            f"{statistics.median(row['tool_ms']):.3f} ms",
            f"{statistics.median(row['edgedl_ms']):.3f} ms",
            f"{row['ratio']:.3f}",
            f"{100 * row['noise_floor']:.1f} %",
        ]
        for row in rows
    ]
    return markdown(lines, right=(2, 3, 4, 5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    results = RESULTS / "tools.json"
    kept = json.loads(results.read_text())["rows"] if results.exists() else []
    rows = [row for row in kept if row["model"] not in arguments.names]
    for name in arguments.names:
        entry = fetch(name, arguments.cache)
        for engine in ("onnxruntime", "openvino"):
            rows.append(one(entry, engine, arguments.turns, arguments.seconds))
            RESULTS.mkdir(exist_ok=True)
            document = {"machine": this_machine().to_json(), "rows": rows}
            results.write_text(json.dumps(document, indent=1) + "\n")
            (RESULTS / "tools.md").write_text(table(rows) + "\n")
            print(table(rows).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

"""What edgedl costs beyond numpy and the engine: starting, importing, opening, and each call.

    python benchmarks/overhead.py [--model silero-vad] [--cache DIR]

`edgedl --help` and the imports are timed in fresh processes, the bundle's opening against the
engine's own on the same bytes, calls against the engine's own fastest call on the same session
settings, alternating call by call. Writes `benchmarks/results/overhead.json` and `overhead.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any

import numpy as np
from zoo import fetch

from edgedl.benchmark.machine import this_machine
from edgedl.core.samples import open_npz
from edgedl.report.table import markdown

RESULTS = Path(__file__).parent / "results"
ENGINES = ("onnxruntime", "openvino")
PROCESSES = 15
CALLS = 4000
IMPORTS = """
import sys, time, numpy, {engine}
{first}
start = time.perf_counter()
import edgedl
edgedl.open
from edgedl.runtime import engine
engine("{engine}")
print((time.perf_counter() - start) * 1e3)
"""
FIRST = {"onnxruntime": "onnxruntime.InferenceSession", "openvino": "openvino.Core()"}
BARE = """
import time
start = time.perf_counter()
import edgedl
print((time.perf_counter() - start) * 1e3)
import sys
assert "numpy" not in sys.modules
"""


def printed(code: str) -> float:
    """The milliseconds that a fresh process prints; the median of several."""
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(PROCESSES)
    ]
    return statistics.median(times)


def wall_ms(command: list[str]) -> float:
    times = []
    for _ in range(PROCESSES):
        start = perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        times.append((perf_counter() - start) * 1e3)
    return statistics.median(times)


def bare_call(name: str, data: bytes, feed: dict[str, np.ndarray]) -> Callable[[], Any]:
    """The engine's own call, in the way its documentation calls fastest."""
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, feed)
    import openvino

    core = openvino.Core()
    config = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(core.read_model(data), "CPU", config).create_infer_request()
    return lambda: request.infer(feed, share_inputs=True, share_outputs=True)


def per_call(name: str, bundle: Path, samples: Path) -> dict[str, float]:
    """Microseconds of a call through a session, and through the bare engine."""
    import edgedl
    from edgedl.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    data = opened.payload_bytes(opened.payloads[0])
    with edgedl.open(bundle, threads=1) as session:
        feed = dict(open_npz(samples).bind(session.signature).feed(0))
        bare = bare_call(name, bytes(data), feed)
        times: dict[str, list[int]] = {"bare": [], "edgedl": []}
        for i in range(CALLS):
            for who, run in (("bare", bare), ("edgedl", lambda: session.run(feed))):
                start = perf_counter_ns()
                run()
                end = perf_counter_ns()
                if i >= CALLS // 4:
                    times[who].append(end - start)
    return {f"{who}_call_us": statistics.median(t) / 1e3 for who, t in times.items()}


def opening(bundle: Path, name: str) -> dict[str, float]:
    """Milliseconds to open the bundle, and for the engine to open the same bytes."""
    import edgedl
    from edgedl.runtime import engine
    from edgedl.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    payload = opened.payloads[0]
    times: dict[str, list[float]] = {"engine": [], "edgedl": []}
    for _ in range(PROCESSES):
        data = opened.payload_bytes(payload)
        start = perf_counter()
        engine(name).open_model(data, settings=payload.settings, threads=1).close()
        middle = perf_counter()
        edgedl.open(bundle, threads=1).close()
        times["engine"].append((middle - start) * 1e3)
        times["edgedl"].append((perf_counter() - middle) * 1e3)
    return {f"{who}_open_ms": statistics.median(t) for who, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="silero-vad", help="a small one shows the most")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    arguments = parser.parse_args()
    entry = fetch(arguments.model, arguments.cache)
    help_ms = wall_ms([sys.executable, "-m", "edgedl", "--help"])
    nothing_ms = wall_ms([sys.executable, "-c", "pass"])
    import_ms = printed(BARE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ENGINES:
            bundle = Path(folder) / f"{name}.edl"
            command = [sys.executable, "-m", "edgedl", "compress", str(entry.model), "--int8"]
            command += ["--samples", str(entry.samples), "--target", name, "-o", str(bundle)]
            for input_name, shape in entry.shapes.items():
                command += ["--shape", f"{input_name}={shape}"]
            subprocess.run([*command, "--seconds", "1"], check=True, capture_output=True)
            code = IMPORTS.format(engine=name, first=FIRST[name])
            row: dict[str, Any] = {"engine": name, "import_ms": printed(code)}
            rows.append(row | per_call(name, bundle, entry.samples) | opening(bundle, name))
    document = {
        "model": entry.name,
        "machine": this_machine().to_json(),
        "help_ms": help_ms,
        "python_alone_ms": nothing_ms,
        "import_edgedl_ms": import_ms,
        "rows": rows,
    }
    lines = [
        ["what", *ENGINES],
        ["`edgedl --help`, whole process", *[f"{help_ms:.0f} ms"] * 2],
        ["Python alone", *[f"{nothing_ms:.0f} ms"] * 2],
        ["`import edgedl`", *[f"{import_ms:.2f} ms"] * 2],
        ["`edgedl.open` beyond numpy and the engine", *[f"{r['import_ms']:.1f} ms" for r in rows]],
        ["opening, the engine alone", *[f"{r['engine_open_ms']:.2f} ms" for r in rows]],
        ["opening, the bundle", *[f"{r['edgedl_open_ms']:.2f} ms" for r in rows]],
        ["a call, the engine alone", *[f"{r['bare_call_us']:.2f} us" for r in rows]],
        ["a call, the session", *[f"{r['edgedl_call_us']:.2f} us" for r in rows]],
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "overhead.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "overhead.md").write_text(markdown(lines, right=(1, 2)) + "\n")
    print(markdown(lines, right=(1, 2)))


if __name__ == "__main__":
    main()

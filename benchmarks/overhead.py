"""What edgedl costs beyond numpy and the engine: starting, opening, and each call.

    python benchmarks/overhead.py [--model silero-vad] [--cache DIR] [--rounds N] [--out DIR]

`edgedl --help` and `import edgedl` are timed in fresh processes, the bundle's opening against the
engine's own on the same bytes, calls against the engine's own fastest call on the same session
settings, alternating call by call (`calls.py`). Writes `overhead.json` and `overhead.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

from calls import per_call
from zoo import Entry, fetch

from edgedl.benchmark.machine import this_machine
from edgedl.core.samples import open_npz
from edgedl.report.table import markdown

RESULTS = Path(__file__).parent / "results"
ENGINES = ("onnxruntime", "openvino")
PROCESSES = 15
ROUNDS = 8000
BARE = """
import time
start = time.perf_counter()
import edgedl
print((time.perf_counter() - start) * 1e3)
import sys
assert "numpy" not in sys.modules
"""


def fresh(command: list[str]) -> str:
    """What a fresh process prints, which keeps compiled modules as Python does by default."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout


def printed(code: str) -> float:
    """The milliseconds that a fresh process prints; the median of several."""
    command = [sys.executable, "-c", code]
    fresh(command)
    return statistics.median(float(fresh(command)) for _ in range(PROCESSES))


def wall_ms(command: list[str]) -> float:
    times = []
    fresh(command)
    for _ in range(PROCESSES):
        start = perf_counter()
        fresh(command)
        times.append((perf_counter() - start) * 1e3)
    return statistics.median(times)


def calls(name: str, bundle: Path, samples: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Microseconds of each way to call, through a session and on the bare engine."""
    import edgedl
    from edgedl.runtime.bundle import open_bundle

    opened = open_bundle(bundle)
    data = opened.payload_bytes(opened.payloads[0])
    with edgedl.open(bundle, threads=1) as session:
        feed = dict(open_npz(samples).bind(session.signature).feed(0))
        return per_call(name, session, data, feed, rounds)


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


def made(entry: Entry, name: str, folder: Path) -> Path:
    """A bundle of a model of the zoo's for an engine."""
    bundle = folder / f"{name}.edl"
    command = [sys.executable, "-m", "edgedl", "compress", str(entry.model), "--int8"]
    command += ["--samples", str(entry.samples), "--target", name, "-o", str(bundle)]
    for input_name, shape in entry.shapes.items():
        command += ["--shape", f"{input_name}={shape}"]
    subprocess.run([*command, "--seconds", "1"], check=True, capture_output=True)
    return bundle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="silero-vad", help="a small one shows the most")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "edgedl" / "zoo")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="calls of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    arguments = parser.parse_args()
    entry = fetch(arguments.model, arguments.cache)
    help_ms = wall_ms([sys.executable, "-m", "edgedl", "--help"])
    nothing_ms = wall_ms([sys.executable, "-c", "pass"])
    import_ms = printed(BARE)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ENGINES:
            bundle = made(entry, name, Path(folder))
            row: dict[str, Any] = {"engine": name}
            row["calls"] = calls(name, bundle, entry.samples, arguments.rounds)
            rows.append(row | opening(bundle, name))
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
        ["opening, the engine alone", *[f"{r['engine_open_ms']:.2f} ms" for r in rows]],
        ["opening, the bundle", *[f"{r['edgedl_open_ms']:.2f} ms" for r in rows]],
    ]
    for way in rows[0]["calls"]:
        found = [row["calls"][way] for row in rows]
        lines.append([f"{way}: the engine alone", *[f"{f['bare_us']:.2f} us" for f in found]])
        lines.append([f"{way}: over it", *[f"{f['over_us']:+.2f} us" for f in found]])
    arguments.out.mkdir(exist_ok=True, parents=True)
    (arguments.out / "overhead.json").write_text(json.dumps(document, indent=1) + "\n")
    (arguments.out / "overhead.md").write_text(markdown(lines, right=(1, 2)) + "\n")
    print(markdown(lines, right=(1, 2)))


if __name__ == "__main__":
    main()

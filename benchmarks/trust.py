"""Whether the stopwatch can be trusted: false verdicts, planted slow-downs, its own cost.

    python benchmarks/trust.py aa [--runs 200] [--seconds 3]       # A against A, a neighbour busy
    python benchmarks/trust.py planted [--runs 50] [--seconds 60]  # 3 % slower, nobody else
    python benchmarks/trust.py overhead                            # of the timing loop, a call

`aa` times the repository's network against itself while another process burns one core; every
verdict but `inconclusive` is false. `planted` times it against a session that waits 3 % longer on
every call; every verdict but the right one is a miss. Both alternate between the engines. Writes
`benchmarks/results/trust.json` and `trust.md`, run after run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, perf_counter_ns
from typing import Any

import numpy as np

from edgedl.benchmark.contest import Contestant, contest
from edgedl.benchmark.cores import idle_cores
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.measure import timed
from edgedl.core.model import Signature
from edgedl.core.samples import open_npz
from edgedl.report.table import markdown
from edgedl.runtime import engine
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.session import Session

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODEL = HERE.parent / "recipes" / "fashion_mnist.onnx"
SAMPLES = HERE.parent / "calibration" / "fashion-mnist" / "test.npz"
ENGINES = ("onnxruntime", "openvino")
PLANTED = 0.03


class Slowed:
    """A session that takes a share longer on every call."""

    def __init__(self, inner: Session, share: float) -> None:
        self.inner, self.share = inner, share
        self.signature = inner.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        start = perf_counter_ns()
        answers = self.inner.run(inputs)
        now = perf_counter_ns()
        end = now + round(self.share * (now - start))
        while now < end:
            now = perf_counter_ns()
        return answers

    def close(self) -> None:
        self.inner.close()


def open_slowed(entry: Mapping[str, Any], threads: int) -> Slowed:
    """What the fresh process of a contest calls."""
    settings = dict(entry["settings"])
    share = settings.pop("slower_by")
    inner = engine(entry["engine"]).open_model(
        Path(entry["path"]), settings=settings, threads=threads
    )
    return Slowed(inner, share)


@contextmanager
def neighbour(busy: bool) -> Any:
    """Another process that burns one core, if asked for."""
    burner = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        yield
    finally:
        if burner is not None:
            burner.kill()
            burner.wait()


def one(name: str, slower_by: float, seconds: float, seed: int, pin: bool) -> dict[str, Any]:
    with find_artifact(MODEL, name).open(1) as session:
        feeds = list(open_npz(SAMPLES).bind(session.signature).take(range(32)))
    opener = "trust:open_slowed"
    a = Contestant("a", MODEL, name, {"slower_by": slower_by}, opener)
    b = Contestant("b", MODEL, name, {"slower_by": 0.0}, opener)
    began = monotonic()
    outcome = contest(
        [a, b],
        feeds,
        seconds=seconds,
        seed=seed,
        cores=(lambda: idle_cores(1)) if pin else (lambda: None),
    )
    found = outcome.comparison
    assert found is not None, outcome.failures
    ratio = found.ratio("a", "b")
    return {
        "engine": name,
        **ratio.to_json(),
        "noise_floor": found.noise_floor,
        "verdict": ratio.verdict(found.noise_floor),
        "processes": len(found.processes),
        "seconds": monotonic() - began,
    }


def trial(kind: str, runs: int, seconds: float, pin: bool) -> None:
    rows: list[dict[str, Any]] = []
    planted = PLANTED if kind == "planted" else 0.0
    with neighbour(kind == "aa"):
        for i in range(runs):
            rows.append(one(ENGINES[i % 2], planted, seconds, i, pin))
            keep(kind, {"runs": rows, "seconds_each": seconds, "pinned": pin, "planted": planted})
            last = rows[-1]
            print(i, last["engine"], f"{last['ratio']:.4f}", last["verdict"], flush=True)


def overhead() -> None:
    """What the loop adds to a measured time, and between two calls, in nanoseconds."""

    class Nothing:
        signature = Signature((), ())

        def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {}

        def close(self) -> None:
            return

    nothing = Nothing()
    feeds = [{} for _ in range(32)]
    turns = []
    for _ in range(30):
        began = perf_counter_ns()
        times = timed(nothing, iter(feeds * 400), 300_000)  # type: ignore[arg-type]
        turns.append((statistics.median(times), (perf_counter_ns() - began) / len(times)))
    inside, all_of_it = (statistics.median(t) for t in zip(*turns, strict=True))
    keep("overhead", {"measured_ns": inside, "whole_ns": all_of_it})


def keep(kind: str, found: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "trust.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    document[kind] = found
    document["machine"] = this_machine().to_json()
    path.write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "trust.md").write_text(table(document) + "\n")


def table(document: dict[str, Any]) -> str:
    lines = [["trial", "runs", "right", "wrong", "seconds each", "floor", "interval's width"]]
    for kind, right in (("aa", "inconclusive"), ("planted", "faster")):
        runs = document.get(kind, {}).get("runs", [])
        if not runs:
            continue
        good = sum(run["verdict"] == right for run in runs)
        what = "A against A, a neighbour burns a core" if kind == "aa" else "3 % planted"
        width = statistics.median((r["high"] - r["low"]) / r["ratio"] for r in runs)
        lines.append(
            [
                what,
                str(len(runs)),
                f"{good} ({100 * good / len(runs):.1f} %)",
                str(len(runs) - good),
                f"{statistics.median(r['seconds'] for r in runs):.1f}",
                f"{100 * statistics.median(r['noise_floor'] for r in runs):.1f} %",
                f"{100 * width:.1f} %",
            ]
        )
    text = markdown(lines, right=range(1, 7))
    if "overhead" in document:
        cost = document["overhead"]
        text += (
            f"\n\nThe timing loop adds {cost['measured_ns']:.0f} ns to a measured time, and takes"
            f" {cost['whole_ns']:.0f} ns a call in all."
        )
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=["aa", "planted", "overhead"])
    parser.add_argument("--runs", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--no-pin", action="store_true")
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    if arguments.kind == "overhead":
        overhead()
    else:
        runs = arguments.runs or (200 if arguments.kind == "aa" else 50)
        seconds = arguments.seconds or (3.0 if arguments.kind == "aa" else 60.0)
        trial(arguments.kind, runs, seconds, not arguments.no_pin)
    print((RESULTS / "trust.md").read_text())


if __name__ == "__main__":
    main()

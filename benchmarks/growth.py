"""How the cost of `edgedl compress --int8` grows with samples, operators and parameters.

    python benchmarks/growth.py [--engine onnxruntime] [--threads 1] [--limit 900] [--memory 20]
        [--samples 32 256 2048] [--operators 100 300 1000 5000] [--parameters 1e6 1e7 1e8 1e9]

Every point is a model made for it, a process of its own and an empty store: seconds from start to
end, and the most memory that the process held. Plain inference is the float32 model on the same
engine over the same samples, once, in a process of its own. Models: for samples and operators,
blocks of two small convolutions or two Gemms with a residual; for parameters, eight layers of
Gemm and Relu, their weights in a file of external data beyond 1 GiB. What does not end within the
limits of time and memory, or cannot be made, is written down as such. Writes
`benchmarks/results/growth.json`, `growth.md` and
`growth.png` point after point; a point that is run again replaces the old one, and an axis named
without values is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from growth_models import deep_net, perceptron
from growth_picture import draw
from processes import Finished, limit_of_memory, watched

from edgedl.benchmark.machine import this_machine
from edgedl.core.samples import open_npz
from edgedl.core.units import format_bytes
from edgedl.report.table import markdown
from edgedl.runtime import engine

RESULTS = Path(__file__).resolve().parent / "results"
AXES = {
    "samples": (32, 256, 2048),
    "operators": (100, 300, 1000, 5000),
    "parameters": (10**6, 10**7, 10**8, 10**9),
}
SAMPLES, OPERATORS = 32, 100
SIDE, WIDE_SIDE = 12, 64
BROKEN_LIMIT = 3


def make(axis: str, value: int, folder: Path) -> tuple[Path, Path]:
    """The model and the samples of a point."""
    model, samples = folder / "model.onnx", folder / "samples.npz"
    draw_from = np.random.default_rng(0)
    count = value if axis == "samples" else SAMPLES
    if axis == "parameters":
        inputs = perceptron(model, value)
    else:
        side = WIDE_SIDE if axis == "samples" else SIDE
        inputs = deep_net(model, value if axis == "operators" else OPERATORS, side)
    values = draw_from.standard_normal((count, *inputs)).astype(np.float32)
    np.savez(samples, allow_pickle=False, input=values)
    return model, samples


def plain(model: str, samples: str, name: str, threads: str) -> None:
    """What the fresh process of plain inference does."""
    with engine(name).open_model(Path(model), settings={}, threads=int(threads)) as session:
        for feed in open_npz(samples).bind(session.signature):
            session.run(feed)


def measure(axis: str, value: int, given: argparse.Namespace) -> dict[str, Any]:
    """One point."""
    if given.work:
        Path(given.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="growth-", dir=given.work) as scratch:
        folder = Path(scratch)
        row: dict[str, Any] = {
            "axis": axis,
            "value": value,
            "engine": given.engine,
            "threads": given.threads,
            "samples": value if axis == "samples" else SAMPLES,
            "limit_seconds": given.limit,
        }
        try:
            model, samples = make(axis, value, folder)
        except (OSError, MemoryError) as error:
            said = error.strerror if isinstance(error, OSError) else "out of memory"
            none = {"seconds": 0.0, "peak_rss_bytes": 0}
            failed = {**none, "problem": f"the model could not be made ({said})"}
            return {
                **row,
                "operators": 0,
                "parameters": 0,
                "bytes": 0,
                **dict.fromkeys(("plain", "compress"), failed),
            }
        graph = onnx.load(model, load_external_data=False).graph
        files = [path for path in folder.iterdir() if path != samples]
        row |= {
            "operators": len(graph.node),
            "parameters": sum(math.prod(tensor.dims) for tensor in graph.initializer),
            "bytes": sum(path.stat().st_size for path in files),
        }
        common = [str(model), str(samples), given.engine, str(given.threads)]
        row["plain"] = _run([sys.executable, __file__, "--plain", *common], given, folder)
        command = [sys.executable, "-m", "edgedl", "compress", str(model), "--int8", "--json"]
        command += ["--samples", str(samples), "--target", given.engine]
        command += ["--threads", str(given.threads), "--seconds", str(given.seconds)]
        command += ["-o", str(folder / "out.edl")]
        row["compress"] = _run(command, given, folder)
    return row


def _run(command: Sequence[str], given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    left = limit_of_memory()
    most = min((n for n in (left, given.memory and int(1e9 * given.memory)) if n), default=None)
    with tempfile.TemporaryDirectory(prefix="store-", dir=folder) as store:
        done: Finished = watched(
            command,
            limit_seconds=given.limit,
            limit_bytes=most,
            environment={**os.environ, "EDGEDL_STORE": store},
            accepted=(0, BROKEN_LIMIT),
        )
    return {
        "seconds": done.seconds,
        "peak_rss_bytes": done.peak_rss_bytes,
        "problem": done.problem or None,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a point."""
    head = ["growing", "to", "engine", "model", "compress", "plain inference"]
    lines = [[*head, "its peak memory", "plain inference", "times"]]
    for row in rows:
        ours, its = row["compress"], row["plain"]
        both = not (ours["problem"] or its["problem"])
        times = ours["peak_rss_bytes"] / its["peak_rss_bytes"] if both else None
        lines.append(
            [
                row["axis"],
                f"{row['value']:,}",
                row["engine"],
                format_bytes(row["bytes"]),
                ours["problem"] or f"{ours['seconds']:.1f} s",
                its["problem"] or f"{its['seconds']:.1f} s",
                format_bytes(ours["peak_rss_bytes"]),
                format_bytes(its["peak_rss_bytes"]),
                "" if times is None else f"{times:.2f}",
            ]
        )
    return markdown(lines, right=(1, 3, 4, 5, 6, 7, 8))


def keep(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write everything."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": this_machine().to_json(), "rows": rows}
    (folder / "growth.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "growth.md").write_text(table(rows) + "\n")
    draw(rows, folder / "growth.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--engine", choices=["onnxruntime", "openvino"], default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one point")
    parser.add_argument("--memory", type=float, help="GB for one point; else what the machine has")
    parser.add_argument("--seconds", type=float, default=3.0, help="of the last timing in compress")
    parser.add_argument("--work", type=Path, help="where models are made; 30 GB for the largest")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write")
    for axis, values in AXES.items():
        parser.add_argument(
            f"--{axis}", nargs="*", type=lambda text: int(float(text)), default=list(values)
        )
    parser.add_argument("--plain", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.plain:
        plain(*given.plain)
        return
    path = given.results / "growth.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"] if path.exists() else []
    for axis in AXES:
        for value in getattr(given, axis):
            row = measure(axis, value, given)
            place = (axis, value, given.engine)
            rows = [r for r in rows if (r["axis"], r["value"], r["engine"]) != place]
            rows = sorted(
                [*rows, row], key=lambda r: (list(AXES).index(r["axis"]), r["engine"], r["value"])
            )
            keep(rows, given.results)
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()

"""Answers foretold for other processors, beside those that were run there.

    python benchmarks/foretell.py FILE.onnx|FILE.edl ... --float MODEL.onnx --samples S.npz
        [--on PROCESSOR=COMMAND ...] [--count 64]

COMMAND runs a Python with numpy and onnxruntime as on that processor, such as
`x86-avx2=qemu-x86_64 -cpu Haswell python`. OpenVINO's answers are run under `ONEDNN_MAX_CPU_ISA`,
and emulated as where no such switch is. Rows are added to `benchmarks/results/foretell.json`, and
`foretell.md` is made of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.target import PROCESSORS
from edgedl.inputs import load_model, load_samples
from edgedl.passes.emulate import Emulated
from edgedl.passes.saturation import saturates
from edgedl.report.table import markdown
from edgedl.runtime.artifact import find_artifact

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
OPENVINO = """
import sys, numpy as np
from edgedl.runtime import engine
with np.load(sys.argv[2]) as arrays:
    given = {name: arrays[name] for name in arrays.files}
with engine("openvino").open_model(sys.argv[1], settings={"precision": "f32"}, threads=1) as s:
    names, first = [t.name for t in s.signature.inputs], s.signature.outputs[0].name
    count = len(given[names[0]])
    rows = [s.run({n: given[n][i:i + 1] for n in names})[first] for i in range(count)]
np.savez(sys.argv[3], answers=np.concatenate(rows))
"""


def decibels(answers: np.ndarray, wanted: np.ndarray) -> float:
    """Signal to noise, over all answers."""
    noise = float(np.sum((answers.astype(np.float64) - wanted) ** 2))
    power = float(np.sum(wanted.astype(np.float64) ** 2))
    return 10 * float(np.log10(power / max(noise, power * 1e-20)))


def run_there(command: list[str], model: Path, samples: Path, env: Mapping[str, str]) -> np.ndarray:
    """The answers of a process.

    Raises:
        RuntimeError: it failed; its last line.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.npz"
        done = subprocess.run(
            [*command, str(model), str(samples), str(out)],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
        with np.load(out) as arrays:
            return np.array(arrays["answers"])


def emulated(model: Any, engine: str, machine: Mapping[str, Any], samples: Path) -> np.ndarray:
    bound = load_samples(samples).bind(model.signature)
    first = model.signature.outputs[0].name
    with Emulated(model, engine, saturating=saturates(machine, engine)) as session:
        return np.concatenate([session.run(feed)[first] for feed in bound])


def row(
    name: str, engine: str, processor: str, foretold: np.ndarray, ran: np.ndarray,
    wanted: np.ndarray, labels: np.ndarray | None,
) -> dict[str, Any]:  # fmt: skip
    flat = [a.reshape(len(a), -1) for a in (foretold, ran, wanted)]
    found: dict[str, Any] = {
        "file": name,
        "engine": engine,
        "processor": processor,
        "samples": len(ran),
        "foretold_db": decibels(foretold, wanted),
        "run_db": decibels(ran, wanted),
        "between_db": decibels(foretold, ran),
        "alike": float(np.mean([np.array_equal(a, b) for a, b in zip(*flat[:2], strict=True)])),
    }
    if labels is not None:
        tops = [a.argmax(axis=1) for a in flat]
        found |= {
            "foretold_top1": float(np.mean(tops[0] == labels)),
            "run_top1": float(np.mean(tops[1] == labels)),
            "float_top1": float(np.mean(tops[2] == labels)),
            "same_top1": float(np.mean(tops[0] == tops[1])),
        }
    return found


def document(rows: list[dict[str, Any]]) -> str:
    head = ["file", "engine", "processor", "samples", "top-1: foretold", "run", "float's"]
    head += ["same answer", "noise to float: foretold", "run", "bit by bit the same"]
    lines = [head]
    for one in rows:
        tops = [f"{one[k]:.3f}" if k in one else "" for k in
                ("foretold_top1", "run_top1", "float_top1", "same_top1")]  # fmt: skip
        lines.append([
            one["file"], one["engine"], one["processor"], str(one["samples"]), *tops,
            f"{one['foretold_db']:.1f} dB", f"{one['run_db']:.1f} dB",
            f"{100 * one['alike']:.0f} %",
        ])  # fmt: skip
    return markdown(lines, right=tuple(range(3, 11)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--float", dest="reference", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--on", action="append", default=[], metavar="PROCESSOR=COMMAND")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    path = given.results / "foretell.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.npz"
        with np.load(given.samples, allow_pickle=False) as arrays:
            some = {name: arrays[name][: given.count] for name in arrays.files}
        labels = some.get("labels")
        np.savez(samples, **some)
        here = [sys.executable, str(HERE / "foretell_run.py")]
        wanted = run_there(here, given.reference, samples, {})
        for file in given.files:
            model, engine = load_model(file), find_artifact(file).engine
            maker = "edgedl" if file.suffix == ".edl" else file.stem.rpartition("-")[0] or file.stem
            label = f"{given.reference.stem}, {maker}"
            runs: dict[str, tuple[list[str], dict[str, str]]] = {}
            if engine == "openvino":
                for name in ("x86-avx2", "x86-avx2-vnni"):
                    cap = PROCESSORS[name].cap or ""
                    runs[name] = [sys.executable, "-c", OPENVINO], {ISA_VARIABLE: cap}
            else:
                for text in given.on:
                    name, _, command = text.partition("=")
                    runs[name] = [*shlex.split(command), str(HERE / "foretell_run.py")], {}
            for name, (command, env) in runs.items():
                there = run_there(command, model.path, samples, env)
                told = emulated(model, engine, PROCESSORS[name].machine(), samples)
                made = row(label, engine, name, told, there, wanted, labels)
                rows = [r for r in rows if any(r[k] != made[k] for k in
                        ("file", "engine", "processor"))]  # fmt: skip
                rows.append(made)
                print(json.dumps(made), flush=True)
                given.results.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(rows, indent=1) + "\n")
                path.with_suffix(".md").write_text(document(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

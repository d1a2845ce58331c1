"""Everything that can only be measured on an NVIDIA GPU, in one call, on a machine without a net.

    python benchmarks/gpu/run.py [--wheels DIR] [--models NAME ...] [--seconds 3] [--exports]

It needs this checkout and, in DIR (`benchmarks/gpu/wheels`), the wheels of what the machine has
not: `tensorrt-rtx-cu13-libs` and `-bindings` and `tensorrt-rtx` or `tensorrt`, `onnxruntime-gpu`,
`cuda-bindings`, and torch, onnx, onnx-ir, onnxscript, ml_dtypes and pytest where they are missing.

In this order: the GPU; whether TensorRT and TensorRT-RTX accept it; the engine tests; the latency
of four models in float32, float16, int8 and fp8 through our runtime, and of torch eager,
`torch.compile` with CUDA graphs, and onnxruntime's CUDA provider on the same input, from the host
and back to it; onnxruntime's CUDA and TensorRT providers through our sessions, plain and as one
CUDA graph; how far all answers are from float32 on the processor; and what our calls cost over
the bare loop. Weights are random (models.py). Every step is a process of its own with a time limit.
What did not run says why, and stands nowhere as a number.

Without a GPU every step says so. `--exports` then still writes the ONNX files and has TensorRT-RTX
build them ahead of time for SM89.

Writes `benchmarks/results/gpu.json` and `gpu.md`, after every step.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE.parent / "results"
MODELS = ("resnet50", "mobilenetv2", "vit-tiny", "minilm")
LIBRARIES = ("tensorrt", "tensorrt_rtx")
ONNXRUNTIMES = ("onnxruntime-cuda", "onnxruntime-tensorrt")
PRECISIONS = ("float32", "float16", "int8", "fp8")
LIMITS_S = {
    "tests": 900, "export": 600, "parse": 600, "torch-compile": 600, "ours": 900,
    "ours-onnxruntime": 900,
}  # fmt: skip
LIMIT_S = 300
NO_GPU = "no GPU"
WITHOUT_GPU = ("export", "parse")


def plan(models: list[str]) -> Iterator[tuple[str, ...]]:
    """All steps after the first, in order."""
    for library in (*LIBRARIES, *ONNXRUNTIMES):
        yield "accept", library
    yield ("tests",)
    for name in models:
        yield "export", name
        yield "parse", name
        yield "reference", name
        for library in LIBRARIES:
            for precision in PRECISIONS:
                yield "ours", name, library, precision
        for peer in ("torch-eager", "torch-compile", "onnxruntime"):
            for precision in PRECISIONS[:2]:
                yield peer, name, precision
        for library in ONNXRUNTIMES:
            for precision in PRECISIONS[: 3 if library == "onnxruntime-tensorrt" else 2]:
                yield "ours-onnxruntime", name, library, precision
        yield "agreement", name
        for library in LIBRARIES:
            yield "overhead", name, library


def child(step: tuple[str, ...], work: Path, environment: dict[str, str]) -> dict[str, Any]:
    """A step's document; what became of it, where it has none."""
    command = [sys.executable, str(HERE / "steps.py"), str(work), *step]
    limit = LIMITS_S.get(step[0], LIMIT_S)
    began = perf_counter()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {limit} s"}
    seconds = round(perf_counter() - began, 1)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        return {"failed": f"ended with status {done.returncode}: {last}", "seconds": seconds}
    return {**json.loads(lines[-1]), "seconds": seconds}


def unpacked(wheels: Path, folder: Path) -> dict[str, str]:
    """The environment of the children: the checkout, and the wheels that lie there."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if found:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
        subprocess.run([*command, "--target", str(folder), *map(str, found)], check=True)
        paths.insert(0, str(folder))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def write(document: dict[str, Any]) -> None:
    """Keep what there is so far."""
    from table import markdown

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "gpu.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "gpu.md").write_text(markdown(document) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, default=HERE / "wheels")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=3.0, help="of timing, each")
    parser.add_argument("--exports", action="store_true", help="also without a GPU")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgedl-gpu-") as name:
        work = Path(name)
        environment = unpacked(given.wheels, work / "site")
        environment["GPU_SECONDS"] = str(given.seconds)
        machine = child(("gpu",), work, environment)
        steps: list[dict[str, Any]] = []
        document = {"machine": machine, "seconds": given.seconds, "steps": steps}
        write(document)
        for step in plan(given.models):
            if not machine.get("gpu") and not (given.exports and step[0] in WITHOUT_GPU):
                found: dict[str, Any] = {"failed": NO_GPU}
            else:
                found = child(step, work, environment)
            steps.append({"step": list(step), **found})
            print(" ".join(step), "->", found.get("failed") or "done", flush=True)
            write(document)


if __name__ == "__main__":
    main()

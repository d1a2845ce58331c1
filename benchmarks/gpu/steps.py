"""One step of the GPU benchmark, in a process of its own: `python steps.py WORK STEP [WORDS ...]`.

The last line of stdout is a JSON document. It is called by `run.py`, which see.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "tensorrt", "tensorrt-rtx", "torch", "onnxruntime", "onnxruntime-gpu", "cuda-bindings",
    "cuda-python", "onnx", "numpy",
)  # fmt: skip
WARM_UP_CALLS, FEWEST_CALLS = 50, 50
SECONDS = float(os.environ.get("GPU_SECONDS", "3"))
TESTS = (
    "tests/runtime/tensorrt",
    "tests/runtime/ort",
    "tests/runtime/test_session.py",
    "tests/runtime/test_run_into.py",
    "tests/contracts/test_engines.py",
)
Feed = Mapping[str, np.ndarray]


def gpu(_: Path) -> dict[str, Any]:
    """The GPU, its driver, and what is installed; why there is none, where CUDA finds none."""
    from edgedl.core.errors import EdgeError
    from edgedl.runtime.tensorrt.cuda import cuda, version_text

    found: dict[str, Any] = {
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
    }
    try:
        binding = cuda()
    except EdgeError as error:
        return found | {"gpu": None, "reason": error.message}
    device, memory = binding.device(0), binding.memory()
    return found | {
        "gpu": device.name,
        "compute_capability": f"{device.capability[0]}.{device.capability[1]}",
        "memory_bytes": memory.total,
        "driver_cuda": version_text(binding.driver_version()),
        "runtime_cuda": version_text(binding.runtime_version()),
        "binding": type(binding._api).__name__,  # type: ignore[attr-defined]
    }


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def engine_of(library: str, work: Path) -> Any:
    """The engine with its store in the work folder."""
    from dataclasses import replace

    from edgedl.core.store import Store
    from edgedl.runtime import engine

    return replace(engine(library), store=Store(work / "engines"))  # type: ignore[type-var]


def accept(work: Path, library: str) -> dict[str, Any]:
    """Whether the library builds for this GPU, opens the engine and answers rightly."""
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [64, 64])],
        [value("y", TensorProto.FLOAT, [64, 64])],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    engine = engine_of(library, work)
    with engine.open_model(model, settings={}) as session:
        worst = max(float(np.abs(session.run({"x": x})["y"] - x @ x).max()) for _ in range(3))
        note = session.note
    return {"version": engine.version, "largest_difference": worst, "note": note}


def tests(_: Path) -> dict[str, Any]:
    """The engine tests of the checkout, those that need a GPU among them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rfEs", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    told = [line[:200] for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    return {"status": done.returncode, "summary": lines[-1] if lines else "", "told": told[:60]}


def export(work: Path, name: str) -> dict[str, Any]:
    """The model's ONNX files."""
    from models import write

    return write(name, work)


def parse(work: Path, name: str) -> dict[str, Any]:
    """Whether TensorRT-RTX parses and builds each of them ahead of time, which needs no GPU."""
    from models import PRECISIONS, onnx_path

    from edgedl.core.errors import EdgeError
    from edgedl.runtime.tensorrt.build import built, module
    from edgedl.runtime.tensorrt.settings import Build

    found: dict[str, Any] = {}
    for precision in PRECISIONS:
        path = onnx_path(work, name, precision)
        try:
            made = built(
                path, Build(compute_capabilities=("SM89",)), library=module("tensorrt_rtx")
            )
            found[precision] = {"plan_bytes": len(made.plan)}
        except EdgeError as error:
            found[precision] = {"failed": str(error)[:300]}
    return found


def timed(call: Callable[[], Any]) -> dict[str, Any]:
    """Milliseconds of single calls, one after another, after a warm-up."""
    for _ in range(WARM_UP_CALLS):
        call()
    times: list[int] = []
    began = perf_counter_ns()
    while perf_counter_ns() - began < SECONDS * 1e9 or len(times) < FEWEST_CALLS:
        start = perf_counter_ns()
        call()
        times.append(perf_counter_ns() - start)
    spread = np.percentile(np.array(times) / 1e6, [0, 50, 90, 99])
    names = ("min", "p50", "p90", "p99")
    return {**dict(zip(names, spread.tolist(), strict=True)), "calls": len(times)}


def keep_answers(work: Path, name: str, who: str, answer: Callable[[Feed], np.ndarray]) -> None:
    """The answers to the inputs that all are compared on."""
    from models import COMPARED, arrays

    given = arrays(name, COMPARED, seed=4)
    rows = [{key: a[i : i + 1] for key, a in given.items()} for i in range(COMPARED)]
    (work / "answers").mkdir(exist_ok=True)
    found = np.concatenate([np.asarray(answer(row), np.float32) for row in rows])
    np.save(work / "answers" / f"{name}.{who}.npy", found)


def one(name: str) -> dict[str, np.ndarray]:
    """The input that everything is timed on."""
    from models import arrays

    return arrays(name, 1, seed=5)


def ours(work: Path, name: str, library: str, precision: str) -> dict[str, Any]:
    """Through our session: arrays of the caller's copied, and the session's own, which are not."""
    from models import onnx_path

    engine, feed = engine_of(library, work), one(name)
    start = perf_counter_ns()
    with engine.open_model(onnx_path(work, name, precision), settings={}) as session:
        opened = (perf_counter_ns() - start) / 1e9
        keep_answers(work, name, f"{library}-{precision}", lambda row: session.run(row)["logits"])
        copied = timed(lambda: session.run(feed))
        inputs, outputs = session.arrays()
        for key, array in inputs.items():
            array[...] = feed[key]
        pinned = timed(lambda: session.run_into(inputs, outputs))
        note = session.note
    return {"run": copied, "run_into": pinned, "note": note, "open_s": opened}


def torch_network(work: Path, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """torch on the GPU, eager or compiled with CUDA graphs, from the host and back."""
    import torch
    from models import network

    dtype = getattr(torch, precision)
    net = network(name).to("cuda", dtype)
    run = torch.compile(net, mode="reduce-overhead") if compiled else net

    def answer(row: Feed) -> np.ndarray:
        given = [torch.from_numpy(a).pin_memory() for a in row.values()]
        return call(given)

    def call(given: list[Any]) -> np.ndarray:
        there = [a.to("cuda", non_blocking=True) for a in given]
        there = [a.to(dtype) if a.is_floating_point() else a for a in there]
        with torch.inference_mode():
            made: np.ndarray = run(*there).float().cpu().numpy()
        return made

    feed = [torch.from_numpy(a).pin_memory() for a in one(name).values()]
    kind = "compile" if compiled else "eager"
    keep_answers(work, name, f"torch-{kind}-{precision}", answer)
    return {"run": timed(lambda: call(feed))}


def onnxruntime_cuda(work: Path, name: str, precision: str) -> dict[str, Any]:
    """onnxruntime's CUDA provider on the same file and the same input."""
    import onnxruntime
    from models import onnx_path

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return {"failed": "this onnxruntime has no CUDA provider"}
    session = onnxruntime.InferenceSession(
        str(onnx_path(work, name, precision)), providers=["CUDAExecutionProvider"]
    )
    if session.get_providers()[0] != "CUDAExecutionProvider":
        return {"failed": "its CUDA provider does not start here"}
    feed = one(name)
    keep_answers(
        work, name, f"onnxruntime-{precision}", lambda row: session.run(None, dict(row))[0]
    )
    return {"run": timed(lambda: session.run(None, feed))}


def ours_onnxruntime(work: Path, name: str, library: str, precision: str) -> dict[str, Any]:
    """onnxruntime's CUDA or TensorRT provider through our session, plain and as one CUDA graph,
    into fresh arrays and into the caller's; how much of the model the processor computes."""
    from models import onnx_path

    engine, feed = engine_of(library, work), one(name)
    path, found = onnx_path(work, name, precision), {}
    for label, settings in (("plain", {}), ("graph", {"graph": True})):
        start = perf_counter_ns()
        try:
            session = engine.open_model(path, settings=settings)
        except Exception as error:
            found[label] = {"failed": " ".join(str(error).split())[:300]}
            continue
        with session:
            opened = (perf_counter_ns() - start) / 1e9
            outputs = session.run(feed)
            if label == "plain":
                who = f"{library}-{precision}"
                keep_answers(work, name, who, lambda row, of=session: of.run(row)["logits"])
            found[label] = {
                "run": timed(lambda of=session: of.run(feed)),
                "run_into": timed(lambda of=session, out=outputs: of.run_into(feed, out)),
                "note": session.note,
                "open_s": opened,
            }
    if "failed" not in found["plain"]:
        left = [o for o in engine.operators(path, feed, settings={}, runs=5) if o.fallback]
        found["on_cpu"] = sorted({operator.kind for operator in left})
    return {**found, **found["plain"]}


def reference(work: Path, name: str) -> dict[str, Any]:
    """torch in float32 on the processor, which the others are compared with."""
    import torch
    from models import network

    net = network(name)
    with torch.inference_mode():
        keep_answers(
            work,
            name,
            "reference",
            lambda row: net(*(torch.from_numpy(a) for a in row.values())).numpy(),
        )
    return {}


def agreement(work: Path, name: str) -> dict[str, Any]:
    """How far everybody's answers are from the reference's."""
    wanted = np.load(work / "answers" / f"{name}.reference.npy").astype(np.float64)
    found: dict[str, Any] = {}
    for path in sorted((work / "answers").glob(f"{name}.*.npy")):
        who = path.name.removeprefix(f"{name}.").removesuffix(".npy")
        given = np.load(path).astype(np.float64)
        noise = float(((given - wanted) ** 2).sum())
        cosine = (given * wanted).sum(1) / (
            np.linalg.norm(given, axis=1) * np.linalg.norm(wanted, axis=1) + 1e-30
        )
        sqnr = 10 * np.log10((wanted**2).sum() / noise) if noise else None
        found[who] = {
            "cosine": float(cosine.mean()),
            "sqnr_db": None if sqnr is None else float(sqnr),
            "top1": float((given.argmax(1) == wanted.argmax(1)).mean()),
            "samples": len(wanted),
        }
    found.pop("reference")
    return found


def overhead(work: Path, name: str, library: str) -> dict[str, Any]:
    """Our calls against the bare loop on the same engine: launch the graph, wait for the stream;
    one after another in turn."""
    from models import onnx_path

    engine, feed = engine_of(library, work), one(name)
    with engine.open_model(onnx_path(work, name, "float16"), settings={}) as session:
        for _ in range(WARM_UP_CALLS):
            session.run(feed)
        ready, bound = session.bound(feed)
        if not bound.executable:
            return {"failed": str(session.note)}
        inputs, outputs = session.arrays()
        api, stream = ready.cuda._api, ready.stream

        def bare() -> None:
            api.cudaGraphLaunch(bound.executable, stream)
            api.cudaStreamSynchronize(stream)

        calls: dict[str, Callable[[], Any]] = {
            "bare": bare,
            "run_into": lambda: session.run_into(inputs, outputs),
            "run": lambda: session.run(feed),
        }
        times: dict[str, list[int]] = {who: [] for who in calls}
        began = perf_counter_ns()
        while perf_counter_ns() - began < 3 * SECONDS * 1e9 or len(times["run"]) < FEWEST_CALLS:
            for who, call in calls.items():
                start = perf_counter_ns()
                call()
                times[who].append(perf_counter_ns() - start)
    medians = {who: float(np.median(some)) / 1e3 for who, some in times.items()}
    shares = {f"{who}_overhead": medians[who] / medians["bare"] - 1 for who in ("run_into", "run")}
    return {"median_us": medians, **shares, "calls": len(times["bare"])}


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    "gpu": gpu,
    "accept": accept,
    "tests": tests,
    "export": export,
    "parse": parse,
    "reference": reference,
    "ours": ours,
    "torch-eager": lambda work, name, precision: torch_network(work, name, precision, False),
    "torch-compile": lambda work, name, precision: torch_network(work, name, precision, True),
    "onnxruntime": onnxruntime_cuda,
    "ours-onnxruntime": ours_onnxruntime,
    "agreement": agreement,
    "overhead": overhead,
}


if __name__ == "__main__":
    folder, step, *words = sys.argv[1:]
    sys.path.insert(0, str(Path(__file__).parent))
    try:
        document = STEPS[step](Path(folder), *words)
    except Exception as error:
        text = " ".join(str(error).split())
        document = {"failed": f"{type(error).__name__}: {text}"[:400]}
    print("\n" + json.dumps(document))

"""What a child process does with a model on a GPU: open it once, or profile it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.progress import Progress
from edgedl.core.store import Store


def open_once(folder: Path, job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Open `job["model"]`, or `model.onnx` in the folder, and run it once on zeros where all its
    shapes are fixed; TensorRT leaves its engines in `job["cache"]`."""
    progress("opening the model", 0, 1)
    engine, model = _engine_and_model(folder, job)
    with engine.open_here(model, job["settings"], Path(job["cache"])) as session:
        inputs = session.signature.inputs
        if all(t.shape and all(isinstance(d, int) for d in t.shape) for t in inputs):
            session.run({t.name: np.zeros(t.shape, t.dtype) for t in inputs})
        return {"note": session.note}


def profile(folder: Path, job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The operators of the model for the inputs in `feed.npz`, timed with every kernel waited for
    (CUDA programming guide, environment variables)."""
    progress("profiling", 0, 1)
    os.environ["CUDA_LAUNCH_BLOCKING"] = "1"
    engine, model = _engine_and_model(folder, job)
    with np.load(folder / "feed.npz") as kept:
        feed = dict(kept)
    cache = None if job["cache"] is None else Path(job["cache"])
    found = engine.profile_here(model, feed, job["settings"], cache, job["threads"], job["runs"])
    return {"operators": [asdict(one) for one in found]}


def _engine_and_model(folder: Path, job: Mapping[str, Any]) -> tuple[Any, bytes | Path]:
    from edgedl.runtime.ort.gpu import OrtGpuEngine

    name, provider, place = job["engine"]
    engine = OrtGpuEngine(name, provider, place, store=Store(Path(job["store"])))
    path = job["model"]
    return engine, Path(path) if path else (folder / "model.onnx").read_bytes()

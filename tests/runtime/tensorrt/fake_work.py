"""What child processes do in tests: build fake plans, refuse, crash, hang."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadModel
from edgedl.core.progress import Progress
from edgedl.runtime.tensorrt.refusals import Refused, RefusedOperator
from tests.runtime.tensorrt.fake_trt import plan

Job = Mapping[str, Any]


def build(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    """A plan of the version that the model asks for."""
    model = Path(job["model"] or folder / "model.onnx").read_bytes()
    progress("building: tactics", 1, 2)
    print("noise of a library on stdout")
    progress("building: tactics", 2, 2)
    (folder / "plan").write_bytes(plan(version=model.decode().split()[-1]))
    before = (folder / "timing").read_bytes() if (folder / "timing").exists() else b""
    (folder / "timing").write_bytes(before + b"t")
    return {"detailed": job["detailed"]}


def open_once(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    assert (folder / "plan").read_bytes().startswith(b"plan")
    progress("trying the engine", 1, 1)
    return {"running": job["running"]}


def refuse(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    operator = RefusedOperator("conv_3", "Foo", "UNSUPPORTED_NODE", "it has no layer", "rewrite it")
    raise Refused("TensorRT 10.3.0", [operator])


def no_model(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    raise BadModel("no such file", where="a.onnx")


def memory(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    raise MemoryError


def crash(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def killed(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def abort(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def bug(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    raise RuntimeError("something of its own")


def hang(folder: Path, job: Job, progress: Progress) -> dict[str, Any]:
    (folder / "pid").write_text(str(os.getpid()))
    progress("building: for ever", 0, 1)
    threading.Event().wait()
    raise AssertionError

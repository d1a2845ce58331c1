"""The process in which engines are built and tried.

It is called as `python -m edgedl.runtime.tensorrt.child FOLDER`. FOLDER holds `job.json`, whose
`work` names a function `(folder, job, progress) -> document`. Its document, or the error that it
raised, is written into `done.json`; progress goes to stdout, one JSON document a line. The process
ends when its standard input does: its parent is gone then.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core import errors
from edgedl.core.errors import EdgeError
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.progress import Progress
from edgedl.core.registry import load

ORPHANED = 9
Work = Callable[[Path, Mapping[str, Any], Progress], dict[str, Any]]


def build(folder: Path, job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Build `job["model"]`, or `model.onnx` in the folder, into `plan`; what the builder measured
    is read from and written to `timing`."""
    from edgedl.runtime.tensorrt.build import built, module
    from edgedl.runtime.tensorrt.settings import build_of

    timing = folder / "timing"
    found = built(
        job["model"] or folder / "model.onnx",
        build_of(job["build"]),
        library=module(job["engine"]),
        timing_cache=timing.read_bytes() if timing.exists() else None,
        progress=progress,
        layers=job["detailed"],
    )
    (folder / "plan").write_bytes(found.plan)
    if found.timing_cache:
        timing.write_bytes(found.timing_cache)
    return {"warnings": list(found.warnings)}


def open_once(folder: Path, job: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Open `plan` in the folder, and run it once on zeros of its first profile's largest shapes."""
    from edgedl.runtime.tensorrt.build import module
    from edgedl.runtime.tensorrt.contexts import Running
    from edgedl.runtime.tensorrt.cuda import cuda
    from edgedl.runtime.tensorrt.session import TensorRtSession

    progress("trying the engine", 0, 1)
    running = Running(graphs=0, **job["running"])
    plan = (folder / "plan").read_bytes()
    with TensorRtSession(module(job["engine"]), cuda(), plan, running) as session:
        session.run(session.zeros())
        document = session.signature.to_json()
    progress("trying the engine", 1, 1)
    return {"signature": document}


def describe(error: BaseException) -> dict[str, Any]:
    """An error as the parent raises it again: the nearest kind that `core.errors` has."""
    if isinstance(error, MemoryError):
        return {"kind": "EngineFailed", "message": "there was too little memory", "hint": None}
    assert isinstance(error, EdgeError)
    kind = next(one for one in type(error).__mro__ if getattr(errors, one.__name__, None) is one)
    words = {"message": error.message, "hint": error.hint, "where": error.where}
    return {"kind": kind.__name__, **words}


def _end_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1 << 10):
            pass
    os._exit(ORPHANED)


def main(folder: Path) -> int:
    """Do the job; 0 when it is done or has failed in words."""
    # what libraries print goes to stderr, and what is told to the parent to the stdout that was
    told = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def progress(label: str, done: int, total: int) -> None:
        with contextlib.suppress(OSError):
            told.write(json.dumps([label, done, total]) + "\n")

    job = json.loads((folder / "job.json").read_text())
    try:
        work: Work = load(job["work"], "building an engine")
        document = work(folder, job, progress)
    except (EdgeError, MemoryError) as error:
        document = {"error": describe(error)}
    document["peak_rss_bytes"] = peak_rss_bytes()
    (folder / "done.json").write_text(json.dumps(document, default=_plain))
    return 0


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    # without the end of the interpreter: a driver's own threads may crash in it
    try:
        status = main(Path(sys.argv[1]))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)

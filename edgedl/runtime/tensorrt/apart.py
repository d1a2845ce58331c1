"""Work that may crash or never end, done in a process of its own."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgedl.core import errors
from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.core.memory import available_bytes
from edgedl.core.progress import Progress, silent
from edgedl.core.units import format_bytes
from edgedl.runtime.apart import surroundings

BUILD = "edgedl.runtime.tensorrt.child:build"
OPEN_ONCE = "edgedl.runtime.tensorrt.child:open_once"
BUILD_LIMIT_SECONDS, TRIAL_LIMIT_SECONDS = 3600.0, 300.0
LOOK_SECONDS = 0.1
MOST_SHOWN = 300
MEMORY_WORDS = ("MemoryError", "bad_alloc", "Cannot allocate memory", "out of memory")


@dataclass(frozen=True)
class Task:
    """One piece of work for a child process.

    Attributes:
        what: it in words, for errors.
        work: `module:function` that does it.
        settings: what the function reads, plain values.
        limit_seconds: when it is given up.
    """

    what: str
    work: str
    settings: Mapping[str, Any]
    limit_seconds: float


def done_apart(
    task: Task,
    folder: Path,
    *,
    progress: Progress = silent,
    cancelled: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """The document of a task, done in a child process in a folder that it reads and writes.

    Args:
        cancelled: ends the work as soon as it is set.

    Raises:
        EngineFailed: the process crashed, was killed, took too long, or was cancelled; in words.
        EdgeError: of whatever kind the work itself raised.
    """
    (folder / "job.json").write_text(json.dumps({"work": task.work, **task.settings}))
    command = [sys.executable, "-m", "edgedl.runtime.tensorrt.child", str(folder)]
    with (folder / "said").open("wb") as said:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=surroundings(),
        )
    try:
        _follow(child, task, progress, cancelled, clock)
    finally:
        _end(child)
    return _document(child.returncode, task, folder)


def _follow(
    child: subprocess.Popen[bytes],
    task: Task,
    progress: Progress,
    cancelled: threading.Event | None,
    clock: Callable[[], float],
) -> None:
    """Pass progress on until the child has ended."""
    assert child.stdout is not None
    lines: queue.Queue[bytes | None] = queue.Queue()
    threading.Thread(target=_read, args=(child.stdout, lines), daemon=True).start()
    end = clock() + task.limit_seconds
    while True:
        if cancelled is not None and cancelled.is_set():
            raise EngineFailed(f"{task.what} was cancelled")
        if clock() > end:
            raise EngineFailed(
                f"{task.what} took more than {task.limit_seconds:.0f} s and was ended",
                hint="a lower `optimization_level` builds faster; other programs may use the GPU",
            )
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            # its end of the pipe is closed: it has ended, or ends now
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(end - clock(), LOOK_SECONDS))
            return
        with contextlib.suppress(ValueError):
            label, done, total = json.loads(line)
            progress(label, done, total)


def _read(pipe: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    with contextlib.suppress(OSError, ValueError):
        for line in pipe:
            lines.put(line)
    lines.put(None)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever happened, the process does not outlive the call."""
    if child.poll() is None:
        child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _document(status: int, task: Task, folder: Path) -> dict[str, Any]:
    done = folder / "done.json"
    if status == 0 and done.exists():
        document: dict[str, Any] = json.loads(done.read_text())
        if "error" in document:
            raise _again(document["error"])
        return document
    said = (folder / "said").read_text(errors="replace").strip().splitlines()
    raise _crashed(status, task, said)


def _again(told: Mapping[str, Any]) -> EdgeError:
    kind = getattr(errors, told["kind"])
    error: EdgeError = kind(told["message"], where=told.get("where"), hint=told["hint"])
    return error


def _crashed(status: int, task: Task, said: list[str]) -> EngineFailed:
    last = f": {said[-1][:MOST_SHOWN]}" if said else ""
    memory = available_bytes()
    free = "" if memory is None else f"; {format_bytes(memory)} of memory are free now"
    if status == -signal.SIGKILL:
        return EngineFailed(
            f"{task.what} was killed, as the system does where memory is short{free}",
            hint="close other programs, add swap, or give a smaller `workspace_bytes`",
        )
    if any(word in line for line in said for word in MEMORY_WORDS):
        return EngineFailed(
            f"{task.what} ran out of memory{free}{last}",
            hint="close other programs, add swap, or give a smaller `workspace_bytes`",
        )
    if status < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-status).name
            return EngineFailed(
                f"{task.what} crashed ({name}) in a process of its own{last}",
                hint="`--target cpu` runs the model without it; please report this with the model",
            )
    return EngineFailed(f"{task.what} ended with status {status}{last}")


def tried(
    engine: str,
    plan: bytes,
    running: Mapping[str, Any] | None = None,
    *,
    work: str = OPEN_ONCE,
    cancelled: threading.Event | None = None,
) -> dict[str, Any]:
    """What a plan of unknown origin is, opened and run once where a crash does no harm.

    Args:
        engine: `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineFailed: it cannot be opened here, or crashes; in words.
    """
    settings = {"engine": engine, "running": dict(running or {})}
    task = Task("opening the engine", work, settings, TRIAL_LIMIT_SECONDS)
    with tempfile.TemporaryDirectory(prefix="edgedl-engine-") as name:
        folder = Path(name)
        (folder / "plan").write_bytes(plan)
        return done_apart(task, folder, cancelled=cancelled)

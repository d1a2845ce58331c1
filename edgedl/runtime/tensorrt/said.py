"""What TensorRT says while it works, and what its refusals are in words."""

from __future__ import annotations

import threading
from collections import deque
from functools import cache
from typing import Any

from edgedl.core.errors import EngineFailed

LESS_MEMORY = "close other programs on the GPU, or build for smaller shapes at most"
MOST_KEPT = 50
MOST_SHOWN = 300
# What TensorRT 10.3 to 11.4 say of a plan that they do not take; the first that fits tells.
VERSION = (
    "version of tensorrt",
    "version tag does not match",
    "library version",
    "serializationversion",
    "serialization_version",
    "engine version",
)
GPU = ("incompatible device", "expecting compute", "compute capability", "different platform")
MEMORY = (
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "could not be allocated",
    "could not allocate",
)


class WrongPlan(EngineFailed):
    """The engine is of another version or GPU, or damaged: it has to be built again here."""


class Said:
    """The errors that one TensorRT library has told, the last ones kept.

    A library has one logger in a process: a second one would not be heard.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lines: deque[str] = deque(maxlen=MOST_KEPT)
        self._lock = threading.Lock()

    def add(self, line: str) -> None:
        """Keep one more."""
        with self._lock:
            self.count += 1
            self._lines.append(line)

    def since(self, count: int) -> list[str]:
        """What was told since `count` lines had been."""
        with self._lock:
            new = min(self.count - count, len(self._lines))
            return list(self._lines)[len(self._lines) - new :]


def make_logger(trt: Any) -> tuple[Any, Said]:
    """A logger for a TensorRT library, and what it has heard of errors."""
    said = Said()

    class Heard(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                said.add(msg)

    return Heard(), said


@cache
def logger(trt: Any) -> tuple[Any, Said]:
    """The one logger of a TensorRT library in this process."""
    return make_logger(trt)


def reason(lines: list[str]) -> str:
    """The first thing that was told, on one line."""
    if not lines:
        return "it gave no reason"
    return " ".join(lines[0].split())[:MOST_SHOWN]


def refused(name: str, lines: list[str], *, version: str, gpu: str) -> EngineFailed:
    """Why an engine could not be opened, a WrongPlan unless memory lacked.

    Args:
        name: the engine's, as `tensorrt`.
        lines: what it said.
        version: of the library.
        gpu: this machine's.
    """
    text = " ".join(lines).lower()
    why = reason(lines)
    if any(mark in text for mark in MEMORY):
        return EngineFailed(
            f"the GPU has too little memory to open the engine: {why}",
            hint=LESS_MEMORY,
        )
    if any(mark in text for mark in VERSION):
        return WrongPlan(
            f"the engine was built by another version than this {name} {version}: {why}",
            hint="build it here from the bundle: `edgedl compile BUNDLE`",
        )
    if any(mark in text for mark in GPU):
        return WrongPlan(
            f"the engine was built for another GPU than this {gpu}: {why}",
            hint="build it here from the bundle: `edgedl compile BUNDLE`",
        )
    return WrongPlan(
        f"{name} cannot open the engine; the file is damaged or is none: {why}",
        hint="build it again from the bundle: `edgedl compile BUNDLE`",
    )

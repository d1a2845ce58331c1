"""CUDA's runtime API without a GPU: every handle has a life, and every misuse of one raises.

The functions have the names and answers of `cuda.bindings.runtime`. Work is done when its stream is
waited for, as late as CUDA may do it: what is read before holds poison, and a source that changes
while its copy is under way is found out.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OK, NO_MEMORY, INVALID, CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 0, 2, 1, 900, 901
POISON = 0xCD
NAMES = {
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    3: ("cudaErrorInitializationError", "initialization error"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
    900: ("cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"),
    901: ("cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error"),
}
Work = Callable[[], None]


class Misuse(BaseException):
    """What would be undefined behaviour on a GPU; nothing that catches errors catches it."""


@dataclass
class Piece:
    """One allocation."""

    address: int
    size: int
    on_device: bool
    memory: Any


@dataclass
class Stream:
    queue: list[Work] = field(default_factory=list)
    capturing: list[Work] | None = None
    broken: bool = False


class Properties:
    name = b"Fake Orin\0\0"


class FakeCuda:
    """The functions.

    Args:
        device_bytes: of the GPU's memory.
        driver, runtime: versions, as CUDA numbers them.
        gpus: how many there are.
    """

    cudaMemcpyKind = int
    cudaStreamCaptureMode = int
    cudaDeviceAttr = int

    def __init__(
        self,
        *,
        device_bytes: int = 1 << 30,
        driver: int = 12060,
        runtime: int = 12040,
        gpus: int = 1,
        capability: tuple[int, int] = (8, 7),
    ) -> None:
        self.device_bytes, self.driver, self.runtime, self.gpus = (
            device_bytes,
            driver,
            runtime,
            gpus,
        )
        self.capability = capability
        self.pieces: dict[int, Piece] = {}
        self.streams: dict[int, Stream] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.executables: dict[int, list[Work]] = {}
        self.graveyard: list[Any] = []
        self.calls: list[str] = []
        self.refused: dict[str, int] = {}
        self.fails_at: tuple[int, int] | None = None
        self.number = 0x1000
        self.busy = 0
        self.log: list[str] = []

    # what a test asks

    def leaks(self) -> list[str]:
        kinds = {
            "memory": self.pieces,
            "streams": self.streams,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return [f"{len(found)} {kind}" for kind, found in kinds.items() if found]

    def piece(self, address: int, size: int, *, on_device: bool) -> Piece:
        """The living allocation that these bytes lie in."""
        for one in self.pieces.values():
            if one.address <= address and address + size <= one.address + one.size:
                if one.on_device != on_device:
                    raise Misuse(f"{address:#x} is on the other side")
                return one
        raise Misuse(f"{size} bytes at {address:#x} are freed, out of bounds, or nobody's")

    def bytes_at(self, address: int, size: int, *, on_device: bool) -> np.ndarray:
        self.piece(address, size, on_device=on_device)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def add(self, stream: int, work: Work) -> int:
        """Put work into a stream, or into the graph that it is noted down in; gives a status."""
        if stream not in self.streams:
            raise Misuse(f"stream {stream:#x} is destroyed or nobody's")
        found = self.streams[stream]
        if found.broken:
            return CAPTURE_INVALIDATED
        (found.queue if found.capturing is None else found.capturing).append(work)
        return OK

    # what every call begins with

    def _counted(self, name: str) -> int:
        self.calls.append(name)
        if self.fails_at is not None and len(self.calls) == self.fails_at[0]:
            return self.fails_at[1]
        return self.refused.get(name, OK)

    def _handle(self) -> int:
        self.number += 0x10
        return self.number

    def _captures(self) -> bool:
        return any(stream.capturing is not None for stream in self.streams.values())

    def _not_now(self) -> int:
        """Calls that CUDA refuses, and that spoil the capture, while a stream is noted down."""
        for stream in self.streams.values():
            if stream.capturing is not None:
                stream.broken = True
                return CAPTURE_UNSUPPORTED
        return OK

    # the API

    def cudaGetErrorName(self, status: int) -> tuple[Any, ...]:
        return 0, NAMES[int(status)][0].encode()

    def cudaGetErrorString(self, status: int) -> tuple[Any, ...]:
        return 0, NAMES[int(status)][1].encode()

    def cudaGetLastError(self) -> tuple[Any, ...]:
        return (0,)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return 0, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:
        return 0, self.runtime

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if self.driver < self.runtime // 1000 * 1000:
            return 35, None
        status = self._counted("cudaGetDeviceCount")
        return (status, self.gpus) if self.gpus or status else (100, None)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (self._counted("cudaSetDevice"),)

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:
        known = {75: self.capability[0], 76: self.capability[1], 18: 1}
        return self._counted("cudaDeviceGetAttribute"), known[attribute]

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._counted("cudaGetDeviceProperties"), Properties

    def used(self) -> int:
        return sum(one.size for one in self.pieces.values() if one.on_device)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        status = self._counted("cudaMemGetInfo")
        return status, self.device_bytes - self.used(), self.device_bytes

    def _allocated(self, name: str, size: int, on_device: bool) -> tuple[Any, ...]:
        assert size > 0
        status = self._counted(name) or self._not_now()
        if not status and on_device and self.used() + size > self.device_bytes:
            status = NO_MEMORY
        if status:
            return status, None
        memory = (ctypes.c_uint8 * (size + 256))()
        ctypes.memset(memory, POISON, size + 256)
        address = -(-ctypes.addressof(memory) // 256) * 256
        self.pieces[address] = Piece(address, size, on_device, memory)
        return OK, address

    def _freed(self, name: str, address: int, on_device: bool) -> tuple[Any, ...]:
        status = self._counted(name) or self._not_now()
        if status == CAPTURE_UNSUPPORTED:
            return (status,)
        for stream in self.streams.values() if on_device else ():
            # cudaFree waits for the device
            queue, stream.queue = stream.queue, []
            for work in queue:
                work()
        piece = self.pieces.pop(address, None)
        if piece is None:
            raise Misuse(f"{name} of {address:#x}, which is freed or nobody's")
        if piece.on_device != on_device:
            raise Misuse(f"{name} of memory of the other side")
        if not on_device and any(stream.queue for stream in self.streams.values()):
            raise Misuse(f"{name} while work is under way")
        ctypes.memset(piece.memory, POISON, len(piece.memory))
        self.graveyard.append(piece.memory)
        self.log.append("device memory" if on_device else "pinned memory")
        return (status,)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocated("cudaMalloc", size, True)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._freed("cudaFree", address, True)

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._allocated("cudaMallocHost", size, False)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._freed("cudaFreeHost", address, False)

    def cudaMemcpyAsync(
        self, to: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[Any, ...]:
        status = self._counted("cudaMemcpyAsync")
        if status:
            return (status,)
        into_device = {1: True, 2: False}[kind]
        self.piece(to, size, on_device=into_device)
        self.piece(source, size, on_device=not into_device)
        now = self.bytes_at(source, size, on_device=not into_device).copy()
        captured = self.streams[stream].capturing is not None
        if not into_device and not captured:
            self.bytes_at(to, size, on_device=False)[:] = POISON

        def copy() -> None:
            given = self.bytes_at(source, size, on_device=not into_device)
            if into_device and not captured and not np.array_equal(given, now):
                raise Misuse("an input was written to while it was copied")
            self.bytes_at(to, size, on_device=into_device)[:] = given

        return (self.add(stream, copy),)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamCreateWithFlags")
        if status:
            return status, None
        assert flags == 1
        handle = self._handle()
        self.streams[handle] = Stream()
        return OK, handle

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamDestroy")
        if self.streams.pop(stream, None) is None:
            raise Misuse("a stream was destroyed twice")
        self.log.append("stream")
        return (status,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamSynchronize")
        if stream not in self.streams:
            raise Misuse("a destroyed stream was waited for")
        if self.streams[stream].capturing is not None:
            self.streams[stream].broken = True
            return (CAPTURE_UNSUPPORTED,)
        queue, self.streams[stream].queue = self.streams[stream].queue, []
        for work in queue:
            work()
        return (status,)

    def cudaStreamQuery(self, stream: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamQuery")
        if status:
            return (status,)
        if self.busy > 0 and self.streams[stream].queue:
            self.busy -= 1
            return (600,)
        queue, self.streams[stream].queue = self.streams[stream].queue, []
        for work in queue:
            work()
        return (OK,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamBeginCapture")
        if status:
            return (status,)
        found = self.streams[stream]
        if found.queue:
            raise Misuse("work under way would be missing in the graph")
        found.capturing = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        status = self._counted("cudaStreamEndCapture")
        found = self.streams[stream]
        work, found.capturing = found.capturing, None
        broken, found.broken = found.broken, False
        if work is None:
            return INVALID, None
        if broken or status:
            return status or CAPTURE_INVALIDATED, None
        handle = self._handle()
        self.graphs[handle] = work
        return OK, handle

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[Any, ...]:
        status = self._counted("cudaGraphInstantiateWithFlags")
        if graph not in self.graphs:
            raise Misuse("a destroyed graph was instantiated")
        if status:
            return status, None
        handle = self._handle()
        self.executables[handle] = list(self.graphs[graph])
        return OK, handle

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        status = self._counted("cudaGraphLaunch")
        if executable not in self.executables:
            raise Misuse("a destroyed graph was launched")
        for work in () if status else self.executables[executable]:
            status = self.add(stream, work)
        return (status,)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        status = self._counted("cudaGraphDestroy")
        if self.graphs.pop(graph, None) is None:
            raise Misuse("a graph was destroyed twice")
        return (status,)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        status = self._counted("cudaGraphExecDestroy")
        if self.executables.pop(executable, None) is None:
            raise Misuse("a graph was destroyed twice")
        self.log.append("graph")
        return (status,)

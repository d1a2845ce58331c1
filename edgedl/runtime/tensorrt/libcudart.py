"""CUDA's runtime library through ctypes, where `cuda-python` is not installed, as in Jetson images.

Every function gives a tuple, its status first, as those of `cuda.bindings.runtime` do (CUDA Runtime
API reference), so that one class serves both.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from ctypes import (
    byref,
    c_char_p,
    c_int,
    c_size_t,
    c_uint,
    c_ulonglong,
    c_void_p,
    create_string_buffer,
)
from pathlib import Path
from typing import Any

MAJORS = ("13", "12", "11.0", "11")
FOLDERS = (
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/targets/aarch64-linux/lib",
    "/usr/local/cuda/targets/x86_64-linux/lib",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
)
# The structure differs between versions of CUDA; in all of them the name comes first.
PROPERTIES_BYTES, NAME_BYTES = 1 << 14, 256


class Properties:
    """Of `cudaDeviceProp` what is the same in every version.

    Attributes:
        name: the device's, as bytes.
    """

    def __init__(self, name: bytes) -> None:
        self.name = name


class Libcudart:
    """The functions of one shared library."""

    cudaMemcpyKind = int  # noqa: N815
    cudaStreamCaptureMode = int  # noqa: N815
    cudaDeviceAttr = int  # noqa: N815

    def __init__(self, library: Any) -> None:
        self._library = library
        self._library.cudaGetErrorName.restype = c_char_p
        self._library.cudaGetErrorString.restype = c_char_p

    def _made(self, name: str, kind: Callable[[], Any], *arguments: Any) -> tuple[Any, ...]:
        """A call that writes one value through its first argument."""
        found = kind()
        status = getattr(self._library, name)(byref(found), *arguments)
        return status, found.value or 0

    def _done(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        return (getattr(self._library, name)(*arguments),)

    def cudaGetErrorName(self, status: int) -> tuple[Any, ...]:  # noqa: N802
        return 0, self._library.cudaGetErrorName(c_int(status))

    def cudaGetErrorString(self, status: int) -> tuple[Any, ...]:  # noqa: N802
        return 0, self._library.cudaGetErrorString(c_int(status))

    def cudaGetLastError(self) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaGetLastError")

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaDriverGetVersion", c_int)

    def cudaRuntimeGetVersion(self) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaRuntimeGetVersion", c_int)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaGetDeviceCount", c_int)

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaSetDevice", c_int(device))

    def cudaDeviceGetAttribute(self, attribute: int, device: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaDeviceGetAttribute", c_int, c_int(attribute), c_int(device))

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:  # noqa: N802
        buffer = create_string_buffer(PROPERTIES_BYTES)
        # CUDA 12 keeps the shorter structure of CUDA 11 under the plain name
        for name in ("cudaGetDeviceProperties_v2", "cudaGetDeviceProperties"):
            function = getattr(self._library, name, None)
            if function is not None:
                status = function(buffer, c_int(device))
                return status, Properties(buffer.raw[:NAME_BYTES].split(b"\0")[0])
        raise AttributeError("cudaGetDeviceProperties")

    def cudaMemGetInfo(self) -> tuple[Any, ...]:  # noqa: N802
        free, total = c_size_t(), c_size_t()
        status = self._library.cudaMemGetInfo(byref(free), byref(total))
        return status, free.value, total.value

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaMalloc", c_void_p, c_size_t(size))

    def cudaFree(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaFree", c_void_p(address))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaMallocHost", c_void_p, c_size_t(size))

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaFreeHost", c_void_p(address))

    def cudaMemcpyAsync(  # noqa: N802
        self, to: int, source: int, size: int, kind: int, stream: int
    ) -> tuple[Any, ...]:
        where = c_void_p(to), c_void_p(source)
        return self._done("cudaMemcpyAsync", *where, c_size_t(size), c_int(kind), c_void_p(stream))

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:  # noqa: N802
        return self._made("cudaStreamCreateWithFlags", c_void_p, c_uint(flags))

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaStreamDestroy", c_void_p(stream))

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaStreamSynchronize", c_void_p(stream))

    def cudaStreamQuery(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaStreamQuery", c_void_p(stream))

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaStreamBeginCapture", c_void_p(stream), c_int(mode))

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:  # noqa: N802
        graph = c_void_p()
        status = self._library.cudaStreamEndCapture(c_void_p(stream), byref(graph))
        return status, graph.value or 0

    def cudaGraphInstantiateWithFlags(self, graph: int, flags: int) -> tuple[Any, ...]:  # noqa: N802
        name = "cudaGraphInstantiateWithFlags"
        return self._made(name, c_void_p, c_void_p(graph), c_ulonglong(flags))

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaGraphLaunch", c_void_p(graph), c_void_p(stream))

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaGraphDestroy", c_void_p(graph))

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:  # noqa: N802
        return self._done("cudaGraphExecDestroy", c_void_p(graph))


def places() -> Iterator[str]:
    """Where the library may lie: by name, in the system's folders, in packages of the registry."""
    names = [f"libcudart.so.{major}" for major in MAJORS]
    yield from names
    packages = [Path(path) / "nvidia" for path in sys.path if path]
    folders = [
        *map(Path, FOLDERS),
        *(package / "cu13" / "lib" for package in packages),
        *(package / "cuda_runtime" / "lib" for package in packages),
    ]
    for name in names:
        for folder in folders:
            if (folder / name).exists():
                yield str(folder / name)


def libraries(load: Callable[[str], Any] = ctypes.CDLL) -> Iterator[Libcudart]:
    """Every runtime library that can be loaded here, the newest first."""
    for place in places():
        try:
            yield Libcudart(load(place))
        except (OSError, AttributeError):
            continue

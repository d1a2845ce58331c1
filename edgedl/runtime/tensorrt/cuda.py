"""What the runtime needs of CUDA, by `cuda-python` or by the runtime library itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.core.units import format_bytes
from edgedl.runtime.tensorrt.libcudart import libraries

TO_DEVICE, TO_HOST = 1, 2
THREAD_LOCAL = 1
NON_BLOCKING = 1
MAJOR, MINOR, INTEGRATED = 75, 76, 18
NO_MEMORY, NOT_INITIALISED, DRIVER_TOO_OLD, NO_DEVICE = 2, 3, 35, 100
NOT_READY = 600
NO_DRIVER = Unsupported(
    "there is no NVIDIA driver on this machine",
    hint="install the driver, or in a container start it with `--gpus all`; "
    "`--target cpu` needs none",
)


@dataclass(frozen=True)
class Device:
    """One GPU.

    Attributes:
        capability: its compute capability, as (8, 7) of a Jetson Orin.
        integrated: it shares the system's memory, as a Jetson's does.
    """

    index: int
    name: str
    capability: tuple[int, int]
    integrated: bool


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU's memory: free, and in all."""

    free: int
    total: int


class Cuda(Protocol):
    """Streams, memory, copies, events and graphs, by handles that are plain integers.

    Every call may raise EngineFailed, and those that ask for a device Unsupported.
    """

    def driver_version(self) -> int:
        """The newest CUDA that the driver serves, as 13000 of 13.0; 0 without a driver."""

    def runtime_version(self) -> int:
        """The CUDA that this library is of, as 13000 of 13.0."""

    def device_count(self) -> int:
        """GPUs; never 0.

        Raises:
            Unsupported: there is no driver, no GPU, or the driver is too old.
        """

    def device(self, index: int) -> Device:
        """One of them."""

    def set_device(self, index: int) -> None:
        """Let this thread's further calls be about that GPU."""

    def memory(self) -> Memory:
        """Of this thread's GPU."""

    def stream(self) -> int:
        """A new stream, which does not wait for the default one."""

    def destroy_stream(self, stream: int) -> None: ...

    def synchronize(self, stream: int) -> None:
        """Wait until everything in the stream is done."""

    def done(self, stream: int) -> bool:
        """Whether everything in the stream is done, without waiting."""

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU.

        Raises:
            EngineFailed: there is too little memory; the message says how much is free.
        """

    def free(self, address: int) -> None: ...

    def allocate_host(self, size: int) -> int:
        """The address of `size` bytes of the system's memory that are pinned: copies to and from
        the GPU run beside everything else."""

    def free_host(self, address: int) -> None: ...

    def to_device(self, address: int, source: int, size: int, stream: int) -> None:
        """Copy from the system's memory, in turn with the stream's other work."""

    def to_host(self, address: int, source: int, size: int, stream: int) -> None:
        """Copy to the system's memory, in turn with the stream's other work."""

    def begin_capture(self, stream: int) -> None:
        """From now on, note the stream's work down instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """What was noted down, as a graph."""

    def instantiate(self, graph: int) -> int:
        """The graph in a form that can be launched."""

    def destroy_graph(self, graph: int) -> None: ...

    def launch(self, executable: int, stream: int) -> None:
        """Do a whole graph's work in the stream."""

    def destroy_executable(self, executable: int) -> None: ...


class CudaRuntime:
    """CUDA's runtime API, version 11.4 to 13.

    Args:
        api: functions of that API by their own names, whose answers are tuples with the status
            first: `cuda.bindings.runtime`, `cuda.cudart`, or `Libcudart`.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self._to_device = api.cudaMemcpyKind(TO_DEVICE)
        self._to_host = api.cudaMemcpyKind(TO_HOST)
        # the two calls of every run, found once
        self._synchronize = api.cudaStreamSynchronize
        self._launch = api.cudaGraphLaunch
        self._capture_mode = api.cudaStreamCaptureMode(THREAD_LOCAL)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *values = getattr(self._api, name)(*arguments)
        if int(status):
            raise self._failed(name, status, arguments)
        return values[0] if len(values) == 1 else values

    def _failed(self, name: str, status: Any, arguments: tuple[Any, ...]) -> EdgeError:
        """The error that a status is, in words; the thread's last error is forgotten."""
        self._api.cudaGetLastError()
        number = int(status)
        if number in (DRIVER_TOO_OLD, NO_DEVICE):
            return self._no_device(number)
        if number == NO_MEMORY and name in ("cudaMalloc", "cudaMallocHost"):
            return self._no_memory(name, arguments[0])
        said = self._api.cudaGetErrorName(status)[1], self._api.cudaGetErrorString(status)[1]
        words = [
            text.decode(errors="replace") if isinstance(text, bytes) else text for text in said
        ]
        hint = None
        if number == NOT_INITIALISED:
            hint = "a process that was forked cannot use its parent's CUDA: start it with `spawn`"
        return EngineFailed(f"CUDA failed in `{name}`: {words[1]} ({words[0]})", hint=hint)

    def _no_device(self, number: int) -> EdgeError:
        driver, runtime = self.driver_version(), self.runtime_version()
        if not driver:
            return Unsupported(NO_DRIVER.message, hint=NO_DRIVER.hint)
        if number == DRIVER_TOO_OLD:
            return Unsupported(
                f"the NVIDIA driver is too old: it serves CUDA {version_text(driver)}, and this "
                f"is CUDA {version_text(runtime)}",
                hint="install a newer driver, or TensorRT and `cuda-python` of the driver's CUDA",
            )
        return Unsupported(
            "CUDA finds no NVIDIA GPU",
            hint="`nvidia-smi` lists them; CUDA_VISIBLE_DEVICES may hide them",
        )

    def _no_memory(self, name: str, size: int) -> EngineFailed:
        asked = format_bytes(size)
        if name == "cudaMallocHost":
            return EngineFailed(
                f"there is too little memory to pin: {asked} were asked for",
                hint="close other programs, or build for smaller shapes at most",
            )
        status, *found = self._api.cudaMemGetInfo()
        known = (
            ""
            if int(status)
            else f", {format_bytes(found[0])} of {format_bytes(found[1])} are free"
        )
        return EngineFailed(
            f"the GPU has too little memory: {asked} were asked for{known}",
            hint="close other programs on the GPU, or build for smaller shapes at most",
        )

    def driver_version(self) -> int:
        return int(self._call("cudaDriverGetVersion"))

    def runtime_version(self) -> int:
        return int(self._call("cudaRuntimeGetVersion"))

    def device_count(self) -> int:
        count = int(self._call("cudaGetDeviceCount"))
        if not count:
            raise self._no_device(NO_DEVICE)
        return count

    def device(self, index: int) -> Device:
        def attribute(number: int) -> int:
            return int(
                self._call("cudaDeviceGetAttribute", self._api.cudaDeviceAttr(number), index)
            )

        name = self._call("cudaGetDeviceProperties", index).name
        text = name.decode(errors="replace") if isinstance(name, bytes) else str(name)
        capability = attribute(MAJOR), attribute(MINOR)
        return Device(index, text.rstrip("\0"), capability, bool(attribute(INTEGRATED)))

    def set_device(self, index: int) -> None:
        self._call("cudaSetDevice", index)

    def memory(self) -> Memory:
        free, total = self._call("cudaMemGetInfo")
        return Memory(int(free), int(total))

    def stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", NON_BLOCKING))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        (status,) = self._synchronize(stream)
        if int(status):
            raise self._failed("cudaStreamSynchronize", status, (stream,))

    def done(self, stream: int) -> bool:
        (status,) = self._api.cudaStreamQuery(stream)
        if int(status) == NOT_READY:
            return False
        if int(status):
            raise self._failed("cudaStreamQuery", status, (stream,))
        return True

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_host(self, size: int) -> int:
        return int(self._call("cudaMallocHost", size))

    def free_host(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def to_device(self, address: int, source: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", address, source, size, self._to_device, stream)

    def to_host(self, address: int, source: int, size: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", address, source, size, self._to_host, stream)

    def begin_capture(self, stream: int) -> None:
        self._call("cudaStreamBeginCapture", stream, self._capture_mode)

    def end_capture(self, stream: int) -> int:
        return int(self._call("cudaStreamEndCapture", stream))

    def instantiate(self, graph: int) -> int:
        return int(self._call("cudaGraphInstantiateWithFlags", graph, 0))

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphDestroy", graph)

    def launch(self, executable: int, stream: int) -> None:
        (status,) = self._launch(executable, stream)
        if int(status):
            raise self._failed("cudaGraphLaunch", status, (executable, stream))

    def destroy_executable(self, executable: int) -> None:
        self._call("cudaGraphExecDestroy", executable)


def version_text(version: int) -> str:
    """CUDA's number of a version as people write it: 12060 is `12.6`."""
    return f"{version // 1000}.{version % 1000 // 10}"


def _packages() -> Iterator[Any]:
    """`cuda-python`, newer or older, where it is installed and can be loaded."""
    try:
        from cuda.bindings import runtime

        yield runtime
    except (ImportError, OSError, RuntimeError):
        pass
    try:
        from cuda import cudart

        yield cudart
    except (ImportError, OSError, RuntimeError):
        pass


def interfaces() -> Iterator[Any]:
    """Every way to CUDA's runtime that there is here, `cuda-python` first."""
    yield from _packages()
    yield from libraries()


def find_cuda(apis: Callable[[], Iterable[Any]] = interfaces) -> Cuda:
    """The first binding that finds a GPU.

    Raises:
        Unsupported: there is no driver, no GPU, or the driver is too old, in the words of the
            first binding. Missing from this machine altogether is CUDA's runtime library.
    """
    first: EdgeError | None = None
    for api in apis():
        try:
            found = CudaRuntime(api)
            found.device_count()
        except EdgeError as error:
            first = first or error
        except AttributeError:
            continue
        else:
            return found
    raise first or Unsupported(
        "CUDA's runtime library is not on this machine",
        hint="pip install cuda-python; a Jetson's image has `libcudart.so` in `/usr/local/cuda`",
    )


@cache
def cuda() -> Cuda:
    """This process's binding, looked for once.

    Raises:
        Unsupported: as `find_cuda`.
    """
    return find_cuda()

"""An opened engine: its contexts, which share one piece of the GPU's memory, and their shapes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.core.store import atomic_write
from edgedl.runtime.tensorrt.cuda import Cuda
from edgedl.runtime.tensorrt.memory import Block
from edgedl.runtime.tensorrt.profiles import Port, Profile, chosen, ports_of, profiles_of
from edgedl.runtime.tensorrt.said import LESS_MEMORY, logger, reason, refused


@dataclass(frozen=True)
class Running:
    """How an engine is run, which its answers do not depend on.

    Attributes:
        device: the GPU's number.
        graphs: shapes whose work is kept as a CUDA graph at most; 0 launches every kernel by
            itself.
        host_code: the plan brings the code of its own version along, and is trusted to run it.
        dla_core: the deep-learning accelerator that the plan was built for.
        streamed_bytes: bytes of weights that stay on the GPU, of a plan built for streaming them;
            TensorRT's own choice where None.
        cache: a file of kernels that TensorRT-RTX made ready here, read when the engine is opened
            and written when it is closed.
        profiled: layers are timed, and no graph is kept.
    """

    device: int = 0
    graphs: int = 8
    host_code: bool = False
    dla_core: int | None = None
    streamed_bytes: int | None = None
    cache: Path | None = None
    profiled: bool = False


class Opened:
    """A plan that was opened: `ports`, `profiles`, and contexts for them.

    Args:
        trt: the library's module, `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineFailed: another version, another GPU, damage, or too little memory; in words.
    """

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes, running: Running) -> None:
        self._trt, self._cuda, self._running = trt, cuda, running
        self._log, self._said = logger(trt)
        self._scratch = Block(cuda)
        self._config: Any = None
        self._cache: Any = None
        self.runtime: Any = None
        self.engine: Any = None
        try:
            self._open(plan)
        except BaseException:
            self.close()
            raise

    def _open(self, plan: bytes) -> None:
        heard = self._said.count
        try:
            self.runtime = self._trt.Runtime(self._log)
        except TypeError as error:
            lines = self._said.since(heard) or [str(error)]
            raise EngineFailed(
                f"{self._name} does not start on this GPU: {reason(lines)}",
                hint="`edgedl doctor` shows the driver's version and the GPU",
            ) from None
        if self._running.dla_core is not None:
            self.runtime.DLA_core = self._running.dla_core
        if self._running.host_code:
            self.runtime.engine_host_code_allowed = True
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            gpu = self._cuda.device(self._running.device)
            raise refused(
                self._trt.__name__,
                self._said.since(heard),
                version=self._trt.__version__,
                gpu=f"{gpu.name}, compute capability {gpu.capability[0]}.{gpu.capability[1]}",
            )
        if self.engine.streamable_weights_size and hasattr(
            self.engine, "weight_streaming_budget_v2"
        ):
            given = self._running.streamed_bytes
            self.engine.weight_streaming_budget_v2 = (
                self.engine.get_weight_streaming_automatic_budget() if given is None else given
            )
        self.ports = ports_of(self._trt, self.engine)
        self.profiles = profiles_of(self.engine, self.ports)
        self._scratch.grow(int(self.engine.device_memory_size_v2))
        self._configure()

    @property
    def _name(self) -> str:
        return f"{self._trt.__name__} {self._trt.__version__}"

    def _configure(self) -> None:
        """On TensorRT-RTX, take the kernels along that were made ready here before."""
        if not hasattr(self.engine, "create_runtime_config"):
            return
        config = self.engine.create_runtime_config()
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        config.set_execution_context_allocation_strategy(strategy)
        if hasattr(config, "create_runtime_cache"):
            self._cache = config.create_runtime_cache()
            path = self._running.cache
            if path is not None and path.is_file():
                with contextlib.suppress(OSError):
                    self._cache.deserialize(path.read_bytes())
            config.set_runtime_cache(self._cache)
        self._config = config

    def context(self, profile: Profile, stream: int) -> Any:
        """A new context for a profile's shapes; only one of all may run at a time.

        Raises:
            EngineFailed: TensorRT refuses one, for too little memory as a rule.
        """
        heard = self._said.count
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        how = managed if self._config is None else self._config
        context = self.engine.create_execution_context(how)
        if context is None:
            raise self.failed("make a context", heard)
        context.set_device_memory(self._scratch.address, self._scratch.size)
        if len(self.profiles) > 1 and not context.set_optimization_profile_async(
            profile.index, stream
        ):
            raise self.failed(f"choose profile {profile.index}", heard)
        return context

    def heard(self) -> int:
        """A mark in what TensorRT has said so far, for `failed`."""
        return self._said.count

    def failed(self, what: str, heard: int) -> EngineFailed:
        """The error for something that TensorRT could not do, with what it said since a mark."""
        lines = self._said.since(heard)
        if "memory" in " ".join(lines).lower():
            memory = self._cuda.memory()
            return EngineFailed(
                f"the GPU has too little memory, {memory.free / 1e6:.0f} of "
                f"{memory.total / 1e6:.0f} MB are free: {reason(lines)}",
                hint=LESS_MEMORY,
            )
        return EngineFailed(f"{self._name} could not {what}: {reason(lines)}")

    def choose(self, arrays: Mapping[str, np.ndarray]) -> Profile:
        """The profile that these inputs run in.

        Raises:
            WrongInput: none was built for their shapes.
        """
        return chosen(self.profiles, arrays)

    def largest(self, port: Port) -> int:
        """Bytes that an input or output takes at most; 0 where only its inputs' shapes tell."""
        spans = [profile.shapes[port.name] for profile in self.profiles if port.is_input]
        shapes = [span.most for span in spans]
        if not port.is_input and None not in port.shape:
            shapes = [tuple(size for size in port.shape if size is not None)]
        return max((math.prod(shape) * port.dtype.itemsize for shape in shapes), default=0)

    def close(self) -> None:
        """Give the engine, the library's runtime and the shared memory back, in this order."""
        self._keep_cache()
        self._config = None
        self._cache = None
        self.engine = None
        self.runtime = None
        self._scratch.free()

    def _keep_cache(self) -> None:
        path, cache = self._running.cache, self._cache
        if path is None or cache is None or self.engine is None:
            return
        # what was not kept is made again; that the engine closes is worth more
        with contextlib.suppress(Exception), atomic_write(path) as place:
            place.write_bytes(bytes(cache.serialize()))


class Grown:
    """Takes outputs whose size only running tells (`IOutputAllocator`), into buffers of ours."""

    def __init__(self, trt: Any, buffers: Mapping[str, Block]) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._error: EdgeError | None = None
        grown = self

        def room(name: str, size: int) -> int:
            try:
                buffers[name].grow(size)
            except EdgeError as error:
                # an exception may not pass through TensorRT, which takes 0 for a refusal
                grown._error = error.with_traceback(None)
                return 0
            return buffers[name].address

        class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IOutputAllocator.__init__(self)

            def reallocate_output(
                self, tensor_name: str, memory: int, size: int, alignment: int
            ) -> int:
                return room(tensor_name, size)

            def reallocate_output_async(
                self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
            ) -> int:
                return room(tensor_name, size)

            def notify_shape(self, tensor_name: str, shape: Any) -> None:
                grown.shapes[tensor_name] = tuple(int(size) for size in shape)

        self.allocator = Allocator()

    def reason(self, refused: EdgeError) -> EdgeError:
        """Why there was no memory, where that is what failed; else what TensorRT refused."""
        found, self._error = self._error, None
        return refused if found is None else found

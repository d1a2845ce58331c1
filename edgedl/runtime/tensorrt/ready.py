"""What is made ready once for inputs of certain shapes, and then only launched."""

from __future__ import annotations

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.runtime.tensorrt.contexts import Grown, Opened, Running
from edgedl.runtime.tensorrt.cuda import Cuda
from edgedl.runtime.tensorrt.memory import Block, Buffer
from edgedl.runtime.tensorrt.profiles import Port, Profile

Shapes = tuple[tuple[int, ...], ...]
Copy = tuple[int, int, int]
# Shapes of which it is remembered where everything lies, those whose graphs are kept among them.
MOST_SHAPES = 32
# Runs of a shape whose graph had to go before it is worth another one.
RUNS_AGAIN = 8
# How often a call with a deadline looks whether its work is done.
LOOK_SECONDS = 50e-6


@dataclass(eq=False)
class Bound:
    """Everything that is ready for inputs of certain shapes.

    Attributes:
        inputs: by name, the array in pinned memory that is copied from.
        outputs: by name, the array in pinned memory that is copied to.
        to_device: of each copy the address on the GPU, the one in pinned memory, and bytes.
        to_host: the same of what is copied back.
        runs: how often it was run.
        executable: the CUDA graph of all of it.
        own: the context that the graph was made in; nothing else may touch it while it lives.
        sized: every output's size is known before it is run.
    """

    profile: Profile
    shapes: Shapes
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    to_device: list[Copy]
    to_host: list[Copy]
    runs: int = 0
    executable: int = 0
    own: Any = None
    sized: bool = True


@dataclass(eq=False)
class _Set:
    """A context, the shapes that it is set to, and what takes its outputs of unknown size."""

    context: Any
    shapes: Shapes | None = None
    grown: Grown | None = None


class Ready:
    """Buffers, contexts and graphs of one engine on one stream.

    The second run of a shape is noted down as a CUDA graph, copies and all. A graph is made in a
    context of its own where shapes change: one that is set to other shapes would spoil it
    (TensorRT developer guide, CUDA graphs).

    Attributes:
        cuda: the binding.
        stream: where all of it runs, and nothing else.
        note: why there is no CUDA graph, where there is none.
    """

    def __init__(self, trt: Any, cuda: Cuda, opened: Opened, running: Running, stream: int) -> None:
        self._trt, self._opened = trt, opened
        self.cuda, self.stream = cuda, stream
        self._running = running
        self._in = [port for port in opened.ports if port.is_input]
        self._out = [port for port in opened.ports if not port.is_input]
        self._buffers: dict[str, Buffer] = {}
        self._sets: dict[int, _Set] = {}
        self._bounds: OrderedDict[Shapes, Bound] = OrderedDict()
        # sizes that an input holds as values are read as kernels are launched: no graph has them
        self.by_value = any(port.on_host for port in self._in)
        self._changing = any(None in port.shape for port in self._in)
        self._under_way = False
        self.note: str | None = None
        if not running.graphs or running.profiled:
            self.note = "no CUDA graph: it was not asked for"
        elif self.by_value:
            self.note = "no CUDA graph: shapes depend on an input's values"

    def allocate(self) -> None:
        """Take the memory that is known to be needed.

        Raises:
            EngineFailed: there is too little.
        """
        for port in self._opened.ports:
            buffer = self._buffers[port.name] = Buffer(self.cuda, on_host=port.on_host)
            buffer.grow(self._opened.largest(port))

    def found(self, inputs: Mapping[str, np.ndarray]) -> Bound:
        """What is ready for these shapes, made so where it is not.

        Raises:
            WrongInput: no profile takes them. EngineFailed: TensorRT does not, or for want of
                memory.
        """
        shapes = tuple(inputs[port.name].shape for port in self._in)
        bound = None if self.by_value else self._bounds.get(shapes)
        if bound is not None:
            if self._changing:
                self._bounds.move_to_end(shapes)
            return bound
        while len(self._bounds) >= MOST_SHAPES:
            self._drop(self._bounds.popitem(last=False)[1])
        bound = self._bind(inputs, shapes)
        if not self.by_value:
            self._bounds[shapes] = bound
        return bound

    def run(self, bound: Bound, late: Callable[[], bool] | None = None) -> None:
        """Answer what lies in the bound's inputs, into its outputs; when it returns, all is done.

        Args:
            late: whether it is too late for the answer.

        Raises:
            EngineFailed: the engine or CUDA failed. TimeoutError: it is late; `settle` before
                anything else.
        """
        if bound.executable or self._captured(bound):
            self.cuda.launch(bound.executable, self.stream)
            self._wait(late)
        else:
            kept = self._set(bound.profile, bound.shapes)
            self._run_plainly(bound, kept, late)
        bound.runs += 1

    def launch(self, bound: Bound) -> None:
        """`run` of a bound that has a graph."""
        self.cuda.launch(bound.executable, self.stream)
        self.cuda.synchronize(self.stream)
        bound.runs += 1

    def settle(self) -> None:
        """Wait for the work of a call that was late."""
        if self._under_way:
            self.cuda.synchronize(self.stream)
            self._under_way = False

    def _wait(self, late: Callable[[], bool] | None) -> None:
        if late is None:
            self.cuda.synchronize(self.stream)
            return
        while not self.cuda.done(self.stream):
            if late():
                self._under_way = True
                raise TimeoutError
            time.sleep(LOOK_SECONDS)

    def context(self, bound: Bound) -> Any:
        """The context that runs a bound without a graph, set to its shapes."""
        return self._set(bound.profile, bound.shapes).context

    def _bind(self, inputs: Mapping[str, np.ndarray], shapes: Shapes) -> Bound:
        profile = self._opened.choose(inputs)
        given = {port.name: shape for port, shape in zip(self._in, shapes, strict=True)}
        for port in self._in:
            self._make_room(port, given[port.name])
            if port.on_host:
                np.copyto(self._view(port, given[port.name]), inputs[port.name])
        context = self._set(profile, shapes).context
        made: dict[str, tuple[int, ...]] = {}
        for port in self._out:
            shape = tuple(int(size) for size in context.get_tensor_shape(port.name))
            if min(shape, default=0) < 0:
                self.note = f"no CUDA graph: only running tells the size of `{port.name}`"
            else:
                made[port.name] = shape
        arrays = {
            port.name: self._view(port, (given | made)[port.name])
            for port in self._opened.ports
            if port.name in given or port.name in made
        }
        return Bound(
            profile,
            shapes,
            {name: arrays[name] for name in given},
            {name: arrays[name] for name in made},
            list(self._copies(self._in, arrays)),
            list(self._copies(self._out, arrays)),
            sized=len(made) == len(self._out),
        )

    def _copies(self, ports: list[Port], arrays: Mapping[str, np.ndarray]) -> Iterator[Copy]:
        for port in ports:
            array = arrays.get(port.name)
            if array is not None and array.nbytes and not port.on_host:
                buffer = self._buffers[port.name]
                yield buffer.device.address, buffer.host_address, array.nbytes

    def _view(self, port: Port, shape: tuple[int, ...]) -> np.ndarray:
        return self._buffers[port.name].view(port.dtype, shape)

    def _make_room(self, port: Port, shape: tuple[int, ...]) -> None:
        """Room for a tensor of this shape; where that moves it, nothing that was ready still is."""
        size = int(np.prod(shape, dtype=np.int64)) * port.dtype.itemsize
        if self._buffers[port.name].has(size):
            return
        self._forget()
        self._buffers[port.name].grow(size)

    def _forget(self) -> None:
        while self._bounds:
            self._drop(self._bounds.popitem()[1])
        for kept in self._sets.values():
            kept.shapes = None

    def _drop(self, bound: Bound) -> None:
        executable, bound.executable = bound.executable, 0
        bound.runs = -RUNS_AGAIN
        try:
            if executable:
                self.cuda.destroy_executable(executable)
        finally:
            bound.own = None

    def _set(self, profile: Profile, shapes: Shapes) -> _Set:
        """The profile's context, set to these shapes and to where everything lies now."""
        kept = self._sets.get(profile.index)
        if kept is None:
            kept = _Set(self._opened.context(profile, self.stream))
            self._sets[profile.index] = kept
            if self._changing and not self.by_value:
                # room for the largest outputs now, lest graphs go when they come
                self._point(kept, tuple(profile.shapes[port.name].most for port in self._in))
        if kept.shapes != shapes or self.by_value:
            kept.shapes = None
            self._point(kept, shapes)
            kept.shapes = shapes
        return kept

    def _point(self, kept: _Set, shapes: Shapes) -> None:
        opened, context = self._opened, kept.context
        heard = opened.heard()
        for port, shape in zip(self._in, shapes, strict=True):
            if not context.set_input_shape(port.name, shape):
                raise opened.failed(f"take shape {shape} for `{port.name}`", heard)
            self._address(context, port, heard)
        unknown = context.infer_shapes()
        if unknown:
            raise opened.failed(f"tell the shapes behind `{unknown[0]}`", heard)
        for port in self._out:
            shape = tuple(int(size) for size in context.get_tensor_shape(port.name))
            if min(shape, default=0) < 0:
                self._let_grow(kept, port, heard)
            else:
                self._make_room(port, shape)
                self._address(context, port, heard)

    def _address(self, context: Any, port: Port, heard: int) -> None:
        if not context.set_tensor_address(port.name, self._buffers[port.name].address):
            raise self._opened.failed(f"take the memory of `{port.name}`", heard)

    def _let_grow(self, kept: _Set, port: Port, heard: int) -> None:
        if kept.grown is None:
            blocks: dict[str, Block] = {name: b.device for name, b in self._buffers.items()}
            kept.grown = Grown(self._trt, blocks)
        if not kept.context.set_output_allocator(port.name, kept.grown.allocator):
            raise self._opened.failed(f"let `{port.name}` grow", heard)

    def _enqueue(self, bound: Bound, kept: _Set) -> None:
        heard = self._opened.heard()
        for device, host, size in bound.to_device:
            self.cuda.to_device(device, host, size, self.stream)
        if not kept.context.execute_async_v3(self.stream):
            raise self._why(kept, heard)
        for device, host, size in bound.to_host:
            self.cuda.to_host(host, device, size, self.stream)

    def _why(self, kept: _Set, heard: int) -> EdgeError:
        refused = self._opened.failed("run the engine", heard)
        return refused if kept.grown is None else kept.grown.reason(refused)

    def _run_plainly(
        self, bound: Bound, kept: _Set, late: Callable[[], bool] | None = None
    ) -> None:
        try:
            self._enqueue(bound, kept)
        except BaseException:
            # what is under way reads and writes our memory all the same
            with contextlib.suppress(EngineFailed):
                self.cuda.synchronize(self.stream)
            raise
        self._wait(late)
        if kept.grown is not None:
            self._fetch(bound, kept.grown)

    def _fetch(self, bound: Bound, grown: Grown) -> None:
        """Copy the outputs whose size only the run has told."""
        for port in self._out:
            shape = grown.shapes.get(port.name)
            if shape is None:
                continue
            buffer = self._buffers[port.name]
            buffer.grow_host(int(np.prod(shape, dtype=np.int64)) * port.dtype.itemsize)
            array = bound.outputs[port.name] = self._view(port, shape)
            if array.nbytes:
                address = buffer.device.address
                self.cuda.to_host(buffer.host_address, address, array.nbytes, self.stream)
        self.cuda.synchronize(self.stream)
        bound.outputs = {port.name: bound.outputs[port.name] for port in self._out}

    def _captured(self, bound: Bound) -> bool:
        """Whether the work for these shapes is a graph now, as it becomes at their second run."""
        if self.note is not None or bound.runs < 1:
            return False
        graphs = [one for one in self._bounds.values() if one.executable]
        if len(graphs) >= self._running.graphs:
            self._drop(graphs[0])
        try:
            self._capture(bound)
        except EngineFailed as error:
            with contextlib.suppress(EngineFailed):
                self._drop(bound)
            self.note = f"no CUDA graph: {error.message}"
            return False
        return True

    def _capture(self, bound: Bound) -> None:
        kept = self._set(bound.profile, bound.shapes)
        if self._changing:
            kept = _Set(self._opened.context(bound.profile, self.stream))
            bound.own = kept.context
            self._point(kept, bound.shapes)
            # what TensorRT puts off until a context's first run must not be in the graph
            self._run_plainly(bound, kept)
        context = kept.context
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(
            self.stream
        ):
            raise EngineFailed("the engine's kernels cannot be noted down")
        graph = self._noted(bound, kept)
        try:
            bound.executable = self.cuda.instantiate(graph)
        finally:
            self.cuda.destroy_graph(graph)

    def _noted(self, bound: Bound, kept: _Set) -> int:
        self.cuda.begin_capture(self.stream)
        try:
            self._enqueue(bound, kept)
        except BaseException:
            with contextlib.suppress(EngineFailed):
                broken = self.cuda.end_capture(self.stream)
                if broken:
                    self.cuda.destroy_graph(broken)
            raise
        return self.cuda.end_capture(self.stream)

    def release(self) -> Iterator[Callable[[], None]]:
        """What gives graphs and contexts back, step by step."""
        while self._bounds:
            bound = self._bounds.popitem()[1]
            yield lambda bound=bound: self._drop(bound)  # type: ignore[misc]
        yield self._sets.clear

    def release_buffers(self) -> Iterator[Callable[[], None]]:
        """What gives the buffers back, step by step."""
        while self._buffers:
            yield self._buffers.popitem()[1].free

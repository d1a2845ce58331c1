"""A TensorRT engine ready to answer: its own stream, pinned memory, and a CUDA graph a shape.

Checked against a binding and an engine that only pretend (tests/runtime/tensorrt); no line of it
has run on a GPU yet.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic
from typing import Any

import numpy as np

from edgedl.core.errors import EdgeError, WrongInput
from edgedl.runtime import forks
from edgedl.runtime.alarm import LONGEST_WAIT_S, ends_at, late
from edgedl.runtime.session import Closing, InputCheck, OutputCheck, closed, same_shapes
from edgedl.runtime.tensorrt.contexts import Opened, Running
from edgedl.runtime.tensorrt.cuda import Cuda
from edgedl.runtime.tensorrt.profiles import signature_of
from edgedl.runtime.tensorrt.ready import Bound, Ready


class TensorRtSession(Closing):
    """One engine on one stream of its own.

    Threads take turns. Inputs are copied into pinned memory, and outputs out of it, except for the
    arrays that `arrays` gives. The second run of a shape is noted down as a CUDA graph, and further
    ones launch it as a whole; `note` says why where that is not done. A GPU does not stop what it
    has begun: a call that is late returns at once, and the next one waits for its work.

    Args:
        trt: the library's module, `tensorrt` or `tensorrt_rtx`.
        plan: a serialized engine that is trusted: one of unknown origin is tried in a child process
            first (`edgedl.runtime.tensorrt.building.tried`).

    Raises:
        EngineFailed: TensorRT refuses the engine, or there is too little memory; in words.
        Unsupported: there is no driver or no GPU.
    """

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes, running: Running | None = None) -> None:
        self._trt, self._cuda = trt, cuda
        self._running = running or Running()
        self._lock = threading.Lock()
        self._closed = self._is_forked = False
        self._last: Bound | None = None
        self._stream = 0
        self._opened: Opened | None = None
        self._ready: Ready | None = None
        try:
            self._open(plan)
        except BaseException:
            with contextlib.suppress(EdgeError):
                self.close()
            raise

    def _open(self, plan: bytes) -> None:
        self._cuda.device_count()
        self._cuda.set_device(self._running.device)
        self._stream = self._cuda.stream()
        self._opened = Opened(self._trt, self._cuda, plan, self._running)
        self.signature = signature_of(self._opened.ports)
        self._check = InputCheck(self.signature)
        self._check_outputs = OutputCheck(self.signature)
        self._ready = Ready(self._trt, self._cuda, self._opened, self._running, self._stream)
        self._ready.allocate()
        forks.watch(self)

    @property
    def note(self) -> str | None:
        """Why there is no CUDA graph, where there is none."""
        return None if self._ready is None else self._ready.note

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        feed = self._check(inputs)
        with self._turn(deadline_ms) as is_late:
            return {name: array.copy() for name, array in self._ran(feed, is_late).items()}

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        """`run`, with the answers written into arrays of the caller's, one for every output.

        Those that `arrays` gave are neither copied from nor to.
        """
        if deadline_ms is None and self._launched(inputs, outputs):
            return
        feed = self._check(inputs)
        self._check_outputs(outputs)
        with self._turn(deadline_ms) as is_late:
            bound = self._alive().found(feed)
            if any(outputs[name] is not array for name, array in bound.outputs.items()):
                self._check_outputs.apart(feed, outputs)
            same_shapes(bound.outputs, outputs)
            answers = self._ran(feed, is_late)
            self._last = bound
            if not bound.sized:
                same_shapes(answers, outputs)
            for name, array in answers.items():
                if outputs[name] is not array:
                    np.copyto(outputs[name], array)

    def _launched(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]
    ) -> bool:
        """Answer at once, where these are the very arrays of the last such call, which `arrays`
        gave: nothing is left to be checked or copied then, and its graph is all there is to do."""
        with self._lock:
            last = self._last
            # one whose graph went, or whose session is closed, has none
            if last is None or not last.executable or self._running.device:
                return False
            if not (_same(inputs, last.inputs) and _same(outputs, last.outputs)):
                return False
            ready = self._alive()
            ready.launch(last)
            return True

    def arrays(
        self, shapes: Mapping[str, tuple[int, ...]] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Inputs to fill and outputs to read, in pinned memory: with these `run_into` copies
        nothing.

        The next run, of whatever shapes, writes over them. They stay readable, and are of no more
        use, after the session was closed.

        Args:
            shapes: of the inputs whose shape is not fixed.

        Raises:
            WrongInput: a shape is missing, no profile takes it, or sizes depend on what the inputs
                hold.
        """
        with self._turn(None):
            ready = self._alive()
            if ready.by_value:
                raise WrongInput("sizes depend on what an input holds", hint="call `run`")
            bound = ready.found(self._without_memory(shapes or {}))
            if not bound.sized:
                raise WrongInput("only running tells the size of an output", hint="call `run`")
            return dict(bound.inputs), dict(bound.outputs)

    def _without_memory(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
        """Arrays of these shapes which have no memory of their own, checked as inputs are."""
        found = {}
        for tensor in self.signature.inputs:
            shape = shapes.get(tensor.name, tensor.shape) or ()
            whole = tuple(size for size in shape if isinstance(size, int))
            if len(whole) < len(shape):
                raise WrongInput(f"no shape for input `{tensor.name}`", hint="name its axes' sizes")
            found[tensor.name] = np.broadcast_to(np.zeros((), tensor.dtype), whole)
        self._check(found)
        return found

    def zeros(self) -> dict[str, np.ndarray]:
        """Inputs of zeros, of the largest shapes that the first profile takes; where an input holds
        sizes, the largest of these.

        Raises:
            WrongInput: the session is closed.
        """
        opened = self._opened
        if opened is None:
            raise closed()
        first = opened.profiles[0]
        return {
            port.name: np.array(first.values[port.name].most, port.dtype).reshape(
                first.shapes[port.name].most
            )
            if port.name in first.values
            else np.zeros(first.shapes[port.name].most, port.dtype)
            for port in opened.ports
            if port.is_input
        }

    def inspector(self) -> Any:
        """The library's inspector of the engine.

        Raises:
            WrongInput: the session is closed.
        """
        if self._opened is None:
            raise closed()
        return self._opened.engine.create_engine_inspector()

    def bound(self, inputs: Mapping[str, np.ndarray]) -> tuple[Ready, Bound]:
        """What is ready for these inputs, for who measures or inspects the engine; the caller sees
        to it that nothing else runs.

        Raises:
            WrongInput: as `run`.
        """
        self._check(inputs)
        ready = self._alive()
        return ready, ready.found(inputs)

    @contextlib.contextmanager
    def _turn(self, deadline_ms: float | None) -> Iterator[Callable[[], bool] | None]:
        """This thread's turn, with what says whether the call in it is late."""
        if deadline_ms is None:
            with self._lock:
                yield None
            return
        ends = ends_at(deadline_ms)
        wait = min(max(ends - monotonic(), 0), LONGEST_WAIT_S)
        if deadline_ms <= 0 or not self._lock.acquire(timeout=wait):
            raise late(deadline_ms)
        try:
            yield lambda: monotonic() >= ends
        except TimeoutError:
            raise late(deadline_ms) from None
        finally:
            self._lock.release()

    def _alive(self) -> Ready:
        if self._ready is None:
            raise forks.of_another_process() if self._is_forked else closed()
        if self._running.device:
            self._cuda.set_device(self._running.device)
        self._ready.settle()
        return self._ready

    def _ran(
        self, inputs: Mapping[str, np.ndarray], is_late: Callable[[], bool] | None
    ) -> dict[str, np.ndarray]:
        """The answers, in pinned memory that the next run writes over."""
        ready = self._alive()
        bound = ready.found(inputs)
        for name, array in bound.inputs.items():
            given = inputs[name]
            if given is not array:
                np.copyto(array, given)
        ready.run(bound, is_late)
        return bound.outputs

    def close(self) -> None:
        """Refuse new calls, let the one that runs end, and give everything back, in a fixed order:
        graphs, contexts, engine, the library's runtime, buffers, and the stream; again is nothing.

        Raises:
            EngineFailed: CUDA reports a failure, perhaps of work before; all is given back even so.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            first: EdgeError | None = None
            for step in self._steps():
                try:
                    step()
                except EdgeError as error:
                    first = first or error
            if first is not None:
                raise first

    def forked(self) -> None:
        """Leave to the parent what is the parent's: nothing of it is used or given back here."""
        forks.KEPT.append((self._ready, self._opened))
        self._ready = self._opened = self._last = None
        self._is_forked, self._closed = True, True
        self._lock = threading.Lock()

    def _steps(self) -> Iterable[Callable[[], None]]:
        cuda, stream = self._cuda, self._stream
        ready, self._ready, self._last = self._ready, None, None
        opened, self._opened = self._opened, None
        if self._running.device:
            yield lambda: cuda.set_device(self._running.device)
        if stream:
            yield lambda: cuda.synchronize(stream)
        if ready is not None:
            yield from ready.release()
        if opened is not None:
            yield opened.close
        if ready is not None:
            yield from ready.release_buffers()
        if stream:
            self._stream = 0
            yield lambda: cuda.destroy_stream(stream)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()


def _same(given: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> bool:
    """Whether these are the very arrays, by name."""
    if type(given) is not dict or len(given) != len(known):
        return False
    for name, array in known.items():  # noqa: SIM110 (a generator costs more than the rest)
        if given.get(name) is not array:
            return False
    return True

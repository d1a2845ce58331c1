"""A session of onnxruntime's ready to answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from time import monotonic
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from edgedl.core.errors import EdgeError, EngineFailed, first_line
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import forks
from edgedl.runtime.alarm import Alarm, ends_at, late
from edgedl.runtime.bound import Bindings
from edgedl.runtime.session import Closing, InputCheck, OutputCheck, closed, same_shapes

DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({t}{bits})": f"{t}{bits}" for t in ("int", "uint") for bits in (8, 16, 32, 64)},
}
FATAL_ONLY = 4


class OrtSession(Closing):
    """One `InferenceSession`; onnxruntime lets several threads run it at once."""

    def __init__(self, engine: onnxruntime.InferenceSession) -> None:
        self._engine: onnxruntime.InferenceSession | None = engine
        self._run: Callable[..., Any] = engine.run
        self._into: Callable[..., Any] = engine.run_with_iobinding
        self.signature = signature_of(engine)
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._check = InputCheck(self.signature)
        self._check_outputs = OutputCheck(self.signature)
        self._bindings: Any = Bindings(engine.io_binding, self._outputs[0])
        self._alarm = Alarm()
        # An element for each call that runs: appending to a list needs no lock.
        self._inside: list[None] = []
        self._shut = False
        self._empty = threading.Event()
        forks.watch(self)

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        self._inside.append(None)
        try:
            feed = self._check(inputs)
            if deadline_ms is None:
                answers = self._run(self._outputs, feed)
            else:
                answers = self._until(deadline_ms, self._run, self._outputs, feed)
        except EdgeError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        finally:
            self._inside.pop()
            if self._shut:
                self._left()
        return dict(zip(self._outputs, answers, strict=True))

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        self._inside.append(None)
        try:
            feed = self._check(inputs)
            self._check_outputs(outputs)
            bound = self._bindings.lend(outputs)
            bound.take(feed, outputs, self._check_outputs)
            if deadline_ms is None:
                self._into(bound.binding)
            else:
                self._until(deadline_ms, self._into, bound.binding)
            self._bindings.give_back(bound, outputs)
        except EdgeError:
            raise
        except Exception as error:
            # Which of its failures are those of outputs of another shape, no version says alike.
            same_shapes(self.run(inputs), outputs)
            raise self._failed(error) from error
        finally:
            self._inside.pop()
            if self._shut:
                self._left()

    def _until(self, deadline_ms: float, call: Callable[..., Any], *given: Any) -> Any:
        """What the call gives that onnxruntime is to give up when the time has come."""
        ends = ends_at(deadline_ms)
        if deadline_ms <= 0:
            raise late(deadline_ms)
        options = onnxruntime.RunOptions()
        bell = self._alarm.set(ends, partial(setattr, options, "terminate", True))
        try:
            found = call(*given, options)
        except Exception as error:
            if options.terminate:
                raise late(deadline_ms) from error
            raise
        finally:
            self._alarm.take_back(bell)
        if monotonic() >= ends:
            raise late(deadline_ms)
        return found

    def _failed(self, error: Exception) -> EdgeError:
        """What is raised where onnxruntime raised this in a run."""
        return EngineFailed(f"onnxruntime failed: {first_line(error)}")

    def _left(self) -> None:
        if not self._inside:
            self._empty.set()

    def close(self) -> None:
        if self._engine is None:
            return
        self._run = self._into = _closed
        self._shut = True
        if self._inside:
            self._empty.wait()
        self._alarm.close()
        self._bindings.clear()
        self._engine = None

    def forked(self) -> None:
        forks.KEPT.append((self._engine, self._bindings))
        self._run = self._into = _forked
        self._engine, self._inside, self._shut = None, [], False
        self._alarm.forked()


def _closed(*_: Any) -> Any:
    raise closed()


def _forked(*_: Any) -> Any:
    raise forks.of_another_process()


class ReusingSession(OrtSession):
    """Writes its answers into two sets of arrays in turn: each holds until the next but one call.

    Fresh arrays for every call cost page faults, which weigh where outputs are many and large.
    Outputs whose shape is not fixed make it an ordinary session. It is for one thread at a time.
    """

    def __init__(self, engine: onnxruntime.InferenceSession) -> None:
        super().__init__(engine)
        outputs = self.signature.outputs
        shapes = [[d for d in t.shape or (None,) if isinstance(d, int)] for t in outputs]
        if any(
            t.shape is None or len(s) < len(t.shape) for t, s in zip(outputs, shapes, strict=True)
        ):
            return
        self._sets = []
        for _ in range(2):
            binding = engine.io_binding()
            arrays = {t.name: np.empty(s, t.dtype) for t, s in zip(outputs, shapes, strict=True)}
            for name, array in arrays.items():
                address = array.ctypes.data
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, address)
            self._sets.append((binding, arrays))
        self._run = self._reuse

    def _reuse(self, _: Any, inputs: Mapping[str, np.ndarray], *more: Any) -> list[np.ndarray]:
        binding, arrays = self._sets.pop(0)
        self._sets.append((binding, arrays))
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        self._into(binding, *more)
        return list(arrays.values())


def signature_of(engine: onnxruntime.InferenceSession) -> Signature:
    """What a model takes and gives.

    Raises:
        EngineFailed: a tensor is of a type that no array holds.
    """
    return Signature(
        tuple(_tensor(value) for value in engine.get_inputs()),
        tuple(_tensor(value) for value in engine.get_outputs()),
    )


def _tensor(value: onnxruntime.NodeArg) -> Tensor:
    if value.type not in DTYPES:
        raise EngineFailed(f"`{value.name}` is {value.type}, which no array holds")
    return Tensor(value.name, DTYPES[value.type], tuple(value.shape))


def session_options(
    threads: int | None, settings: Mapping[str, Any] = MappingProxyType({})
) -> onnxruntime.SessionOptions:
    """How every session is opened: silent, with these threads, one operator after another."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = settings.get("memory_pattern", True)
    return options

"""A compiled OpenVINO model that answers: its infer requests, and whose turn they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import numpy as np
import openvino

from edgedl.core.errors import EdgeError, EngineFailed, WrongInput
from edgedl.core.model import Dimension, Signature, Tensor
from edgedl.runtime import forks
from edgedl.runtime.alarm import LONGEST_WAIT_S, ends_at, late
from edgedl.runtime.openvino.request import Request, Turn
from edgedl.runtime.session import Closing, InputCheck, OutputCheck, closed, same_shapes

MICROSECOND = timedelta(microseconds=1)


class OpenVinoSession(Closing):
    """One compiled model, with as many infer requests as calls run at once; others wait.

    Args:
        names: of inputs and outputs, as the model has them: an output whose last operator compiling
            removed bears the names of what stood before it as well.
        at_once: infer requests.
    """

    def __init__(
        self,
        compiled: openvino.CompiledModel,
        names: tuple[Sequence[str], Sequence[str]],
        at_once: int = 1,
    ) -> None:
        self.signature = Signature(
            tuple(map(_tensor, compiled.inputs, names[0])),
            tuple(map(_tensor, compiled.outputs, names[1])),
        )
        self.compiled: openvino.CompiledModel | None = compiled
        self._outputs = [tensor.name for tensor in self.signature.outputs]
        self._check = InputCheck(self.signature)
        self._check_outputs = OutputCheck(self.signature)
        self._fixed = all(
            t.shape is not None and t.shape and all(isinstance(d, int) and d for d in t.shape)
            for t in self.signature.outputs
        )
        inputs = [tensor.name for tensor in self.signature.inputs]
        self._turns = [Turn(compiled, inputs, self._outputs) for _ in range(at_once)]
        # Turns that no call has; when the session is closed, what makes the error in their place.
        self._free: SimpleQueue[Turn | Callable[[], WrongInput]] = SimpleQueue()
        for turn in self._turns:
            self._free.put(turn)
        self._closing = threading.Lock()
        self._shut = False
        forks.watch(self)

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        feed = self._check(inputs)
        if deadline_ms is not None:
            return self._run_until(feed, deadline_ms)
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            own = turn.own
            own.finish()
            own.bind(feed)
            return dict(zip(self._outputs, own.run(), strict=True))
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {reason(error)}") from error
        finally:
            self._free.put(turn)

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        feed = self._check(inputs)
        self._check_outputs(outputs)
        if deadline_ms is not None or not self._fixed:
            self._check_outputs.apart(feed, outputs)
            found = self.run(feed, deadline_ms)
            same_shapes(found, outputs)
            for name, array in found.items():
                outputs[name][...] = array
            return
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            into = turn.into
            if into.bind(feed) | into.bind_outputs(outputs):
                self._apart(into, feed, outputs)
            into.run_only()
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {reason(error)}") from error
        finally:
            self._free.put(turn)

    def _apart(
        self,
        into: Request,
        feed: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
    ) -> None:
        try:
            self._check_outputs.apart(feed, outputs)
        except WrongInput:
            into.forget()
            raise

    def _run_until(
        self, feed: Mapping[str, np.ndarray], deadline_ms: float
    ) -> dict[str, np.ndarray]:
        ends = ends_at(deadline_ms)
        if deadline_ms <= 0:
            raise late(deadline_ms)
        try:
            turn = self._free.get(timeout=min(max(ends - monotonic(), 0), LONGEST_WAIT_S))
        except Empty:
            raise late(deadline_ms) from None
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            own = turn.own
            if not own.finish(ends):
                raise late(deadline_ms)
            own.bind(feed)
            found = own.run_until(ends)
            if found is None:
                raise late(deadline_ms)
            return dict(zip(self._outputs, found, strict=True))
        except EdgeError:
            raise
        except Exception as error:
            raise EngineFailed(f"openvino failed: {reason(error)}") from error
        finally:
            self._free.put(turn)

    def executed(self) -> dict[str, tuple[float, str]]:
        """Operators by name: the mean whole microseconds of all calls so far, and the kernel.

        What was worked out while the model was compiled is not among them. All times are 0 where
        it was not compiled with `PERF_COUNT`.

        Raises:
            WrongInput: the session is closed, or was opened before the process was forked.
        """
        turn = self._free.get()
        try:
            if self._shut or not isinstance(turn, Turn):
                raise _refusal(turn)
            found: dict[str, tuple[float, str]] = {}
            for node in turn.own.request.get_profiling_info():
                mean = node.real_time / MICROSECOND
                # What was fused into another operator may stand here under the other's name.
                if mean >= found.get(node.node_name, (0.0, ""))[0]:
                    found[node.node_name] = mean, node.exec_type
            return found
        finally:
            self._free.put(turn)

    def close(self) -> None:
        with self._closing:
            self._shut = True
            for _ in range(len(self._turns)):
                turn = self._free.get()
                assert isinstance(turn, Turn)
                turn.own.finish()
            if self._turns:
                self._turns.clear()
                self._free.put(closed)
            self.compiled = None

    def forked(self) -> None:
        forks.KEPT.append((self.compiled, self._turns, self._free))
        self.compiled, self._turns, self._free = None, [], SimpleQueue()
        self._free.put(forks.of_another_process)
        self._closing = threading.Lock()


class ImportedSession(OpenVinoSession):
    """A session whose weights lie in memory of ours, which lives as long as it does."""

    def __init__(self, held: object, *words: Any) -> None:
        self._held = held
        super().__init__(*words)


def _refusal(turn: Turn | Callable[[], WrongInput]) -> WrongInput:
    return closed() if isinstance(turn, Turn) else turn()


def reason(error: Exception) -> str:
    """What OpenVINO said that tells most, a line of 300 characters at most."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    noise = ("Exception from", "Check '", "Summary:")
    telling = [line for line in lines if not line.startswith(noise) and line[-1] != ":"]
    return (telling or lines or [type(error).__name__])[0][:300]


def _tensor(port: Any, name: str) -> Tensor:
    shape: list[Dimension] | None = None
    if not port.partial_shape.rank.is_dynamic:
        shape = [d.get_length() if d.is_static else None for d in port.partial_shape]
    dtype = np.dtype(port.element_type.to_dtype()).name
    return Tensor(name, dtype, None if shape is None else tuple(shape))

"""One infer request of OpenVINO's with the arrays that it reads and writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np
import openvino

LONGEST_WAIT_MS = 1_000_000_000

# An array that a request was told of, and the shape that it had then.
Held = tuple[np.ndarray | None, tuple[int, ...]]
NOTHING: Held = None, ()


class Request:
    """An infer request that reads the caller's arrays where they lie; one call at a time.

    It holds the arrays of the latest call, and the same arrays again need not be set again.
    """

    def __init__(
        self, compiled: openvino.CompiledModel, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self.request: openvino.InferRequest = compiled.create_infer_request()
        self._inputs = inputs
        self._outputs = outputs
        self._read: list[Held] = [NOTHING] * len(inputs)
        self._written: list[Held] = [NOTHING] * len(outputs)
        self._unfinished = False

    def bind(self, feed: Mapping[str, np.ndarray]) -> bool:
        """Have it read these arrays; whether it was told of any that it did not know."""
        new = False
        for index, name in enumerate(self._inputs):
            array = feed[name]
            held, shape = self._read[index]
            if held is array and shape == array.shape:
                continue
            if array.ndim == 0:
                self._give(index, array)
                continue
            new = True
            self._read[index] = NOTHING
            if array.flags.carray:
                self.request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
                self._read[index] = array, array.shape
            else:
                copy = np.array(array, order="C")
                self.request.set_input_tensor(index, openvino.Tensor(copy, shared_memory=True))
        return new

    def _give(self, index: int, scalar: np.ndarray) -> None:
        """Have it read a copy of an array without axes, which OpenVINO cannot share."""
        held, shape = self._read[index]
        if held is None or shape != ():
            tensor = openvino.Tensor(scalar)
            self.request.set_input_tensor(index, tensor)
            held = tensor.data
            self._read[index] = held, ()
        held[...] = scalar

    def bind_outputs(self, outputs: Mapping[str, np.ndarray]) -> bool:
        """Have it write into these arrays, of fixed shapes; whether it did not know any of them."""
        new = False
        for index, name in enumerate(self._outputs):
            array = outputs[name]
            held, shape = self._written[index]
            if held is array and shape == array.shape:
                continue
            new = True
            self._written[index] = NOTHING
            self.request.set_output_tensor(index, openvino.Tensor(array, shared_memory=True))
            self._written[index] = array, array.shape
        return new

    def forget(self) -> None:
        """Have it be told of all arrays anew."""
        self._read = [NOTHING] * len(self._read)
        self._written = [NOTHING] * len(self._written)

    def run(self) -> list[np.ndarray]:
        """Copies of its outputs, in order."""
        found = self.request.infer(share_inputs=True, share_outputs=True).to_tuple()
        if len(found) == len(self._outputs):
            return [array.copy() for array in found]
        return self.copies()

    def run_only(self) -> None:
        """Fill the arrays that are bound to its outputs."""
        self.request.infer(share_inputs=True, share_outputs=True)

    def run_until(self, ends: float) -> list[np.ndarray] | None:
        """Copies of its outputs; None at `ends` of `time.monotonic`, when it has been told to stop:
        it does so after the operator that it is at, and `finish` waits for that."""
        self.request.start_async(share_inputs=True)
        if not self._over(ends):
            self.request.cancel()
            self._unfinished = True
            return None
        return self.copies() if monotonic() < ends else None

    def finish(self, ends: float = math.inf) -> bool:
        """Wait for what was told to stop; whether it had by `ends`."""
        if self._unfinished:
            try:
                if not self._over(ends):
                    return False
            except RuntimeError:
                pass  # it says that it was cancelled
            self._unfinished = False
        return True

    def _over(self, ends: float) -> bool:
        while True:
            left_ms = (ends - monotonic()) * 1e3
            if self.request.wait_for(max(0, math.ceil(min(left_ms, LONGEST_WAIT_MS)))):
                return True
            if left_ms <= 0:
                return False

    def copies(self) -> list[np.ndarray]:
        """Copies of what its outputs hold, in order."""
        count = range(len(self._outputs))
        return [self.request.get_output_tensor(index).data.copy() for index in count]


class Turn:
    """What one call at a time has to itself: a request whose outputs are its own, and, from the
    first `run_into` on, another whose outputs are the caller's arrays."""

    def __init__(self, *of: Any) -> None:
        self._of = of
        self.own = Request(*of)
        self._into: Request | None = None

    @property
    def into(self) -> Request:
        """The request that writes into the caller's arrays."""
        if self._into is None:
            self._into = Request(*self._of)
        return self._into

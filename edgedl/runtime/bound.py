"""An onnxruntime session's inputs and outputs, bound to arrays of the caller's and kept so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from edgedl.runtime.session import OutputCheck

MOST_KEPT = 16

Held = dict[str, tuple[np.ndarray, tuple[int, ...]]]
NOTHING: tuple[None, tuple[int, ...]] = None, ()


class Bound:
    """One binding of onnxruntime's, and the arrays that it holds."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self._inputs: Held = {}
        self._outputs: Held = {}

    def take(
        self,
        feed: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        check: OutputCheck,
    ) -> None:
        """Bind what was not bound before; the same arrays lie where they lay.

        Raises:
            WrongInput: an output shares memory with another array.
        """
        given, made = _new(self._inputs, feed), _new(self._outputs, outputs)
        if not given and not made:
            return
        check.apart(feed, outputs)
        for name in given:
            array = feed[name]
            self.binding.bind_cpu_input(name, array)
            self._inputs[name] = array, array.shape
        for name in made:
            array = outputs[name]
            address = array.ctypes.data
            self.binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, address)
            self._outputs[name] = array, array.shape


def _new(held: Held, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The names of arrays that are not held, or have taken another shape since."""
    found = []
    for name, array in arrays.items():
        before, shape = held.get(name, NOTHING)
        if before is not array or shape != array.shape:
            found.append(name)
    return found


class Bindings:
    """Bindings that no call uses just now, by one of their outputs: the arrays of a thread that
    goes on with its own find the binding that they had."""

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        self._make = make
        self._name = name
        self._idle: dict[int, Bound] = {}

    def lend(self, outputs: Mapping[str, np.ndarray]) -> Bound:
        """The binding that these outputs had, or a new one; nobody else has it."""
        return self._idle.pop(id(outputs[self._name]), None) or Bound(self._make())

    def give_back(self, bound: Bound, outputs: Mapping[str, np.ndarray]) -> None:
        """Keep it for the next call with these outputs."""
        if len(self._idle) >= MOST_KEPT:
            self.clear()
        self._idle[id(outputs[self._name])] = bound

    def clear(self) -> None:
        """Keep none, nor any array."""
        self._idle.clear()

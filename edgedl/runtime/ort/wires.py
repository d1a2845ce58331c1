"""Inputs of an onnxruntime session that lie on a GPU, and the arrays that its answers go into.

onnxruntime copies an array that is bound as an input when it is bound, not when it runs
(onnxruntime issues 15438 and 29782), so that what is written into the array later is not seen:
here inputs are copied in each call, into memory of the GPU that stays where it is.
Checked on onnxruntime with the processor in the GPU's place; no line of it has run on a GPU yet.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from edgedl.core.model import Signature
from edgedl.runtime.session import OutputCheck, same_shapes

MOST_KEPT = 16
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a session's tensors lie: `cuda` and the GPU's number."""

    kind: str
    number: int

    def value(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A tensor there, of whatever values."""
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            list(shape), dtype.type, self.kind, self.number
        )


class Wire:
    """One binding, and the memory behind it; one call uses it at a time."""

    def __init__(self, engine: Any, place: Place, fixed: bool) -> None:
        self._engine, self._place, self._fixed = engine, place, fixed
        self._bound = engine.io_binding()
        self._inputs: dict[str, tuple[Any, tuple[int, ...]]] = {}
        self._feed: Arrays = {}
        self._outputs: Arrays = {}

    @property
    def binding(self) -> Wire:
        """What `launch` is called on."""
        return self

    def take(self, feed: Arrays, outputs: Arrays, check: OutputCheck) -> None:
        """Copy the inputs, and have the answers written into these arrays.

        Raises:
            WrongInput: an output shares memory with another array.
        """
        if not (_same(feed, self._feed) and _same(outputs, self._outputs)):
            check.apart(feed, outputs)
        self.fill(feed)
        if self._fixed:
            self.direct(outputs)
        self._feed, self._outputs = dict(feed), dict(outputs)

    def fill(self, feed: Arrays) -> None:
        """Copy the inputs to where the session reads them."""
        for name, array in feed.items():
            value, shape = self._inputs.get(name, (None, ()))
            if value is None or shape != array.shape:
                value = self._place.value(array.shape, array.dtype)
                self._inputs[name] = value, array.shape
                self._bound.bind_ortvalue_input(name, value)
            value.update_inplace(array)

    def direct(self, outputs: Arrays) -> None:
        """Have the answers written into these arrays, which the wire keeps alive."""
        for name, array in outputs.items():
            if self._outputs.get(name) is not array:
                address = array.ctypes.data
                self._bound.bind_output(name, "cpu", 0, array.dtype.type, array.shape, address)
        self._outputs = dict(outputs)

    def launch(self, *options: Any) -> None:
        """Run; the answers stand in the arrays that were taken."""
        if self._fixed:
            self._engine.run_with_iobinding(self._bound, *options)
            return
        found = dict(zip(self._outputs, self.fetched(tuple(self._outputs), *options), strict=True))
        same_shapes(found, self._outputs)
        for name, array in found.items():
            np.copyto(self._outputs[name], array)

    def fetched(self, names: tuple[str, ...], *options: Any) -> list[np.ndarray]:
        """Run; the answers in arrays of their own, of whatever shapes they came out."""
        self._bound.clear_binding_outputs()
        for name in names:
            self._bound.bind_output(name, "cpu")
        self._engine.run_with_iobinding(self._bound, *options)
        return [value.numpy() for value in self._bound.get_outputs()]


class Wires:
    """Wires that no call uses just now, by one of their outputs."""

    def __init__(self, engine: Any, place: Place, signature: Signature) -> None:
        self._engine, self._place = engine, place
        self.fixed = all(
            tensor.shape is not None and all(isinstance(d, int) for d in tensor.shape)
            for tensor in signature.outputs
        )
        self._name = signature.outputs[0].name
        self._idle: dict[int, Wire] = {}

    def lend(self, outputs: Arrays) -> Any:
        """The wire that these outputs had, or any; nobody else has it."""
        found = self._idle.pop(id(outputs[self._name]), None)
        if found is None:
            try:
                found = self._idle.popitem()[1]
            except KeyError:
                found = Wire(self._engine, self._place, self.fixed)
        return found

    def give_back(self, bound: Any, outputs: Arrays) -> None:
        """Keep it for the next call."""
        if len(self._idle) >= MOST_KEPT:
            self.clear()
        self._idle[id(outputs[self._name])] = bound

    def clear(self) -> None:
        """Keep none, nor any array."""
        self._idle.clear()


class Captured:
    """The one set of memory that a CUDA graph reads and writes, which calls use in turn.

    A graph is launched on the addresses that it was captured with, and copies nothing: inputs and
    answers are copied before and behind it.
    """

    fixed = True

    def __init__(self, engine: Any, place: Place, signature: Signature) -> None:
        self._engine = engine
        self.turn = threading.Lock()
        self._bound = engine.io_binding()
        self._values: dict[str, Any] = {}
        self._answers: dict[str, Any] = {}
        for tensors, held, bind in (
            (signature.inputs, self._values, self._bound.bind_ortvalue_input),
            (signature.outputs, self._answers, self._bound.bind_ortvalue_output),
        ):
            for tensor in tensors:
                shape = tuple(d for d in tensor.shape or () if isinstance(d, int))
                held[tensor.name] = place.value(shape, np.dtype(tensor.dtype))
                bind(tensor.name, held[tensor.name])

    def lend(self, outputs: Arrays) -> Any:
        """A turn, which waits for others when it is launched."""
        return _Turn(self)

    def give_back(self, bound: Any, outputs: Arrays) -> None:
        """A turn is over."""

    def clear(self) -> None:
        """Give the GPU's memory back."""
        self._values, self._answers, self._bound = {}, {}, None

    def play(self, feed: Arrays, outputs: Arrays, *options: Any) -> None:
        """One call: inputs there, the graph, answers back."""
        with self.turn:
            for name, array in feed.items():
                self._values[name].update_inplace(array)
            self._engine.run_with_iobinding(self._bound, *options)
            for name, array in outputs.items():
                _fetch(self._answers[name], array)


class _Turn:
    def __init__(self, captured: Captured) -> None:
        self._captured = captured
        self._given: tuple[Arrays, Arrays] = ({}, {})

    @property
    def binding(self) -> _Turn:
        return self

    def take(self, feed: Arrays, outputs: Arrays, check: OutputCheck) -> None:
        check.apart(feed, outputs)
        self.fill(feed)
        self.direct(outputs)

    def fill(self, feed: Arrays) -> None:
        self._given = feed, self._given[1]

    def direct(self, outputs: Arrays) -> None:
        self._given = self._given[0], outputs

    def launch(self, *options: Any) -> None:
        self._captured.play(*self._given, *options)


def _fetch(value: Any, array: np.ndarray) -> None:
    """Copy a tensor into an array; at once where this onnxruntime can, else by way of another."""
    try:
        onnxruntime.OrtValue.ortvalue_from_numpy(array).update_inplace(value)
    except (TypeError, AttributeError):
        np.copyto(array, value.numpy())


def _same(one: Arrays, other: Arrays) -> bool:
    return len(one) == len(other) and all(other.get(n) is a for n, a in one.items())

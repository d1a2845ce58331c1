"""The inputs and outputs of an engine, and the shapes that it was built for."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import EngineFailed, WrongInput
from edgedl.core.model import Signature, Tensor

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Port:
    """One input or output of an engine; a dimension that varies is None.

    Attributes:
        on_host: TensorRT reads or writes it in the system's memory.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    is_input: bool
    on_host: bool


@dataclass(frozen=True)
class Span:
    """What one input's dimensions (or, of an input on the host, its values) may be."""

    least: Shape
    most: Shape

    def holds(self, given: Sequence[int]) -> bool:
        """Whether all of them lie within."""
        return len(given) == len(self.least) and all(
            low <= size <= high
            for low, size, high in zip(self.least, given, self.most, strict=True)
        )

    def __str__(self) -> str:
        one = [
            str(a) if a == b else f"{a}..{b}" for a, b in zip(self.least, self.most, strict=True)
        ]
        return f"({', '.join(one)})"


@dataclass(frozen=True)
class Profile:
    """One set of ranges that an engine was built for, by input; `values` of those on the host."""

    index: int
    shapes: Mapping[str, Span]
    values: Mapping[str, Span]

    def fits(self, arrays: Mapping[str, np.ndarray]) -> bool:
        """Whether it was built for these inputs."""
        return all(span.holds(arrays[name].shape) for name, span in self.shapes.items()) and all(
            span.holds(arrays[name].reshape(-1).tolist()) for name, span in self.values.items()
        )

    @property
    def size(self) -> int:
        """Elements of its largest inputs together."""
        return sum(math.prod(span.most) for span in self.shapes.values())


def ports_of(trt: Any, engine: Any) -> tuple[Port, ...]:
    """An engine's inputs and outputs, in its own order.

    Raises:
        EngineFailed: one of them is of a type that numpy does not have, such as bfloat16.
    """
    found = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        kind = engine.get_tensor_dtype(name).name
        if kind not in DTYPES:
            which = "input" if is_input else "output"
            raise EngineFailed(
                f"{which} `{name}` is {kind.lower()}, which no numpy array holds",
                hint="export the model with float32 inputs and outputs; its inside may keep the "
                "type",
            )
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        found.append(Port(name, np.dtype(DTYPES[kind]), shape, is_input, on_host))
    return tuple(found)


def signature_of(ports: Iterable[Port]) -> Signature:
    """The same as a model's signature."""
    both: tuple[list[Tensor], list[Tensor]] = ([], [])
    for port in ports:
        both[0 if port.is_input else 1].append(Tensor(port.name, port.dtype.name, port.shape))
    return Signature(tuple(both[0]), tuple(both[1]))


def profiles_of(engine: Any, ports: Iterable[Port]) -> tuple[Profile, ...]:
    """The shapes that an engine was built for, profile by profile."""
    inputs = [port for port in ports if port.is_input]
    found = []
    for index in range(engine.num_optimization_profiles):
        shapes, values = {}, {}
        for port in inputs:
            shapes[port.name] = _span(engine, port, index)
            # in Python the profile comes first here, whatever the bindings call it
            limits = engine.get_tensor_profile_values(index, port.name) if port.on_host else ()
            if limits:
                values[port.name] = Span(tuple(limits[0]), tuple(limits[2]))
        found.append(Profile(index, shapes, values))
    return tuple(found)


def _span(engine: Any, port: Port, index: int) -> Span:
    whole = tuple(size for size in port.shape if size is not None)
    if len(whole) == len(port.shape):
        return Span(whole, whole)
    low, _, high = engine.get_tensor_profile_shape(port.name, index)
    return Span(tuple(map(int, low)), tuple(map(int, high)))


def chosen(profiles: Sequence[Profile], arrays: Mapping[str, np.ndarray]) -> Profile:
    """The profile with the smallest largest shapes that takes these inputs.

    Raises:
        WrongInput: none does; the message names what each was built for.
    """
    fitting = [profile for profile in profiles if profile.fits(arrays)]
    if fitting:
        return min(fitting, key=lambda profile: (profile.size, profile.index))
    raise _outside(profiles, arrays)


def _outside(profiles: Sequence[Profile], arrays: Mapping[str, np.ndarray]) -> WrongInput:
    """The error for inputs that no profile takes: of the first input that is to blame alone, or of
    all of them where only the combination is."""
    for name, array in arrays.items():
        spans = [profile.shapes[name] for profile in profiles]
        if not any(span.holds(array.shape) for span in spans):
            return _wrong(f"input `{name}` has shape {array.shape}", spans)
        limits = [profile.values[name] for profile in profiles if name in profile.values]
        given = array.reshape(-1).tolist() if limits else []
        if limits and not any(span.holds(given) for span in limits):
            return _wrong(f"input `{name}` is {given}", limits)
    given_shapes = ", ".join(f"`{name}` {array.shape}" for name, array in arrays.items())
    built = [", ".join(f"`{n}` {s}" for n, s in one.shapes.items()) for one in profiles]
    return _wrong(f"no profile takes these shapes together: {given_shapes}", built)


def _wrong(what: str, spans: Sequence[Any]) -> WrongInput:
    ranges = " or ".join(dict.fromkeys(map(str, spans)))
    return WrongInput(
        f"{what}, the engine was built for {ranges}",
        hint="build it with a profile that takes this shape",
    )

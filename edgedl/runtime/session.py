"""What every engine's session promises, and the checks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from edgedl.core.errors import WrongInput, nearest
from edgedl.core.model import Signature


class Session(Protocol):
    """A model ready to answer."""

    @property
    def signature(self) -> Signature: ...

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output by name, in the model's own shapes, each an array of its own.

        Raises:
            WrongInput: a name, type or shape is not the signature's.
            EngineFailed: the engine failed while it ran.
        """

    def close(self) -> None:
        """Give everything back; a closed session raises WrongInput when it is run."""

    def __enter__(self) -> Session: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


@dataclass(frozen=True)
class Operator:
    """One operator as the engine ran it: its kind there, and the type it computed in.

    Attributes:
        name: the engine's name for it, which its fusions may have made.
        us: its time in one call in microseconds, without that of the operators in its body; None
            where it was not timed.
        fallback: computed by a reference kernel, or as float between two conversions.
        layers: names of the model's own nodes that it stands for, as far as the engine tells.
    """

    kind: str
    precision: str
    name: str = ""
    us: float | None = None
    fallback: bool = False
    layers: tuple[str, ...] = ()


class InputCheck:
    """Compares inputs with a signature in about a microsecond."""

    def __init__(self, signature: Signature) -> None:
        self.names = {tensor.name for tensor in signature.inputs}
        self.expected: list[tuple[str, np.dtype[Any], tuple[Any, ...] | None, bool]] = []
        for tensor in signature.inputs:
            fixed = tensor.shape is not None and all(isinstance(d, int) for d in tensor.shape)
            self.expected.append((tensor.name, np.dtype(tensor.dtype), tensor.shape, fixed))

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> None:
        if inputs.keys() != self.names:
            self._wrong_names(inputs)
        for name, dtype, shape, fixed in self.expected:
            array = inputs[name]
            if not isinstance(array, np.ndarray):
                raise WrongInput(
                    f"input `{name}` is {type(array).__name__}, not an array",
                    hint=f"np.asarray(value, dtype='{dtype}')",
                )
            if array.dtype == dtype and (
                shape is None or (array.shape == shape if fixed else _matches(array.shape, shape))
            ):
                continue
            self._wrong_array(name, array, dtype, shape)

    def _wrong_names(self, inputs: Mapping[str, np.ndarray]) -> None:
        for name in inputs:
            if name not in self.names:
                raise WrongInput(f"`{name}` is not an input", hint=nearest(str(name), self.names))
        absent = ", ".join(f"`{name}`" for name in sorted(self.names - inputs.keys()))
        raise WrongInput(f"no array for input {absent}", hint="give every input by name")

    def _wrong_array(
        self, name: str, array: np.ndarray, dtype: np.dtype[Any], shape: tuple[Any, ...] | None
    ) -> None:
        if array.dtype != dtype:
            raise WrongInput(
                f"input `{name}` is {array.dtype}, the model takes {dtype}",
                hint=f"give it `.astype('{dtype}')`",
            )
        wanted = ", ".join("?" if not isinstance(d, int) else str(d) for d in shape or ())
        raise WrongInput(
            f"input `{name}` has shape {array.shape}, the model takes ({wanted})",
            hint="`edgedl inspect` shows the inputs",
        )


def _matches(given: tuple[int, ...], wanted: tuple[Any, ...]) -> bool:
    return len(given) == len(wanted) and all(
        size == dimension or not isinstance(dimension, int)
        for size, dimension in zip(given, wanted, strict=True)
    )


def closed() -> WrongInput:
    """What a closed session raises when it is run."""
    return WrongInput("the session is closed", hint="open it again")

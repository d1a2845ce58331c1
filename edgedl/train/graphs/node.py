"""An operation and what is known of it, and the layer that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.program import Operation
from edgedl.train.graphs.probe import Seen
from edgedl.train.operators_base import tensor_of

Constants = Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Made:
    """An operation as a layer.

    Attributes:
        tensors: names of what it is called with.
        call: how it is called, given the layer and the tensors; as it stands where None.
        shared: what tells whether another operation has the very same layer; None: none has.
    """

    layer: nn.Module
    tensors: tuple[str, ...]
    call: Callable[..., Any] | None = None
    shared: tuple[Any, ...] | None = None


@dataclass(frozen=True, eq=False)
class Node:
    """An operation, and what is known of its inputs."""

    operation: Operation
    constants: Constants
    seen: Seen
    opset: int

    def name(self, position: int) -> str:
        inputs = self.operation.inputs
        return inputs[position] if position < len(inputs) else ""

    def weight(self, position: int) -> np.ndarray | None:
        """A constant input of real numbers; None where it is none."""
        array = self.constants.get(self.name(position))
        return array if array is not None and array.dtype.kind == "f" else None

    def constant_or_absent(self, *positions: int) -> bool:
        return all(not self.name(i) or self.weight(i) is not None for i in positions)

    def get(self, name: str, default: Any = None) -> Any:
        return self.operation.attributes.get(name, default)

    @property
    def key(self) -> tuple[Any, ...]:
        """What operations with one layer have in common."""
        shown = sorted((name, repr(value)) for name, value in self.operation.attributes.items())
        return (self.operation.kind, *self.operation.inputs[1:], *shown)


def fill(parameter: Tensor | None, array: np.ndarray) -> None:
    """Give a parameter, or running statistics, the values of an array of as many elements."""
    assert parameter is not None
    with torch.no_grad():
        parameter.copy_(tensor_of(np.ascontiguousarray(array)).reshape(parameter.shape))

"""What the operators' functions share: their type, what they are given of a node, refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import Unsupported
from edgedl.core.program import Operation

Outputs: TypeAlias = "Tensor | tuple[Tensor, ...]"
Inputs: TypeAlias = "Sequence[Tensor | None]"
Function: TypeAlias = "Callable[[Operation, Inputs, int], Outputs]"
T = TypeVar("T")


def refusal(operation: Operation, what: str, *, hint: str | None = None) -> Unsupported:
    """The error that says what of an operation cannot be carried out in training."""
    return Unsupported(
        f"{operation.kind} node `{operation.name}` cannot be trained through: {what}",
        hint=hint or "leave this model untrained; compressing it without training still works",
    )


def of_tensors(function: Callable[..., Outputs]) -> Function:
    """An operator whose function takes the inputs alone."""
    return lambda _operation, inputs, _opset: function(*inputs)


def of_peers(function: Callable[..., Outputs]) -> Function:
    """An operator whose function takes the inputs alone, which have to lie on one device."""
    return lambda _operation, inputs, _opset: function(*together(inputs))


def of_node(function: Callable[..., Outputs]) -> Function:
    """An operator whose function takes the operation, then its inputs."""
    return lambda operation, inputs, _opset: function(operation, *inputs)


def of_opset(function: Callable[..., Outputs]) -> Function:
    """An operator whose function takes the operation, the opset, then the inputs."""
    return lambda operation, inputs, opset: function(operation, opset, *inputs)


def together(inputs: Inputs) -> Inputs:
    """The same values on one device: shapes are computed on the processor, and meet others."""
    devices = {value.device for value in inputs if value is not None}
    if len(devices) < 2:
        return inputs
    device = next(device for device in devices if device.type != "cpu")
    return [None if value is None else value.to(device) for value in inputs]


def integers(values: Tensor) -> list[int]:
    """The elements of an integer tensor."""
    return [int(value) for value in values.reshape(-1).tolist()]


def numbers(operation: Operation, name: str, given: Tensor | None) -> list[int] | None:
    """Integers that newer opsets take as an input and older ones as an attribute."""
    if given is not None:
        return integers(given)
    found = operation.attributes.get(name)
    return None if found is None else list(found)


def choice(
    operation: Operation, what: str, table: Mapping[str, T] | Mapping[int, T], key: object
) -> T:
    """What a table holds of an attribute's value.

    Raises:
        Unsupported: nothing.
    """
    found = table.get(key)  # type: ignore[call-overload]
    if found is None:
        raise refusal(operation, f"{what} {key}")
    return found  # type: ignore[no-any-return]


def tensor_of(array: np.ndarray) -> Tensor:
    """A copy of an array as a tensor on the processor.

    Raises:
        Unsupported: torch has no such type.
    """
    try:
        return torch.tensor(np.asarray(array))
    except TypeError as error:
        raise Unsupported(
            f"constants of type {array.dtype} cannot be trained",
            hint="leave this model untrained, or export it in float32",
        ) from error

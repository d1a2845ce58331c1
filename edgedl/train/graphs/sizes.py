"""Sizes that a graph computes of its values' shapes, as Python's integers.

While a network is traced the batch has a size that is not known: torch's own integers stand for it,
which arrays of numpy objects hold as well as others.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import torch

from edgedl.core.program import Operation
from edgedl.train.operators_base import numbers

Sizes = np.ndarray
FLOATS = (1, 10, 11, 16)
MOST = 64


def sizes_of(values: Sequence[Any]) -> Sizes:
    """Sizes as an array of Python's integers."""
    made = np.empty(len(values), object)
    made[:] = list(values)
    return made


def as_tensor(values: Sizes) -> torch.Tensor:
    """Sizes as a tensor, for what computes with them."""
    return torch.tensor(values.tolist())


def _axes(operation: Operation, given: np.ndarray | None) -> list[int] | None:
    return numbers(operation, "axes", given)  # type: ignore[arg-type]


def _div(a: Any, b: Any) -> Any:
    whole = not any(isinstance(one, float) for one in (*a.reshape(-1), *b.reshape(-1)))
    return a // b if whole else a / b


def _cast(operation: Operation, x: Sizes) -> Sizes:
    change: Callable[[Any], Any] = int if operation.attributes["to"] not in FLOATS else float
    made = x.astype(object)
    flat = made.reshape(-1)
    for i, value in enumerate(flat):
        known = isinstance(value, (int, float, bool, np.number, np.bool_))
        flat[i] = change(value) if known else value
    return flat.reshape(x.shape)


def _slice(
    operation: Operation,
    x: Sizes,
    starts: np.ndarray | None = None,
    ends: np.ndarray | None = None,
    axes: np.ndarray | None = None,
    steps: np.ndarray | None = None,
) -> Sizes:
    begin = numbers(operation, "starts", starts) or []  # type: ignore[arg-type]
    end = numbers(operation, "ends", ends) or []  # type: ignore[arg-type]
    along = _axes(operation, axes) or range(len(begin))
    by = [1] * len(begin) if steps is None else steps.tolist()
    index = [slice(None)] * x.ndim
    for axis, first, last, step in zip(along, begin, end, by, strict=True):
        taken = range(*slice(first, last, step).indices(x.shape[axis]))
        stop = taken.stop if taken.stop >= 0 else None
        index[axis] = slice(taken.start, stop, taken.step)
    return x[tuple(index)]


def _squeeze(operation: Operation, x: Sizes, axes: np.ndarray | None = None) -> Sizes:
    along = _axes(operation, axes)
    return np.squeeze(x, None if along is None else tuple(along))


def _unsqueeze(operation: Operation, x: Sizes, axes: np.ndarray | None = None) -> Sizes:
    return np.expand_dims(x, tuple(_axes(operation, axes) or ()))


def _reduced(function: Callable[[Any, Any], Any]) -> Callable[..., Sizes]:
    def carried_out(operation: Operation, x: Sizes, axes: np.ndarray | None = None) -> Sizes:  # noqa: ARG001
        made = sizes_of([reduce(function, x.reshape(-1).tolist())])
        return made if operation.attributes.get("keepdims", 1) else made.reshape(())

    return carried_out


def _peers(function: Callable[..., Any]) -> Callable[..., Sizes]:
    def carried_out(_operation: Operation, *values: np.ndarray) -> Sizes:
        made = reduce(function, [value.astype(object) for value in values])
        return np.asarray(made, object)

    return carried_out


def _constant_of_shape(operation: Operation, shape: Sizes) -> Sizes:
    value = operation.attributes.get("value")
    fill = 0.0 if value is None else np.asarray(value).reshape(-1)[0].item()
    made = np.empty([int(size) for size in shape], object)
    made[...] = fill
    return made


# How sizes are computed; all inputs are sizes, or constants.
ON_SIZES: Mapping[str, Callable[..., Sizes]] = {
    "Add": _peers(operator.add),
    "Cast": _cast,
    "Concat": lambda operation, *values: np.concatenate(values, operation.attributes["axis"]),
    "ConstantOfShape": _constant_of_shape,
    "Div": _peers(_div),
    "Equal": _peers(lambda a, b: np.equal(a, b, dtype=object)),
    "Gather": lambda operation, x, i: np.asarray(
        np.take(x, i.astype(np.int64), operation.attributes.get("axis", 0)), object
    ),
    "Identity": lambda _operation, x: x,
    "Max": _peers(np.maximum),
    "Min": _peers(np.minimum),
    "Mul": _peers(operator.mul),
    "ReduceProd": _reduced(operator.mul),
    "ReduceSum": _reduced(operator.add),
    "Reshape": lambda _operation, x, shape: x.reshape([int(size) for size in shape]),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _peers(operator.sub),
    "Unsqueeze": _unsqueeze,
    "Where": lambda _operation, test, a, b: np.asarray(np.where(test.astype(bool), a, b), object),
}


def shape_sizes(operation: Operation, x: torch.Tensor) -> Sizes:
    """A tensor's shape, or of it the part that an operator `Shape` asks for."""
    get = operation.attributes.get
    return sizes_of(x.shape[slice(get("start", 0), get("end"))])


def count(_operation: Operation, x: torch.Tensor) -> Sizes:
    """How many elements a tensor has, as `Size` gives it."""
    return np.asarray(reduce(operator.mul, x.shape, 1), object)

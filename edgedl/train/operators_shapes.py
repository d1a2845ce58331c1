"""Operators that move elements about: reshaping, joining, splitting, padding, and shapes as values.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators_base import (
    Function,
    Outputs,
    choice,
    integers,
    numbers,
    of_node,
    of_opset,
    of_tensors,
    refusal,
    tensor_of,
    together,
)

BOOLEAN_MASK_FROM = 10


def _reshape(operation: Operation, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    if not operation.attributes.get("allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(operation: Operation, x: Tensor) -> Tensor:
    axis = operation.attributes.get("axis", 1)
    rows = math.prod(x.shape[: axis + x.dim() if axis < 0 else axis])
    return x.reshape(rows, x.numel() // rows if rows else math.prod(x.shape[axis:]))


def _transpose(operation: Operation, x: Tensor) -> Tensor:
    return x.permute(operation.attributes.get("perm") or tuple(reversed(range(x.dim()))))


def _concat(operation: Operation, *values: Tensor) -> Tensor:
    parts = [value for value in together(values) if value is not None]
    return torch.cat(parts, operation.attributes["axis"])


def _split(operation: Operation, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = operation.attributes.get("axis", 0)
    sizes = numbers(operation, "split", split)
    if sizes is None:
        length, count = x.shape[axis], len(operation.outputs)
        size = -(-length // count)
        sizes = [min(size, length - i * size) for i in range(count)]
    return torch.split(x, sizes, axis)


def _slice(
    operation: Operation,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    begin, end = numbers(operation, "starts", starts) or [], numbers(operation, "ends", ends) or []
    along = numbers(operation, "axes", axes) or range(len(begin))
    by = [1] * len(begin) if steps is None else integers(steps)
    for axis, first, last, step in zip(along, begin, end, by, strict=True):
        x = _sliced(x, axis, range(*slice(first, last, step).indices(x.shape[axis])))
    return x


def _sliced(x: Tensor, axis: int, taken: range) -> Tensor:
    """Torch cannot step backwards."""
    forwards = taken if taken.step > 0 else taken[::-1]
    part = x.movedim(axis, 0)[forwards.start : max(forwards.stop, 0) : forwards.step]
    part = part if len(forwards) else part[:0]
    return (part if taken.step > 0 else part.flip(0)).movedim(0, axis)


def _squeeze(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = numbers(operation, "axes", axes)
    return x.squeeze() if along is None else x.squeeze(tuple(along))


def _unsqueeze(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = numbers(operation, "axes", axes) or []
    for axis in sorted(axis % (x.dim() + len(along)) for axis in along):
        x = x.unsqueeze(axis)
    return x


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    sizes = [1] * (x.dim() - len(sizes)) + sizes
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    return x.expand([old if new == 1 else new for old, new in zip(own, sizes, strict=True)])


def _pad(
    operation: Operation,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = numbers(operation, "pads", pads) or []
    along = range(x.dim()) if axes is None else [axis % x.dim() for axis in integers(axes)]
    half = len(along)
    pairs = {axis: (amounts[i], amounts[half + i]) for i, axis in enumerate(along)}
    mode = operation.attributes.get("mode", "constant")
    if mode == "constant":
        fill = operation.attributes.get("value", 0.0) if value is None else value.item()
        flat = [n for axis in reversed(range(x.dim())) for n in pairs.get(axis, (0, 0))]
        return functional.pad(x, flat, value=fill) if any(flat) else x
    place = choice(operation, "mode", PLACES, mode)
    for axis, (before, after) in pairs.items():
        if before or after:
            length = x.shape[axis]
            positions = torch.arange(-before, length + after, device=x.device)
            x = x.index_select(axis, place(positions, length))
    return x


def _reflected(positions: Tensor, length: int) -> Tensor:
    period = max(1, 2 * (length - 1))
    return (length - 1) - (positions % period - (length - 1)).abs()


PLACES: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "edge": lambda positions, length: positions.clamp(0, length - 1),
    "reflect": _reflected,
    "wrap": lambda positions, length: positions % length,
}


def _depth_to_space(operation: Operation, x: Tensor) -> Tensor:
    size, (n, channels, height, width) = operation.attributes["blocksize"], x.shape
    depth = channels // size**2
    if operation.attributes.get("mode", "DCR") == "DCR":
        cells = x.reshape(n, size, size, depth, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        cells = x.reshape(n, depth, size, size, height, width).permute(0, 1, 4, 2, 5, 3)
    return cells.reshape(n, depth, height * size, width * size)


def _space_to_depth(operation: Operation, x: Tensor) -> Tensor:
    size, (n, channels, height, width) = operation.attributes["blocksize"], x.shape
    cells = x.reshape(n, channels, height // size, size, width // size, size)
    return cells.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, height // size, width // size)


def _shape(operation: Operation, x: Tensor) -> Tensor:
    get = operation.attributes.get
    return _counts(x.shape[slice(get("start", 0), get("end"))])


def _counts(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


def _constant_of_shape(operation: Operation, shape: Tensor) -> Tensor:
    value = operation.attributes.get("value")
    fill = torch.zeros(1) if value is None else tensor_of(value)
    return fill.reshape(()).expand(integers(shape)).clone()


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((last - first) / step))
    return (torch.arange(count) * step + first).to(start.dtype)


def _trilu(operation: Operation, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else integers(k)[0]
    return (torch.triu if operation.attributes.get("upper", 1) else torch.tril)(x, diagonal)


def _dropout(
    operation: Operation,
    opset: int,
    x: Tensor,
    ratio: Tensor | None = None,
    training: Tensor | None = None,
) -> Outputs:
    if training is not None and bool(training) and (ratio is None or ratio.item() > 0):
        raise refusal(operation, "its training mode", hint="export the model for inference")
    if not any(operation.outputs[1:]):
        return x
    mask = torch.ones_like(x, dtype=torch.bool if opset >= BOOLEAN_MASK_FROM else x.dtype)
    return x, mask


SHAPES: Mapping[str, Function] = {
    "Concat": of_node(_concat),
    "ConstantOfShape": of_node(_constant_of_shape),
    "DepthToSpace": of_node(_depth_to_space),
    "Dropout": of_opset(_dropout),
    "Expand": of_tensors(_expand),
    "Flatten": of_node(_flatten),
    "Pad": of_node(_pad),
    "Range": of_tensors(_range),
    "Reshape": of_node(_reshape),
    "Shape": of_node(_shape),
    "Size": of_tensors(lambda x: torch.tensor(x.numel())),
    "Slice": of_node(_slice),
    "SpaceToDepth": of_node(_space_to_depth),
    "Split": of_node(_split),
    "Squeeze": of_node(_squeeze),
    "Tile": of_tensors(lambda x, repeats: x.repeat(integers(repeats))),
    "Transpose": of_node(_transpose),
    "Trilu": of_node(_trilu),
    "Unsqueeze": of_node(_unsqueeze),
}

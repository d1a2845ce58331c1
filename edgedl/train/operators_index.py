"""Operators that read or write at indices, and those between values and integer codes.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgedl.core.program import Operation
from edgedl.train.operators_base import Function, choice, integers, of_node, of_tensors, refusal
from edgedl.train.operators_elementwise import DTYPES

REDUCTIONS: Mapping[str, str] = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
CODES = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def _wrapped(indices: Tensor, length: int, data: Tensor) -> Tensor:
    """Indices that count from the end made to count from the start."""
    indices = indices.to(data.device, torch.int64)
    return torch.where(indices < 0, indices + length, indices)


def _gather(operation: Operation, data: Tensor, indices: Tensor) -> Tensor:
    axis = operation.attributes.get("axis", 0) % data.dim()
    flat = _wrapped(indices, data.shape[axis], data).reshape(-1)
    shape = (*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :])
    return data.index_select(axis, flat).reshape(shape)


def _gather_elements(operation: Operation, data: Tensor, indices: Tensor) -> Tensor:
    axis = operation.attributes.get("axis", 0)
    return data.gather(axis, _wrapped(indices, data.shape[axis], data))


def _row(indices: Tensor, sizes: Sequence[int], data: Tensor) -> Tensor:
    """Which row, of axes of these sizes made one, each index tuple means."""
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for i, size in enumerate(sizes):
        row = row * size + _wrapped(indices[..., i], size, data)
    return row


def _gather_nd(operation: Operation, data: Tensor, indices: Tensor) -> Tensor:
    shared, depth = operation.attributes.get("batch_dims", 0), indices.shape[-1]
    batch = math.prod(data.shape[:shared])
    picked, kept = data.shape[shared : shared + depth], data.shape[shared + depth :]
    rows = _row(indices, picked, data).reshape(batch, -1)
    table = data.reshape(batch, math.prod(picked), -1)
    found = table[torch.arange(batch, device=data.device)[:, None], rows]
    return found.reshape(*indices.shape[:-1], *kept)


def _scattered(
    operation: Operation, data: Tensor, axis: int, indices: Tensor, updates: Tensor
) -> Tensor:
    reduction = operation.attributes.get("reduction", "none")
    if reduction == "none":
        return data.scatter(axis, indices, updates)
    how = choice(operation, "reduction", REDUCTIONS, reduction)
    return data.scatter_reduce(axis, indices, updates, how)


def _scatter_elements(
    operation: Operation, data: Tensor, indices: Tensor, updates: Tensor
) -> Tensor:
    axis = operation.attributes.get("axis", 0)
    wrapped = _wrapped(indices, data.shape[axis], data)
    return _scattered(operation, data, axis, wrapped, updates.to(data.device))


def _scatter_nd(operation: Operation, data: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    picked = data.shape[: indices.shape[-1]]
    table = data.reshape(math.prod(picked), -1)
    rows = _row(indices, picked, data).reshape(-1, 1).expand(-1, table.shape[1])
    values = updates.to(data.device).reshape(rows.shape)
    return _scattered(operation, table, 0, rows, values).reshape(data.shape)


def _one_hot(operation: Operation, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    (count,) = integers(depth)
    axis = operation.attributes.get("axis", -1) % (indices.dim() + 1)
    wrapped = _wrapped(indices, count, values).unsqueeze(axis)
    classes = torch.arange(count, device=values.device)
    hot = wrapped == classes.reshape(-1, *(1,) * (indices.dim() - axis))
    return torch.where(hot, values[1], values[0])


def _spread(operation: Operation, values: Tensor, x: Tensor) -> Tensor:
    """Scales or zero points in a shape that x is divided by."""
    if operation.attributes.get("block_size", 0) or values.dim() > 1:
        raise refusal(operation, "scales of blocks")
    if values.numel() == 1:
        return values.reshape(())
    axis = operation.attributes.get("axis", 1) % x.dim()
    return values.reshape(-1, *(1,) * (x.dim() - 1 - axis))


def _quantize(operation: Operation, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    kind = DTYPES.get(operation.attributes.get("output_dtype", 0) or 2)
    kind = kind if zero is None else zero.dtype
    if kind not in CODES:
        raise refusal(operation, f"codes of type {kind}")
    span = torch.iinfo(kind)
    codes = torch.round(x / _spread(operation, scale, x))
    if zero is not None:
        codes = codes + _spread(operation, zero, x).to(codes.dtype)
    return codes.clamp(span.min, span.max).to(kind)


def _dequantize(
    operation: Operation, codes: Tensor, scale: Tensor, zero: Tensor | None = None
) -> Tensor:
    steps = codes.to(torch.int32)
    if zero is not None:
        steps = steps - _spread(operation, zero, codes).to(torch.int32)
    return steps.to(scale.dtype) * _spread(operation, scale, codes)


INDEX: Mapping[str, Function] = {
    "DequantizeLinear": of_node(_dequantize),
    "Gather": of_node(_gather),
    "GatherElements": of_node(_gather_elements),
    "GatherND": of_node(_gather_nd),
    "NonZero": of_tensors(lambda x: torch.nonzero(x).T),
    "OneHot": of_node(_one_hot),
    "QuantizeLinear": of_node(_quantize),
    "ScatterElements": of_node(_scatter_elements),
    "ScatterND": of_node(_scatter_nd),
}

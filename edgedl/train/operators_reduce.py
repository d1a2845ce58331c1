"""Operators that take sums along axes: products, reductions, the largest, running sums.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from edgedl.core.program import Operation
from edgedl.train.operators_base import (
    Function,
    integers,
    numbers,
    of_node,
    of_peers,
    refusal,
)

Reduce = Callable[[Tensor, Sequence[int], bool], Tensor]


def _gemm(operation: Operation, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    get = operation.attributes.get
    product = (a.T if get("transA", 0) else a) @ (b.T if get("transB", 0) else b)
    product = _times(product, get("alpha", 1.0))
    return product if c is None else product + _times(c, get("beta", 1.0))


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor


def _fused_matmul(operation: Operation, a: Tensor, b: Tensor) -> Tensor:
    get = operation.attributes.get
    if get("transBatchA", 0) or get("transBatchB", 0):
        raise refusal(operation, "its transposed batches")
    a = a.mT if get("transA", 0) and a.dim() > 1 else a
    b = b.mT if get("transB", 0) and b.dim() > 1 else b
    return _times(a @ b, get("alpha", 1.0))


def _einsum(operation: Operation, *values: Tensor) -> Tensor:
    return torch.einsum(operation.attributes["equation"].replace(" ", ""), *values)


def _reduction(function: Reduce) -> Function:
    def carried_out(operation: Operation, x: Tensor, axes: Tensor | None = None) -> Tensor:
        get = operation.attributes.get
        along = numbers(operation, "axes", axes)
        if not along and get("noop_with_empty_axes", 0):
            return function(x.unsqueeze(-1), [-1], False)  # each element is a sum of one
        along = along or list(range(x.dim()))
        along = [axis % max(1, x.dim()) for axis in along]
        return function(x, along if x.dim() else (), bool(get("keepdims", 1))).to(x.dtype)

    return of_node(carried_out)


def _mean(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.mean(tuple(axes), keep)
    count = math.prod(x.shape[axis] for axis in axes)
    return torch.div(x.sum(tuple(axes), keep), count, rounding_mode="trunc")


def _prod(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keep)
    return x


def _l2(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        norms: Tensor = torch.linalg.vector_norm(x, 2, tuple(axes), keep)
        return norms
    return torch.sqrt(x.double().square().sum(tuple(axes), keep))


def _extreme(function: Callable[..., Tensor]) -> Function:
    def carried_out(operation: Operation, x: Tensor) -> Tensor:
        get = operation.attributes.get
        axis, keep = get("axis", 0), bool(get("keepdims", 1))
        last = bool(get("select_last_index", 0))
        index = function(x.flip(axis) if last else x, axis, keep)
        return x.shape[axis] - 1 - index if last else index

    return of_node(carried_out)


def _top(operation: Operation, x: Tensor, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    axis = operation.attributes.get("axis", -1)
    k = operation.attributes["k"] if count is None else integers(count)[0]
    largest = bool(operation.attributes.get("largest", 1))
    # Of equal values the first counts, which `topk` does not promise.
    values, indices = torch.sort(x, dim=axis, descending=largest, stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def _running_sum(operation: Operation, x: Tensor, along: Tensor) -> Tensor:
    (axis,) = integers(along)
    reverse = bool(operation.attributes.get("reverse", 0))
    sums = (x.flip(axis) if reverse else x).cumsum(axis, dtype=x.dtype)
    if operation.attributes.get("exclusive", 0):
        before = sums.narrow(axis, 0, x.shape[axis] - 1)
        sums = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), before], axis)
    return sums.flip(axis) if reverse else sums


REDUCTIONS: Mapping[str, Reduce] = {
    "ReduceL1": lambda x, axes, keep: x.abs().sum(tuple(axes), keep),
    "ReduceL2": _l2,
    "ReduceLogSum": lambda x, axes, keep: x.sum(tuple(axes), keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, tuple(axes), keep),
    "ReduceMax": lambda x, axes, keep: x.amax(tuple(axes), keep),
    "ReduceMean": _mean,
    "ReduceMin": lambda x, axes, keep: x.amin(tuple(axes), keep),
    "ReduceProd": _prod,
    "ReduceSum": lambda x, axes, keep: x.sum(tuple(axes), keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(tuple(axes), keep),
}

REDUCE: Mapping[str, Function] = {
    **{kind: _reduction(function) for kind, function in REDUCTIONS.items()},
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": of_node(_running_sum),
    "Einsum": of_node(_einsum),
    "Gemm": of_node(_gemm),
    "MatMul": of_peers(torch.matmul),
    "TopK": of_node(_top),
    "com.microsoft:FusedMatMul": of_node(_fused_matmul),
}

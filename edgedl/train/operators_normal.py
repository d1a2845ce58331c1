"""Operators that normalize: softmaxes, and batch, layer, group and other normalizations.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators_base import Function, Outputs, of_node, of_opset, refusal

EPSILON, SKIP_EPSILON = 1e-5, 1e-12
FLATTENING_BEFORE, SCALES_BY_CHANNEL_FROM = 13, 21


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Function:
    def carried_out(operation: Operation, opset: int, x: Tensor) -> Tensor:
        if opset >= FLATTENING_BEFORE:
            return function(x, operation.attributes.get("axis", -1))
        axis = operation.attributes.get("axis", 1) % x.dim()
        return function(x.flatten(axis), -1).reshape(x.shape)

    return of_opset(carried_out)


def _layer_norm(
    operation: Operation, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Outputs:
    axis = operation.attributes.get("axis", -1) % x.dim()
    epsilon = operation.attributes.get("epsilon", EPSILON)
    normal = _normalized(x, axis, epsilon, scale, bias)
    if not any(operation.outputs[1:]):
        return normal
    return normal, *_statistics(x, axis, epsilon)


def _normalized(x: Tensor, axis: int, epsilon: float, scale: Tensor, bias: Tensor | None) -> Tensor:
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        return functional.layer_norm(x, shape, scale, bias, epsilon)
    normal = functional.layer_norm(x, shape, eps=epsilon) * scale
    return normal if bias is None else normal + bias


def _statistics(x: Tensor, axis: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """The mean and the inverse of the standard deviation, float32 for what is narrower."""
    wide = x if x.dtype == torch.float64 else x.float()
    axes = tuple(range(axis, x.dim()))
    variance = wide.var(axes, correction=0, keepdim=True)
    return wide.mean(axes, keepdim=True), torch.rsqrt(variance + epsilon)


def _skip_layer_norm(
    operation: Operation,
    x: Tensor,
    skip: Tensor,
    scale: Tensor,
    shift: Tensor | None = None,
    bias: Tensor | None = None,
) -> Outputs:
    total = x + skip if bias is None else x + skip + bias
    epsilon = operation.attributes.get("epsilon", SKIP_EPSILON)
    normal = _normalized(total, x.dim() - 1, epsilon, scale, shift)
    if not any(operation.outputs[1:]):
        return normal
    return normal, *_statistics(total, x.dim() - 1, epsilon), total


def _rms_norm(operation: Operation, x: Tensor, scale: Tensor) -> Tensor:
    axis = operation.attributes.get("axis", -1) % x.dim()
    wide = x if x.dtype == torch.float64 else x.float()
    squares = wide.square().mean(tuple(range(axis, x.dim())), keepdim=True)
    normal = wide * torch.rsqrt(squares + operation.attributes.get("epsilon", EPSILON))
    return normal.to(x.dtype) * scale


def _per_channel(values: Tensor, rank: int) -> Tensor:
    return values.reshape(-1, *(1,) * (rank - 2))


def _grouped(x: Tensor, groups: int, epsilon: float) -> Tensor:
    """Each sample's groups of channels with mean 0 and variance 1."""
    rows = x.reshape(x.shape[0], groups, -1)
    return functional.layer_norm(rows, rows.shape[2:], eps=epsilon).reshape(x.shape)


def _instance_norm(operation: Operation, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    normal = _grouped(x, x.shape[1], operation.attributes.get("epsilon", EPSILON))
    return normal * _per_channel(scale, x.dim()) + _per_channel(bias, x.dim())


def _group_norm(operation: Operation, opset: int, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = operation.attributes["num_groups"]
    if opset < SCALES_BY_CHANNEL_FROM:
        scale, bias = (values.repeat_interleave(x.shape[1] // groups) for values in (scale, bias))
    normal = _grouped(x, groups, operation.attributes.get("epsilon", EPSILON))
    return normal * _per_channel(scale, x.dim()) + _per_channel(bias, x.dim())


def _batch_norm(
    operation: Operation, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    get = operation.attributes.get
    if get("training_mode", 0) or any(operation.outputs[1:]):
        raise refusal(operation, "its training mode", hint="export the model for inference")
    if not get("spatial", 1):
        raise refusal(operation, "statistics of each position")
    return functional.batch_norm(x, mean, variance, scale, bias, eps=get("epsilon", EPSILON))


def _lp_norm(operation: Operation, x: Tensor) -> Tensor:
    axis, p = operation.attributes.get("axis", -1), operation.attributes.get("p", 2)
    norm: Tensor = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def _local_response_norm(operation: Operation, x: Tensor) -> Tensor:
    get, size = operation.attributes.get, operation.attributes["size"]
    before = (size - 1) // 2
    around = [0, 0] * (x.dim() - 2) + [before, size - 1 - before]
    sums = functional.pad(x.square(), around).unfold(1, size, 1).sum(-1)
    return x / torch.pow(get("bias", 1.0) + get("alpha", 1e-4) / size * sums, get("beta", 0.75))


NORMAL: Mapping[str, Function] = {
    "BatchNormalization": of_node(_batch_norm),
    "GroupNormalization": of_opset(_group_norm),
    "InstanceNormalization": of_node(_instance_norm),
    "LRN": of_node(_local_response_norm),
    "LayerNormalization": of_node(_layer_norm),
    "LogSoftmax": _softmax(torch.log_softmax),
    "LpNormalization": of_node(_lp_norm),
    "RMSNormalization": of_node(_rms_norm),
    "Softmax": _softmax(torch.softmax),
    "com.microsoft:SkipLayerNormalization": of_node(_skip_layer_norm),
}

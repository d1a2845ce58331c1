"""Operations with weights as layers of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.graphs.node import Constants, Made, Node, fill
from edgedl.train.graphs.probe import Seen
from edgedl.train.graphs.recurrent import recurrent
from edgedl.train.operators_base import refusal, tensor_of
from edgedl.train.operators_windows import window_of

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE_NORM = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
EPSILON = 1e-5
LARGEST = 1e4
SCALES_BY_CHANNEL_FROM = 21


class Scale(nn.Module):
    """Values times a weight that broadcasts: a factor a channel.

    Attributes:
        weight: in the file's shape, such as [channels, 1, 1].
        axis: which of its axes are channels, from the end: -3.
    """

    def __init__(self, weight: Tensor, axis: int) -> None:
        super().__init__()
        self.weight, self.axis = nn.Parameter(weight), axis

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return x * self.weight


class Shift(nn.Module):
    """Values plus a weight that broadcasts: an offset a channel, or a place's embedding.

    Attributes:
        weight: in the file's shape, such as [1, places, channels].
        axis: which of its axes are channels, from the end: -1.
    """

    def __init__(self, weight: Tensor, axis: int) -> None:
        super().__init__()
        self.weight, self.axis = nn.Parameter(weight), axis

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        return x + self.weight


class Product(nn.Module):
    """A matrix product with a weight that is no linear layer's: on the left, or one a batch."""

    def __init__(self, weight: Tensor, left: bool) -> None:
        super().__init__()
        self.weight, self.left = nn.Parameter(weight), left

    def forward(self, x: Tensor) -> Tensor:
        """The product."""
        return self.weight @ x if self.left else x @ self.weight


class Token(nn.Module):
    """A learned value that is joined with others, such as the token of a class.

    Attributes:
        weight: in the file's shape, such as [1, 1, channels].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        """The value."""
        return self.weight


def layer_of(operation: Operation, constants: Constants, seen: Seen, opset: int) -> Made | None:
    """The layer that an operation is; None where it has no weights to be trained.

    Raises:
        Unsupported: it has weights, and torch has no such layer.
    """
    make = LAYERS.get(operation.kind) if operation.domain in ("", "ai.onnx") else None
    return None if make is None else make(Node(operation, constants, seen, opset))


def _conv(node: Node) -> Made | None:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or not node.constant_or_absent(2) or weight.ndim - 2 not in CONV:
        return None
    lengths = node.seen.shapes[node.name(0)][2:]
    window, groups = window_of(node.operation, lengths, weight.shape[2:]), node.get("group", 1)
    even = window.even and min(window.begin, default=0) >= 0
    kind: Any = CONV[weight.ndim - 2]
    layer = kind(
        weight.shape[1] * groups, weight.shape[0], weight.shape[2:], window.strides,
        window.begin if even else 0, window.dilations, groups, bias is not None,
    )  # fmt: skip
    fill(layer.weight, weight)
    if bias is not None:
        fill(layer.bias, bias)
    amounts = [n for p in zip(reversed(window.begin), reversed(window.end), strict=True) for n in p]
    call = None if even else lambda layer, x: layer(functional.pad(x, amounts))
    return Made(layer, (node.name(0),), call, (*node.key, tuple(amounts)))


def _conv_transpose(node: Node) -> Made | None:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or not node.constant_or_absent(2) or weight.ndim - 2 not in CONV_TRANSPOSE:
        return None
    rank, groups = weight.ndim - 2, node.get("group", 1)
    before = node.seen.shapes[node.name(0)][2:]
    after = node.seen.shapes[node.operation.outputs[0]][2:]
    strides, dilations = node.get("strides") or (1,) * rank, node.get("dilations") or (1,) * rank
    auto = node.get("auto_pad", "NOTSET")
    pads = (node.get("pads") if auto == "NOTSET" else None) or (0,) * 2 * rank
    padding, surplus = [], []
    for i in range(rank):
        whole = strides[i] * (before[i] - 1) + (weight.shape[2 + i] - 1) * dilations[i] + 1
        given = auto == "NOTSET" and node.get("output_shape") is None
        cut = whole - after[i]
        begin = pads[i] if given else cut // 2 if auto != "SAME_LOWER" else cut - cut // 2
        # What is cut at both ends is even in torch, and elements are added at the end.
        padding.append(begin)
        surplus.append(after[i] - (whole - 2 * begin))
    fits = all(0 <= n < max(s, d) for n, s, d in zip(surplus, strides, dilations, strict=True))
    if not fits or min(padding) < 0:
        raise refusal(node.operation, f"its pads {list(pads)}", hint="export it with even pads")
    kind: Any = CONV_TRANSPOSE[rank]
    layer = kind(
        weight.shape[0], weight.shape[1] * groups, weight.shape[2:], strides, tuple(padding),
        tuple(surplus), groups, bias is not None, dilations,
    )  # fmt: skip
    fill(layer.weight, weight)
    if bias is not None:
        fill(layer.bias, bias)
    return Made(layer, (node.name(0),), None, node.key)


def linear(weight: np.ndarray, bias: np.ndarray | None) -> nn.Linear:
    """A dense layer of a weight [outputs, inputs]."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    fill(layer.weight, weight)
    if bias is not None:
        fill(layer.bias, np.broadcast_to(bias.reshape(-1), weight.shape[:1]))
    return layer


def _gemm(node: Node) -> Made | None:
    weight, bias = node.weight(1), node.weight(2)
    if weight is None or node.get("transA", 0) or not node.constant_or_absent(2):
        return None
    weight = node.get("alpha", 1.0) * (weight if node.get("transB", 0) else weight.T)
    if bias is not None and (bias.size not in (1, len(weight)) or bias.shape[-1:] != (bias.size,)):
        return None
    scaled = None if bias is None else node.get("beta", 1.0) * bias
    return Made(linear(weight, scaled), (node.name(0),), None, node.key)


def _matmul(node: Node) -> Made | None:
    left, right = node.weight(0), node.weight(1)
    if right is not None and right.ndim == 2:
        return Made(linear(right.T, None), (node.name(0),), None, node.key)
    if left is not None and left.ndim >= 2:
        return Made(Product(tensor_of(left), left=True), (node.name(1),))
    if right is not None and right.ndim > 2:
        return Made(Product(tensor_of(right), left=False), (node.name(0),))
    return None


def _batch_norm(node: Node) -> Made | None:
    scale, bias, mean, variance = (node.weight(i) for i in range(1, 5))
    rank = node.seen.rank(node.name(0)) - 2
    if scale is None or bias is None or mean is None or variance is None or rank not in BATCH_NORM:
        return None
    kind: Any = BATCH_NORM[rank]
    layer = kind(len(scale), eps=node.get("epsilon", EPSILON))
    for own, array in (
        (layer.weight, scale),
        (layer.bias, bias),
        (layer.running_mean, mean),
        (layer.running_var, variance),
    ):
        fill(own, array)
    return Made(layer, (node.name(0),))


def _instance_norm(node: Node) -> Made | None:
    scale, bias = node.weight(1), node.weight(2)
    rank = node.seen.rank(node.name(0)) - 2
    if scale is None or bias is None or rank not in INSTANCE_NORM:
        return None
    kind: Any = INSTANCE_NORM[rank]
    layer = kind(len(scale), eps=node.get("epsilon", EPSILON), affine=True)
    fill(layer.weight, scale)
    fill(layer.bias, bias)
    return Made(layer, (node.name(0),))


def group_norm(
    groups: int, epsilon: float, scale: np.ndarray | None, bias: np.ndarray | None, channels: int
) -> nn.GroupNorm:
    """Groups of channels normalized, with a factor and an offset a channel where there are any."""
    layer = nn.GroupNorm(groups, channels, epsilon, affine=scale is not None or bias is not None)
    if scale is not None:
        fill(layer.weight, scale)
    if bias is not None:
        fill(layer.bias, bias)
    return layer


def _group_norm(node: Node) -> Made | None:
    scale, bias = node.weight(1), node.weight(2)
    if scale is None or bias is None:
        return None
    channels, groups = node.seen.shapes[node.name(0)][1], node.get("num_groups")
    if node.opset < SCALES_BY_CHANNEL_FROM:
        scale, bias = (np.repeat(one, channels // groups) for one in (scale, bias))
    layer = group_norm(groups, node.get("epsilon", EPSILON), scale, bias, channels)
    return Made(layer, (node.name(0),))


def _layer_norm(node: Node) -> Made | None:
    scale, bias = node.weight(1), node.weight(2)
    shape = node.seen.shapes[node.name(0)]
    inner = shape[node.get("axis", -1) % len(shape) :]
    fits = scale is not None and scale.shape == inner and (bias is None or bias.shape == inner)
    if not fits or not node.constant_or_absent(2) or any(node.operation.outputs[1:]):
        return None
    assert scale is not None
    layer = nn.LayerNorm(inner, node.get("epsilon", EPSILON), bias=bias is not None)
    fill(layer.weight, scale)
    if bias is not None:
        fill(layer.bias, bias)
    return Made(layer, (node.name(0),))


def _prelu(node: Node) -> Made | None:
    slope, rank = node.weight(1), node.seen.rank(node.name(0))
    if slope is None or rank < 2:
        return None
    whole = (1,) * (rank - slope.ndim) + slope.shape
    if slope.size > 1 and slope.size != whole[1]:
        return None
    layer = nn.PReLU(slope.size)
    fill(layer.weight, slope)
    return Made(layer, (node.name(0),))


def _embedding(node: Node) -> Made | None:
    table = node.weight(0)
    if table is None or table.ndim != 2 or node.get("axis", 0) or node.name(1) in node.constants:
        return None
    layer = nn.Embedding(*table.shape)
    fill(layer.weight, table)
    return Made(layer, (node.name(1),), None, ("Embedding", node.name(0)))


def _elementwise(node: Node) -> Made | None:
    """A sum, difference, product or quotient of values and a constant with channels."""
    place = next((i for i in (0, 1) if node.weight(i) is not None), None)
    kind = node.operation.kind
    if place is None or (place == 0 and kind in ("Sub", "Div")) or len(node.operation.inputs) != 2:
        return None
    array, other = node.weight(place), node.name(1 - place)
    assert array is not None
    if other in node.constants or not learned(array) or array.ndim > node.seen.rank(other):
        return None
    if kind in ("Sub", "Div"):
        array = -array if kind == "Sub" else 1 / array
        if not np.isfinite(array).all():
            return None
    layer: type[Scale | Shift] = Scale if kind in ("Mul", "Div") else Shift
    rank = node.seen.rank(other)
    wide = [i - array.ndim for i, size in enumerate(array.shape) if size > 1]
    axis = 1 - rank if rank > 3 and 1 - rank in wide else wide[-1]
    return Made(layer(tensor_of(array.astype(np.float32)), axis), (other,))


def learned(array: np.ndarray) -> bool:
    """Whether a constant looks like weights: several real numbers, and no mask of the largest."""
    if array.dtype.kind != "f" or array.size < 2 or not np.isfinite(array).all():
        return False
    return float(np.abs(array).max()) <= LARGEST and bool(array.any())


LAYERS: Mapping[str, Callable[[Node], Made | None]] = {
    "Add": _elementwise,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _elementwise,
    "GRU": recurrent,
    "Gather": _embedding,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LSTM": recurrent,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _elementwise,
    "PRelu": _prelu,
    "Sub": _elementwise,
}


def with_bias(made: Made, bias: np.ndarray) -> Made:
    """A dense layer without a bias, and the sum behind it, as one layer."""
    assert isinstance(made.layer, nn.Linear)
    return Made(linear(made.layer.weight.detach().numpy(), bias), made.tensors)

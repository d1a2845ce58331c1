"""Operators that slide a window over space: convolutions and poolings.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators_base import Function, choice, of_node, of_tensors, refusal

Layers = Mapping[int, Callable[..., Tensor]]

CONV: Layers = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CONV_TRANSPOSE: Layers = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}
MAX_POOL: Layers = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE_POOL: Layers = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}


@dataclass(frozen=True)
class Window:
    """A window's path over the spatial axes, a number for each.

    Attributes:
        begin, end: elements of padding before and after.
        overhang: how far the last window of a pooling reaches beyond the padding.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    overhang: tuple[int, ...]

    @property
    def even(self) -> bool:
        """Whether there is as much padding before as after."""
        return self.begin == self.end and not any(self.overhang)

    @property
    def steps(self) -> dict[str, Any]:
        """Strides and dilations, as torch names them."""
        return {"stride": self.strides, "dilation": self.dilations}


def window_of(operation: Operation, lengths: Sequence[int], size: Sequence[int]) -> Window:
    """The window of a convolution or pooling over axes of these lengths."""
    get, rank = operation.attributes.get, len(lengths)
    strides, dilations = get("strides") or (1,) * rank, get("dilations") or (1,) * rank
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilations, strict=True)]
    begin, end = _pads(operation, lengths, strides, spans)
    ceil = get("ceil_mode", 0) and get("auto_pad", "NOTSET") == "NOTSET"
    overhang = [0] * rank
    for i in range(rank) if ceil else ():
        room = lengths[i] + begin[i] + end[i]
        last = -(-(room - spans[i]) // strides[i]) * strides[i]
        if last >= lengths[i] + begin[i]:  # such a window would see nothing but padding
            last -= strides[i]
        overhang[i] = max(0, last + spans[i] - room)
    return Window(
        tuple(size), tuple(strides), tuple(dilations), tuple(begin), tuple(end), tuple(overhang)
    )


def _pads(
    operation: Operation, lengths: Sequence[int], strides: Sequence[int], spans: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    rank, auto = len(lengths), operation.attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-length // stride) - 1) * stride + span - length)
            for length, stride, span in zip(lengths, strides, spans, strict=True)
        ]
        return _halves(totals, upper=auto == "SAME_UPPER")
    pads = operation.attributes.get("pads") if auto == "NOTSET" else None
    pads = pads or (0,) * 2 * rank
    return pads[:rank], pads[rank:]


def _halves(totals: Sequence[int], *, upper: bool) -> tuple[list[int], list[int]]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if upper else (large, small)


def _padded(x: Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> Tensor:
    """Negative amounts are cut off."""
    amounts = [n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair]
    return functional.pad(x, amounts, value=value) if any(amounts) else x


def _conv(operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = window_of(operation, x.shape[2:], weight.shape[2:])
    convolve = choice(operation, "spatial axes:", CONV, x.dim() - 2)
    groups = operation.attributes.get("group", 1)
    if window.even:
        return convolve(x, weight, bias, padding=window.begin, groups=groups, **window.steps)
    x = _padded(x, window.begin, window.end)
    return convolve(x, weight, bias, groups=groups, **window.steps)


def _conv_transpose(
    operation: Operation, x: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    get, rank = operation.attributes.get, x.dim() - 2
    convolve = choice(operation, "spatial axes:", CONV_TRANSPOSE, rank)
    extra = get("output_padding") or (0,) * rank
    steps: dict[str, Any] = {
        "stride": get("strides") or (1,) * rank,
        "dilation": get("dilations") or (1,) * rank,
        "groups": get("group", 1),
    }
    begin, end = _pads_of_transpose(operation, x, weight, steps, extra)
    if list(begin) == list(end) and min(begin) >= 0 and not any(extra):
        return convolve(x, weight, bias, padding=begin, **steps)
    whole = convolve(x, weight, **steps)
    cut = _padded(whole, [-n for n in begin], [m - n for m, n in zip(extra, end, strict=True)])
    return cut if bias is None else cut + bias.reshape(-1, *(1,) * rank)


def _pads_of_transpose(
    operation: Operation, x: Tensor, weight: Tensor, steps: Mapping[str, Any], extra: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    get, rank = operation.attributes.get, x.dim() - 2
    auto, wanted = get("auto_pad", "NOTSET"), get("output_shape")
    if wanted is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [n * stride for n, stride in zip(x.shape[2:], steps["stride"], strict=True)]
    if wanted is None:
        pads = (get("pads") if auto == "NOTSET" else None) or (0,) * 2 * rank
        return pads[:rank], pads[rank:]
    totals = [
        steps["stride"][i] * (x.shape[2 + i] - 1) + extra[i]
        + (weight.shape[2 + i] - 1) * steps["dilation"][i] + 1 - wanted[-rank:][i]
        for i in range(rank)
    ]  # fmt: skip
    return _halves(totals, upper=auto == "SAME_UPPER")


def _max_pool(operation: Operation, x: Tensor) -> Tensor:
    if any(operation.outputs[1:]):
        raise refusal(operation, "its indices")
    window = window_of(operation, x.shape[2:], operation.attributes["kernel_shape"])
    pool = choice(operation, "spatial axes:", MAX_POOL, x.dim() - 2)
    if window.even and all(2 * n <= k for n, k in zip(window.begin, window.size, strict=True)):
        return pool(x, window.size, padding=window.begin, **window.steps)
    end = [n + over for n, over in zip(window.end, window.overhang, strict=True)]
    least = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return pool(_padded(x, window.begin, end, least), window.size, **window.steps)


def _average_pool(operation: Operation, x: Tensor) -> Tensor:
    window = window_of(operation, x.shape[2:], operation.attributes["kernel_shape"])
    end = [n + over for n, over in zip(window.end, window.overhang, strict=True)]
    padded = _padded(x, window.begin, end)
    if max(window.dilations) == 1:
        pool = choice(operation, "spatial axes:", AVERAGE_POOL, x.dim() - 2)
        means = pool(padded, window.size, window.strides)
    else:
        convolve = choice(operation, "spatial axes:", CONV, x.dim() - 2)
        ones = x.new_full((1, 1, *window.size), 1 / math.prod(window.size))
        means = convolve(padded.reshape(-1, 1, *padded.shape[2:]), ones, **window.steps)
        means = means.reshape(*x.shape[:2], *means.shape[2:])
    if not any((*window.begin, *end)):
        return means
    return means * (math.prod(window.size) / _counts(operation, window, x, means.shape[2:]))


def _counts(operation: Operation, window: Window, x: Tensor, out: Sequence[int]) -> Tensor:
    """How many elements each window's sum is divided by."""
    padding = bool(operation.attributes.get("count_include_pad", 0))
    counts = x.new_ones(())
    for i, count in enumerate(out):
        begin, length = window.begin[i], x.shape[2 + i]
        starts = torch.arange(count, device=x.device) * window.strides[i] - begin
        taps = starts[:, None] + torch.arange(window.size[i], device=x.device) * window.dilations[i]
        low, high = (-begin, length + window.end[i]) if padding else (0, length)
        inside = ((taps >= low) & (taps < high)).sum(1)
        counts = counts.unsqueeze(-1) * inside
    return counts


def _spatial(x: Tensor) -> tuple[int, ...]:
    return tuple(range(2, x.dim()))


WINDOWS: Mapping[str, Function] = {
    "AveragePool": of_node(_average_pool),
    "Conv": of_node(_conv),
    "ConvTranspose": of_node(_conv_transpose),
    "GlobalAveragePool": of_tensors(lambda x: x.mean(_spatial(x), keepdim=True)),
    "GlobalMaxPool": of_tensors(lambda x: x.amax(_spatial(x), keepdim=True)),
    "MaxPool": of_node(_max_pool),
}

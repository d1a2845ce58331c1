"""Resize and Upsample, axis by axis, by indices or weights as the specification defines them.

Semantics are those of the ONNX operators specification, https://onnx.ai/onnx/operators. Positions
are float32, as onnxruntime computes them, so that the nearest of two is the same one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgedl.core.program import Operation
from edgedl.train.operators_base import Function, choice, integers, of_opset, refusal

WITHOUT_MODES_UNTIL = 10
CROP = "tf_crop_and_resize"
SHIFTING = (CROP, "tf_half_pixel_for_nn")  # these change even what keeps its length


@dataclass(frozen=True)
class Axis:
    """One axis: its length before and after, the factor between, and the part of it that is
    read, as fractions."""

    length: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def _half_pixel(x: np.ndarray, axis: Axis) -> np.ndarray:
    return np.asarray((x + 0.5) / np.float32(axis.scale) - 0.5)


def _symmetric(x: np.ndarray, axis: Axis) -> np.ndarray:
    adjustment = np.float32(axis.out) / (np.float32(axis.scale) * np.float32(axis.length))
    return np.asarray(axis.length / 2 * (1 - adjustment) + _half_pixel(x, axis))


def _align_corners(x: np.ndarray, axis: Axis) -> np.ndarray:
    return x * (axis.length - 1) / (axis.out - 1) if axis.out > 1 else np.zeros_like(x)


def _crop(x: np.ndarray, axis: Axis) -> np.ndarray:
    start, end, last = np.float32(axis.start), np.float32(axis.end), axis.length - 1
    if axis.out == 1:
        return np.full_like(x, 0.5 * (start + end) * last)
    return np.asarray(start * last + x * (end - start) * last / (axis.out - 1))


# Where an element of the result lies on the axis.
COORDINATES: Mapping[str, Callable[[np.ndarray, Axis], np.ndarray]] = {
    "align_corners": _align_corners,
    "asymmetric": lambda x, axis: x / np.float32(axis.scale),
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _symmetric,
    "pytorch_half_pixel": lambda x, axis: _half_pixel(x, axis) if axis.out > 1 else 0 * x,
    "tf_crop_and_resize": _crop,
    "tf_half_pixel_for_nn": lambda x, axis: (x + 0.5) / np.float32(axis.scale),
}

NEAREST: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "ceil": np.ceil,
    "floor": np.floor,
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
}


@dataclass(frozen=True)
class Sampling:
    """How values between elements come about, from the operator's attributes."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude_outside: bool = False
    extrapolation: float = 0.0

    def weights(self, axis: Axis, positions: np.ndarray) -> np.ndarray:
        """What each element of the axis counts in each of the result, [after, before]."""
        reach = 1 if self.mode == "linear" else 2
        curve = _triangle if self.mode == "linear" else self._cubic
        base = np.floor(positions)[:, None]
        taps = base + np.arange(1 - reach, reach + 1)
        weights = curve(np.abs(taps - positions[:, None].astype(np.float64)))
        if self.exclude_outside:
            weights = np.where((taps >= 0) & (taps < axis.length), weights, 0)
            weights = weights / weights.sum(1, keepdims=True)
        matrix = np.zeros((axis.out, axis.length))
        columns = np.clip(taps, 0, axis.length - 1).astype(np.int64)
        np.add.at(matrix, (np.arange(axis.out)[:, None], columns), weights)
        return matrix

    def _cubic(self, distance: np.ndarray) -> np.ndarray:
        """Keys, Cubic convolution interpolation, IEEE Transactions on ASSP 29 (1981)."""
        a, d = self.cubic, distance
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _triangle(distance: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(0, 1 - distance))


def resized(
    operation: Operation, x: Tensor, axes: Mapping[int, Axis], sampling: Sampling
) -> Tensor:
    """A tensor with some of its axes resampled."""
    place = choice(operation, "coordinates", COORDINATES, sampling.coordinates)
    for i, axis in axes.items():
        if axis.scale == 1 and axis.out == axis.length and sampling.coordinates not in SHIFTING:
            continue
        positions = place(np.arange(axis.out, dtype=np.float32), axis).astype(np.float32)
        x = _resampled(operation, x, i, axis, positions, sampling)
        outside = (positions < 0) | (positions > axis.length - 1)
        if sampling.coordinates == CROP and outside.any():
            mask = torch.tensor(outside, device=x.device).reshape(-1, *(1,) * (x.dim() - 1 - i))
            x = x.masked_fill(mask, sampling.extrapolation)
    return x


def _resampled(
    operation: Operation, x: Tensor, i: int, axis: Axis, positions: np.ndarray, sampling: Sampling
) -> Tensor:
    if sampling.mode == "nearest":
        nearest = choice(operation, "nearest mode", NEAREST, sampling.nearest)
        columns = np.clip(nearest(positions), 0, axis.length - 1).astype(np.int64)
        return x.index_select(i, torch.tensor(columns, device=x.device))
    if not x.is_floating_point():
        raise refusal(operation, f"{sampling.mode} interpolation of integers")
    weights = torch.tensor(sampling.weights(axis, positions), dtype=x.dtype, device=x.device)
    return (x.movedim(i, -1) @ weights.T).movedim(-1, i)


def _resize(
    operation: Operation,
    opset: int,
    x: Tensor,
    roi: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if opset <= WITHOUT_MODES_UNTIL:
        return _upsample(operation, opset, x, roi)
    get = operation.attributes.get
    mode = choice(operation, "mode", {m: m for m in ("nearest", "linear", "cubic")},
                  get("mode", "nearest"))  # fmt: skip
    sampling = Sampling(
        mode,
        get("coordinate_transformation_mode", "half_pixel"),
        get("nearest_mode", "round_prefer_floor"),
        get("cubic_coeff_a", -0.75),
        bool(get("exclude_outside", 0)),
        get("extrapolation_value", 0.0),
    )
    along = [axis % x.dim() for axis in get("axes") or range(x.dim())]
    lengths = [x.shape[i] for i in along]
    spans = _spans(sampling, roi, len(along))
    if sizes is not None and sizes.numel():
        axes = _to_sizes(operation, lengths, integers(sizes), spans)
    elif scales is not None:
        axes = [
            Axis(
                length,
                math.floor(np.float32(length * (end - start)) * np.float32(scale)),
                scale,
                start,
                end,
            )
            for length, scale, (start, end) in zip(lengths, scales.tolist(), spans, strict=True)
        ]
    else:
        raise refusal(operation, "neither scales nor sizes")
    if get("antialias", 0) and mode != "nearest" and any(axis.scale < 1 for axis in axes):
        raise refusal(operation, "antialiasing")
    return resized(operation, x, dict(zip(along, axes, strict=True)), sampling)


def _spans(sampling: Sampling, roi: Tensor | None, count: int) -> list[tuple[float, float]]:
    if sampling.coordinates != CROP or roi is None:
        return [(0.0, 1.0)] * count
    bounds = roi.tolist()
    return list(zip(bounds[:count], bounds[count:], strict=True))


def _to_sizes(
    operation: Operation,
    lengths: Sequence[int],
    sizes: Sequence[int],
    spans: Sequence[tuple[float, float]],
) -> list[Axis]:
    policy = operation.attributes.get("keep_aspect_ratio_policy", "stretch")
    scales = [size / length for size, length in zip(sizes, lengths, strict=True)]
    if policy != "stretch":
        limits: Mapping[str, Callable[[Sequence[float]], float]]
        limits = {"not_larger": min, "not_smaller": max}
        scales = [choice(operation, "policy", limits, policy)(scales)] * len(lengths)
        sizes = [math.floor(s * n + 0.5) for s, n in zip(scales, lengths, strict=True)]
    return [
        Axis(length, size, scale, *span)
        for length, size, scale, span in zip(lengths, sizes, scales, spans, strict=True)
    ]


def _upsample(operation: Operation, opset: int, x: Tensor, scales: Tensor | None = None) -> Tensor:
    get = operation.attributes.get
    factors = operation.attributes["scales"] if scales is None else scales.tolist()
    axes = {
        i: Axis(length, math.floor(np.float32(length) * np.float32(factor)), factor)
        for i, (length, factor) in enumerate(zip(x.shape, factors, strict=True))
    }
    mode = get("mode", "nearest")
    shrinks = any(factor < 1 and not (1 / factor).is_integer() for factor in factors)
    if mode == "nearest" and shrinks:
        raise refusal(operation, f"which element is nearest, which opset {opset} leaves open")
    return resized(operation, x, axes, Sampling(mode, "asymmetric", "floor"))


RESIZE: Mapping[str, Function] = {"Resize": of_opset(_resize), "Upsample": of_opset(_upsample)}

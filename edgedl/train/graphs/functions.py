"""Functions between a network's layers, for other widths than a file's, and exported as few nodes.

What is not here is carried out by the function of `edgedl.train.operators`. Inputs that steer an
operator, such as the ends of a slice, are numpy arrays of numbers that are known, or of sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.program import Operation
from edgedl.train.operators import function_of
from edgedl.train.operators_base import numbers
from edgedl.train.operators_windows import AVERAGE_POOL, window_of

Value: TypeAlias = "Tensor | np.ndarray | None"
# Called with the operation, the opset, and its inputs.
Between: TypeAlias = "Callable[..., Any]"

# Inputs that steer an operator, by position.
STEERING: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2), "ConstantOfShape": (0,), "CumSum": (1,), "Expand": (1,), "OneHot": (1,),
    "Pad": (1, 2, 3), "Range": (0, 1, 2), "Reshape": (1,), "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4), "Split": (1,), "Squeeze": (1,), "Tile": (1,), "TopK": (1,),
    "Trilu": (1,), "Unsqueeze": (1,), "Upsample": (1,),
    **{f"Reduce{kind}": (1,) for kind in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}  # fmt: skip
SIXTH, HALF = 1 / 6, 0.5
UPSAMPLING_UNTIL = 10
SMOOTH = ("half_pixel", "pytorch_half_pixel", "align_corners")
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _number(value: Value, default: float) -> float:
    return default if value is None else float(value.reshape(()).item())


def _clip(
    operation: Operation, opset: int, x: Tensor, low: Value = None, high: Value = None
) -> Any:
    if isinstance(low, Tensor) or isinstance(high, Tensor) or not x.is_floating_point():
        return _plain(operation, opset, x, low, high)
    get = operation.attributes.get
    least = _number(low, get("min", -math.inf))
    most = _number(high, get("max", math.inf))
    if (least, most) == (0.0, math.inf):
        return torch.relu(x)
    if (least, most) == (0.0, 6.0):
        return functional.relu6(x)
    bounds = [one if math.isfinite(one) else None for one in (least, most)]
    return torch.clamp(x, *bounds) if any(one is not None for one in bounds) else x


def _hard_sigmoid(operation: Operation, opset: int, x: Tensor) -> Any:
    alpha, beta = operation.attributes.get("alpha", 0.2), operation.attributes.get("beta", 0.5)
    if math.isclose(alpha, SIXTH, rel_tol=1e-6) and beta == HALF:
        return functional.hardsigmoid(x)
    return _plain(operation, opset, x)


def _expand(operation: Operation, opset: int, x: Tensor, shape: Value) -> Any:
    if isinstance(shape, Tensor) or shape is None:
        return _plain(operation, opset, x, shape)
    sizes = shape.tolist()
    sizes = [1] * (x.dim() - len(sizes)) + sizes
    own = [1] * (len(sizes) - x.dim()) + list(x.shape)
    # What is no 1 stays: either size is 1 or both are the same.
    kept = [not _is(old, 1) or _is(new, 1) for old, new in zip(own, sizes, strict=True)]
    added = len(sizes) - x.dim()
    return x.expand([-1 if keep and i >= added else sizes[i] for i, keep in enumerate(kept)])


def _is(size: Any, number: Any) -> bool:
    """Whether a size is a number, where both are known; of those that are not, nothing is asked."""
    return isinstance(size, int) and isinstance(number, int) and size == number


def _concat(operation: Operation, _opset: int, *values: Tensor) -> Tensor:
    axis = operation.attributes["axis"]
    first = max((value for value in values), key=lambda value: value.dim())
    axis %= first.dim()
    parts = list(values)
    if axis:
        # Constants of a file for one sample stand for each of a batch.
        free = [value for value in parts if not _is(value.shape[0], 1)]
        batch = (free or parts)[0].shape[0]
        parts = [v.expand(batch, *v.shape[1:]) if _is(v.shape[0], 1) and not _is(batch, 1) else v
                 for v in parts]  # fmt: skip
    return torch.cat(parts, axis)


def _slice(
    operation: Operation,
    opset: int,
    x: Tensor,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Any:
    given = (starts, ends, axes, steps)
    by = [1] if steps is None else steps.tolist()
    if any(isinstance(one, Tensor) for one in given) or not all(
        isinstance(n, int) and n > 0 for n in by
    ):
        return _plain(operation, opset, x, *given)
    begin = numbers(operation, "starts", None) if starts is None else starts.tolist()
    end = numbers(operation, "ends", None) if ends is None else ends.tolist()
    along = numbers(operation, "axes", None) if axes is None else axes.tolist()
    begin, end = begin or [], end or []
    index = [slice(None)] * x.dim()
    steps_of = by if steps is not None else [1] * len(begin)
    for axis, low, high, step in zip(along or range(len(begin)), begin, end, steps_of, strict=True):
        last = None if isinstance(high, int) and high >= 2**31 - 1 else high
        index[int(axis)] = slice(low if not _is(low, 0) else None, last, step)
    return x[tuple(index)]


def _split(operation: Operation, _opset: int, x: Tensor, split: Value = None) -> Any:
    axis = operation.attributes.get("axis", 0)
    sizes = numbers(operation, "split", split)  # type: ignore[arg-type]
    if sizes is not None and len(set(sizes)) > 1:
        return torch.split(x, sizes, axis)
    count = len(operation.outputs) if sizes is None else len(sizes)
    return torch.split(x, -(-x.shape[axis] // count), axis)


def _gather(operation: Operation, opset: int, data: Tensor, indices: Value) -> Any:
    if isinstance(indices, np.ndarray) and indices.ndim == 0:
        return data.select(operation.attributes.get("axis", 0), int(indices))
    if isinstance(indices, np.ndarray):
        return _plain(operation, opset, data, torch.tensor(indices.tolist(), device=data.device))
    if indices is not None and indices.dim() == 1 and _not_negative(operation, indices):
        return data.index_select(operation.attributes.get("axis", 0), indices)
    return _plain(operation, opset, data, indices)


def _not_negative(operation: Operation, _indices: Tensor) -> bool:
    return bool(operation.attributes.get("wrapped", False))


def _average_pool(operation: Operation, opset: int, x: Tensor) -> Any:
    window = window_of(operation, x.shape[2:], operation.attributes["kernel_shape"])
    pool = AVERAGE_POOL.get(x.dim() - 2)
    halves = all(2 * n <= k for n, k in zip(window.begin, window.size, strict=True))
    if pool is None or not window.even or max(window.dilations) > 1 or not halves:
        return _plain(operation, opset, x)
    counted = bool(operation.attributes.get("count_include_pad", 0))
    return pool(x, window.size, window.strides, window.begin, False, counted)


def _resize(
    operation: Operation,
    opset: int,
    x: Tensor,
    roi: Value = None,
    scales: Value = None,
    sizes: Value = None,
) -> Any:
    """By torch's own interpolation where it is the same."""
    if opset <= UPSAMPLING_UNTIL:
        scales = roi
    wanted = _wanted(operation, x, scales, sizes)
    made = None
    if wanted is not None and x.is_floating_point():
        made = _by_torch(operation, opset, x, wanted)
    if made is not None:
        return made
    tensors = [None if v is None else v if isinstance(v, Tensor) else torch.tensor(v.tolist())
               for v in (roi, scales, sizes)]  # fmt: skip
    if opset <= UPSAMPLING_UNTIL:
        return _plain(operation, opset, x, tensors[0])
    if tensors[2] is not None and tensors[2].numel() == x.dim():
        tensors[2] = torch.tensor([*x.shape[:2], *tensors[2].tolist()[2:]])
    return _plain(operation, opset, x, *tensors)


def _by_torch(operation: Operation, opset: int, x: Tensor, wanted: Sequence[int]) -> Tensor | None:
    """A tensor of other lengths by torch's own function; None where that computes otherwise."""
    get, before, rank = operation.attributes.get, x.shape[2:], x.dim() - 2
    mode, place = get("mode", "nearest"), get("coordinate_transformation_mode", "half_pixel")
    shrinks = any(new < old for new, old in zip(wanted, before, strict=True))
    if rank not in LINEAR or get("exclude_outside", 0) or (get("antialias", 0) and shrinks):
        return None
    if mode == "nearest":
        factors = [new / old for new, old in zip(wanted, before, strict=True)]
        nearest = get("nearest_mode", "round_prefer_floor")
        if not all(map(float.is_integer, factors)) or not _first_of_each(place, nearest, opset):
            return None
        return functional.interpolate(x, scale_factor=factors, mode="nearest")
    if opset <= UPSAMPLING_UNTIL or place not in SMOOTH or min(wanted) < 2:
        return None
    if mode == "linear":
        by = LINEAR[rank]
    elif rank == 2 and math.isclose(get("cubic_coeff_a", -0.75), -0.75):
        by = "bicubic"
    else:
        return None
    corners = place == "align_corners"
    return functional.interpolate(x, list(wanted), mode=by, align_corners=corners)


def _first_of_each(place: str, nearest: str, opset: int) -> bool:
    """Whether, enlarging by whole numbers, the nearest is that which torch takes: in the middle of
    pixels, positions lie around each old one, and rounding gives that one."""
    if opset <= UPSAMPLING_UNTIL:
        return True
    rounded = place in ("half_pixel", "pytorch_half_pixel") and nearest.startswith("round")
    return rounded or (place == "asymmetric" and nearest == "floor")


def _wanted(operation: Operation, x: Tensor, scales: Value, sizes: Value) -> list[int] | None:
    """The lengths behind, of the axes behind channels; None where other axes change, too."""
    along = [axis % x.dim() for axis in operation.attributes.get("axes") or range(x.dim())]
    if operation.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    lengths = list(x.shape)
    if isinstance(sizes, np.ndarray) and sizes.size:
        found = dict(zip(along, sizes.tolist(), strict=True))
    elif isinstance(scales, np.ndarray) and scales.size:
        factors = zip(along, scales.tolist(), strict=True)
        found = {}
        for axis, factor in factors:
            if axis < 2 and factor != 1:
                return None
            if axis >= 2:
                exact = lengths[axis] * factor
                if exact != int(exact):
                    return None  # torch goes by the lengths alone
                found[axis] = int(exact)
    else:
        return None
    return [int(found.get(axis, lengths[axis])) for axis in range(2, x.dim())]


def _upsample(operation: Operation, opset: int, x: Tensor, scales: Value = None) -> Any:
    return _resize(operation, min(opset, UPSAMPLING_UNTIL), x, scales)


def _constant_of_shape(operation: Operation, _opset: int, shape: Value) -> Any:
    value = operation.attributes.get("value")
    fill = torch.zeros(1) if value is None else torch.tensor(np.asarray(value))
    sizes = shape.tolist() if shape is not None else []
    return torch.full(sizes, fill.reshape(-1)[0].item(), dtype=fill.dtype)


def _range(operation: Operation, opset: int, start: Value, limit: Value, delta: Value) -> Any:
    if any(isinstance(one, Tensor) for one in (start, limit, delta)):
        tensors = [v if isinstance(v, Tensor) or v is None else torch.tensor(v.tolist())
                   for v in (start, limit, delta)]  # fmt: skip
        return _plain(operation, opset, *tensors)
    first, last, step = (one.item() for one in (start, limit, delta) if one is not None)
    return torch.arange(first, last, step)


def _tile(operation: Operation, opset: int, x: Tensor, repeats: Value) -> Any:
    if repeats is None or isinstance(repeats, Tensor):
        return _plain(operation, opset, x, repeats)
    return x.repeat(repeats.tolist())


def _depth_to_space(operation: Operation, opset: int, x: Tensor) -> Any:
    if operation.attributes.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, operation.attributes["blocksize"])
    return _plain(operation, opset, x)


def _plain(operation: Operation, opset: int, *values: Any) -> Any:
    return function_of(operation)(operation, list(values), opset)


BETWEEN: Mapping[str, Between] = {
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "HardSigmoid": _hard_sigmoid,
    "Range": _range,
    "Resize": _resize,
    "Slice": _slice,
    "Split": _split,
    "Tile": _tile,
    "Upsample": _upsample,
}  # fmt: skip


def between(operation: Operation) -> Between:
    """The function of an operation that is no layer.

    Raises:
        Unsupported: there is none.
    """
    own = operation.domain in ("", "ai.onnx")
    return BETWEEN.get(operation.kind, _plain) if own else _plain


def steering(operation: Operation) -> Sequence[int]:
    """Positions of the inputs that steer an operation."""
    return STEERING.get(operation.kind, ()) if operation.domain in ("", "ai.onnx") else ()

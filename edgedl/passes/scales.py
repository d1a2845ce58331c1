"""The scales of a plan: from ranges to integer grids."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import EllipsisType

import numpy as np

from edgedl.core.target import Scheme
from edgedl.passes.layout import Layout
from edgedl.passes.plan import Plan, Quantizer
from edgedl.passes.ranges import Grid, Histogram, Methods, Range, find_range, method_for

LARGEST_CODE, LARGEST_OF_7_BITS = 127, 63
LOPSIDED = 0.75
BLOCK_ELEMENTS = 1 << 22
SMALLEST_SCALE = float(np.finfo(np.float32).tiny) * 2**20


def decide(
    found: Layout,
    scheme: Scheme,
    histograms: Mapping[str, Histogram],
    method: Methods,
    given: Mapping[str, Quantizer] | None = None,
) -> Plan:
    """The plan: the layout with a scale for every quantized tensor.

    Tensors that share a scale take the union of their ranges, each by `method`.

    Args:
        given: quantizers that are decided already, by tensor; tensors that share a scale with one
            of these take its.
    """
    decided = {found.groups[n]: q for n, q in (given or {}).items() if n in found.groups}
    grid = Grid(symmetric=scheme.activations == "symmetric")
    ranges: dict[str, Range] = {}
    for name, group in found.groups.items():
        if group in decided:
            continue
        span = find_range(histograms[name], method_for(method, name), grid)
        ranges[group] = span.union(ranges[group]) if group in ranges else span
    offset = _read_by_others(found) if scheme.int8_for_matmul_only else set()
    activations = {
        name: decided[group]
        if group in decided
        else quantizer(ranges[group], scheme, offset=group in offset, skewed=group in found.skewed)
        for name, group in found.groups.items()
    }
    return Plan(
        scheme.name, found.decisions, activations, found.readers, found.weights, found.tables
    )


def _read_by_others(found: Layout) -> set[str]:
    """Groups of tensors that int8 operators other than matrix products read."""
    others = {
        decision.node
        for decision in found.decisions
        if decision.precision == "int8" and decision.operator not in ("MatMul", "Gemm")
    }
    return {group for group, users in found.users.items() if others & users}


def not_finite(found: Layout, histograms: Mapping[str, Histogram]) -> set[str]:
    """Quantized tensors in which calibration saw NaN or infinity, or nothing at all."""
    return {
        name for name in found.groups if histograms[name].not_finite or not histograms[name].count
    }


def quantizer(
    span: Range, scheme: Scheme, *, offset: bool = False, skewed: bool = False
) -> Quantizer:
    """The integer grid that covers a range in the scheme's way.

    `offset` writes a signed symmetric grid as uint8 with zero point 128 instead of int8; `skewed`
    gives a range that a symmetric grid would waste a quarter of its codes on a zero point.
    """
    lopsided = span.high - span.low < LOPSIDED * 2 * span.largest
    if scheme.activations == "asymmetric" or (skewed and span.low < 0 and lopsided):
        scale = _scale((span.high - span.low) / 255)
        return Quantizer("uint8", scale, int(np.clip(round(-span.low / scale), 0, 255)))
    if span.low >= 0 and not scheme.signed_only:
        return Quantizer("uint8", _scale(span.high / 255), 0)
    scale = _scale(span.largest / 127)
    return Quantizer("uint8", scale, 128) if offset else Quantizer("int8", scale, 0)


def _scale(scale: float) -> float:
    return float(np.float32(max(scale, SMALLEST_SCALE))) if scale > 0 else 1.0


def rounded(
    weight: np.ndarray, axis: int | None, largest_code: int = LARGEST_CODE
) -> tuple[np.ndarray, np.ndarray]:
    """Weights on a symmetric grid: int8 codes, and float32 scales, one a slice along `axis` or one
    in all; 1 for zeros.

    Args:
        largest_code: 127 for 8 bits, 63 for 7.
    """
    others = None if axis is None else tuple(i for i in range(weight.ndim) if i != axis)
    wide = np.asarray(largest_magnitude(weight, others), np.float64) / largest_code
    scales = np.where(wide > 0, np.maximum(wide, SMALLEST_SCALE), 1.0).astype(np.float32)
    return codes_of(weight, spread(scales, axis, weight.ndim), largest_code), scales


def largest_magnitude(
    array: np.ndarray, axes: tuple[int, ...] | None, keepdims: bool = False
) -> np.ndarray:
    """The largest magnitude along these axes, 0 for no elements, NaN where there is one."""
    high = array.max(axis=axes, initial=0.0, keepdims=keepdims)
    low = array.min(axis=axes, initial=0.0, keepdims=keepdims)
    return np.asarray(np.maximum(high, -low))


def codes_of(array: np.ndarray, scales: np.ndarray, largest_code: int) -> np.ndarray:
    """The int8 codes of values on a symmetric grid, a block at a time.

    Args:
        scales: in a shape that divides the values.
    """
    codes = np.empty(array.shape, np.int8)
    for rows in blocks(array.shape):
        codes[rows] = np.clip(
            np.rint(array[rows] / rows_of(scales, rows)), -largest_code, largest_code
        )
    return codes


def blocks(shape: tuple[int, ...]) -> Iterator[slice | EllipsisType]:
    """What cuts an array of this shape along its first axis into blocks of about 4 million
    elements, so that arithmetic on large weights takes little beside them."""
    if not shape:
        yield ...
        return
    rows = max(1, BLOCK_ELEMENTS // max(1, math.prod(shape[1:])))
    for first in range(0, shape[0], rows):
        yield slice(first, first + rows)


def rows_of(scales: np.ndarray, rows: slice | EllipsisType) -> np.ndarray:
    """The part of an array of scales that is broadcast against such a block: all of it, but where
    it has a scale for each row."""
    return scales[rows] if scales.ndim and scales.shape[0] > 1 else scales


def finite(array: np.ndarray) -> bool:
    """Whether all of an array's values are finite, without an array of the answers."""
    return not array.size or bool(np.isfinite(array.min()) and np.isfinite(array.max()))


def spread(scales: np.ndarray, axis: int | None, rank: int) -> np.ndarray:
    """Scales in a shape that multiplies codes of this rank."""
    if axis is None:
        return scales
    return scales.reshape([-1 if i == axis else 1 for i in range(rank)])

"""Weights of which two of four neighbours are 0, which GPUs since Ampere multiply twice as fast."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgedl.core.model import Model
from edgedl.passes.graph import read

PRODUCTS = {"Conv": 1, "Gemm": 1, "MatMul": 1}
CODES = frozenset({"DequantizeLinear", "Cast"})
# Smaller weights gain nothing.
LEAST_ELEMENTS = 1024
WORTHWHILE = 0.5


def two_of_four(model: Model) -> bool:
    """Whether the larger half of the products' weights, counted in elements, have at least two
    zeros in every four neighbours along the axis that is summed over (Mishra et al., "Accelerating
    Sparse Deep Neural Networks", 2021), float or in codes without a zero point."""
    sparse = whole = 0
    for node in read(model.path).graph:
        rows = _rows(node)
        if rows is None or rows.size < LEAST_ELEMENTS:
            continue
        whole += rows.size
        sparse += rows.size * is_two_of_four(rows)
    return bool(whole) and sparse >= WORTHWHILE * whole


def is_two_of_four(rows: np.ndarray) -> bool:
    """Whether each four neighbours of the last axis, (..., summed), hold two zeros or more; those
    that are left over at its end count as if zeros followed. Weights of zeros alone do not count.
    """
    if not rows.any():
        return False
    spare = -rows.shape[-1] % 4
    padded = np.pad(rows != 0, [(0, 0)] * (rows.ndim - 1) + [(0, spare)])
    return bool((padded.reshape(*rows.shape[:-1], -1, 4).sum(axis=-1) <= 2).all())


def _rows(node: ir.Node) -> np.ndarray | None:
    """A product's constant weights with the axis that is summed over last; of a convolution, its
    input channels."""
    if node.op_type not in PRODUCTS or len(node.inputs) < 2:
        return None
    array = _constant(node.inputs[1])
    if array is None or array.ndim < 2:
        return None
    if node.op_type == "Conv":
        return np.moveaxis(array, 1, -1)
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        return array
    return np.moveaxis(array, -2, -1)


def _constant(value: ir.Value | None) -> np.ndarray | None:
    """A constant, seen through the operators that expand its codes."""
    while value is not None and value.const_value is None:
        maker = value.producer()
        if maker is None or maker.op_type not in CODES:
            return None
        value = maker.inputs[0]
    return None if value is None or value.const_value is None else value.const_value.numpy()

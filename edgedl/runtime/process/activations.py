"""What makes scores of a network's values."""

from __future__ import annotations

import numpy as np


def softmax(values: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x) over its sum along an axis, float32 of the same shape; infinite values share it all,
    and NaN makes all of them NaN."""
    values = np.asarray(values, np.float32)
    if not values.size:
        return values
    top = values.max(axis=axis, keepdims=True)
    with np.errstate(over="ignore", invalid="ignore"):
        shifted = values - top
    if np.isinf(top).any():
        shifted = np.where(values == top, np.float32(0), shifted)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), float32 of the same shape."""
    half = np.asarray(values, np.float32) / 2
    return np.asarray(np.tanh(half) / 2 + np.float32(0.5))


def activated(values: np.ndarray, name: str | None, axis: int = -1) -> np.ndarray:
    """Scores by `softmax` along an axis, by `sigmoid`, or the values as they are."""
    if name == "softmax":
        return softmax(values, axis)
    return sigmoid(values) if name == "sigmoid" else values

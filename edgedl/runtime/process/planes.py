"""Pixels to planes of float32, in as few passes over them as numpy allows."""

from __future__ import annotations

import threading

import numpy as np

_local = threading.local()


def to_planes(pixels: np.ndarray, out: np.ndarray) -> None:
    """Pixels as float32, channels first: the cast runs over what lies side by side, and channels
    are parted by a magnitude of numbers that are none below 0, which numpy reads by leaps faster
    than it copies."""
    if pixels.shape[2] == 1:
        np.copyto(out[0], pixels[:, :, 0])
        return
    turned = pixels.strides[2] < 0
    wide = _scratch(pixels.size).reshape(pixels.shape)
    np.copyto(wide, pixels[:, :, ::-1] if turned else pixels)
    parts = wide.reshape(-1, len(out)).T
    for part, plane in zip(parts[::-1] if turned else parts, out, strict=True):
        np.absolute(part, out=plane.reshape(-1))


def _scratch(size: int) -> np.ndarray:
    """Float32 of shape [size], this thread's own until it asks again."""
    found: np.ndarray | None = getattr(_local, "scratch", None)
    if found is None or len(found) < size:
        found = _local.scratch = np.empty(size, np.float32)
    return found[:size]


def scaled(values: np.ndarray, factor: np.ndarray, summand: np.ndarray | None) -> None:
    """Multiply, and add where there is something to add, in place."""
    np.multiply(values, factor, out=values)
    if summand is not None:
        np.add(values, summand, out=values)

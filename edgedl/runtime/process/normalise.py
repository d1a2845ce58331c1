"""`(value - mean) / std` for each channel, in double precision, rounded once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgedl.core.errors import BadSamples, BadValue

LEAST_STD, MOST = 1e-30, 1e30


def check_normal(mean: Sequence[float], std: Sequence[float], channels: int, what: str) -> None:
    """Means and deviations: one for all channels, or one for each.

    Raises:
        BadValue: their number is another, or a value cannot be used.
    """
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            message = f"`{name}` has {len(values)} values for {channels} {what}"
            raise BadValue(message, keys=(name,), hint=f"one, or {channels}")
        if not all(abs(value) <= MOST for value in values):
            message = f"`{name}` holds a value that is not finite"
            raise BadValue(message, keys=(name,), hint=f"within {MOST:g} of 0")
    if not all(abs(value) >= LEAST_STD for value in std):
        raise BadValue("`std` divides, and is 0", keys=("std",), hint="leave it out for 1")


Numbers = Sequence[float] | np.ndarray


def normalised(values: np.ndarray, mean: Numbers, std: Numbers) -> np.ndarray:
    """Float32 of the same shape, [..., channels].

    Raises:
        BadSamples: a value is not finite, or becomes so.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = (values.astype(np.float64) - np.asarray(mean)) / np.asarray(std)
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise BadSamples("becomes values that are not finite", hint="look for gaps in the data")
    return np.asarray(found)

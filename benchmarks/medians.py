"""The median of paired figures, with its interval."""

from __future__ import annotations

import math

import numpy as np

NORMAL_95 = 1.959964


def median_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median and its 95 % interval, by the order statistics that a binomial of one half
    allows; all of the values' range where they are too few."""
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    below = max(0, math.floor(count / 2 - NORMAL_95 * math.sqrt(count) / 2))
    return float(np.median(ordered)), float(ordered[below]), float(ordered[count - 1 - below])

"""How far answers are from the float model's, sample by sample, and intervals over samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.samples import Samples
from edgedl.core.stats import equal_share, probabilities
from edgedl.passes.switches import Settings, Switchboard

DRAWS = 1000
Answers = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Bounded:
    """A figure with its 95 % interval over samples."""

    value: float
    low: float
    high: float


def loss(expected: Answers, given: Answers) -> float:
    """The share of noise in an answer's power, 0 to 1, the mean over its float outputs.

    Noise over noise plus signal: where it is small, that is one over the signal-to-noise ratio;
    1 is an answer that is not finite or has another shape. Of an output with probabilities beside
    coordinates, the worse of all and the probabilities alone. Where all outputs are integers, the
    share of values that differ.
    """
    parts = []
    for name, reference in expected.items():
        if reference.dtype.kind != "f" or name not in given:
            continue
        x, y = reference.astype(np.float64), given[name].astype(np.float64)
        if x.shape != y.shape or not np.isfinite(y).all():
            parts.append(1.0)
            continue
        shares = [_share(x, y)]
        if (part := probabilities(x)) is not None:
            axis, chosen = part
            shares.append(_share(np.take(x, chosen, axis), np.take(y, chosen, axis)))
        parts.append(max(shares))
    parts = parts or [
        1 - equal_share(x, given[name]) for name, x in expected.items() if name in given
    ]
    return float(np.mean(parts)) if parts else 0.0


def _share(x: np.ndarray, y: np.ndarray) -> float:
    noise, signal = float(np.sum((x - y) ** 2)), float(np.sum(x * x))
    return noise / (noise + signal) if noise else 0.0


def bounded_mean(values: np.ndarray, seed: int = 0) -> Bounded:
    """A mean and its bootstrap interval over samples (Efron and Tibshirani, 1993, percentiles)."""
    draws = np.random.default_rng(seed).integers(0, len(values), (DRAWS, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return Bounded(float(values.mean()), float(low), float(high))


def bounded_share(part: np.ndarray, whole: np.ndarray, seed: int = 0) -> Bounded:
    """A part's sum over the whole's, with its interval over the samples that both are of."""
    draws = np.random.default_rng(seed).integers(0, len(part), (DRAWS, len(part)))
    total = float(whole.sum())
    if total <= 0:
        return Bounded(0.0, 0.0, 0.0)
    drawn = part[draws].sum(axis=1) / np.maximum(whole[draws].sum(axis=1), 1e-300)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Bounded(float(part.sum()) / total, float(low), float(high))


class Meter:
    """Losses of settings of a switchboard on a few samples, each measured once."""

    def __init__(
        self, board: Switchboard, samples: Samples, reference: list[dict[str, np.ndarray]]
    ) -> None:
        self.board, self.samples, self.reference = board, samples, reference
        self._known: dict[tuple[Any, ...], np.ndarray] = {}
        self.opened = 0

    def __call__(self, settings: Settings) -> np.ndarray:
        """The loss of each sample, float64."""
        key = tuple(
            (switch, setting if isinstance(setting, str) else id(setting))
            for switch, setting in sorted(settings.items())
        )
        if key not in self._known:
            self.opened += 1
            with self.board.open(settings) as session:
                found = [
                    loss(expected, session.run(feed))
                    for expected, feed in zip(self.reference, self.samples, strict=True)
                ]
            self._known[key] = np.asarray(found)
        return self._known[key]

    def take(self, count: int) -> Meter:
        """The same on the first samples alone."""
        few = self.samples.take(range(min(count, len(self.samples))))
        return Meter(self.board, few, self.reference[: len(few)])

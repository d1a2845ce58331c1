"""An error that grows from step to step, as it does where a rounded state is fed back."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgedl.core.model import Model
from edgedl.passes.inspect import inspect
from edgedl.report.diagnosed import Cause

RECURRENT = frozenset({"LSTM", "GRU", "RNN", "Loop", "Scan", "DynamicQuantizeLSTM"})
FEWEST_STEPS = 8
GROWTH = 4.0


class Steps:
    """Signal and noise of an output by its steps, summed over samples."""

    def __init__(self) -> None:
        self.signal: np.ndarray | None = None
        self.noise: np.ndarray | None = None

    def add(self, expected: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
        """Add a sample's answers, where the first output has steps."""
        name = next(iter(expected))
        x = expected[name]
        y = given.get(name)
        if y is None or x.ndim < 3 or x.shape != y.shape or x.dtype.kind != "f":
            return
        axis = 1 if x.shape[0] == 1 else 0
        if x.shape[axis] < FEWEST_STEPS:
            return
        others = tuple(i for i in range(x.ndim) if i != axis)
        signal = np.sum(x.astype(np.float64) ** 2, axis=others)
        noise = np.sum((x.astype(np.float64) - y) ** 2, axis=others)
        if self.signal is None or self.noise is None or self.signal.shape != signal.shape:
            self.signal, self.noise = signal, noise
        else:
            self.signal, self.noise = self.signal + signal, self.noise + noise


def recurrent(model: Model, steps: Steps, command: str) -> Cause | None:
    """The cause, where the model is recurrent and its last steps are far worse than its first."""
    if steps.signal is None or steps.noise is None:
        return None
    if not RECURRENT & set(inspect(model).operators):
        return None
    ratio = steps.noise / np.maximum(steps.signal, 1e-300)
    quarter = len(ratio) // 4
    first, last = float(ratio[:quarter].mean()), float(ratio[-quarter:].mean())
    if last < GROWTH * max(first, 1e-12) or not np.isfinite(last):
        return None
    share, times = max(0.0, 1 - first / float(ratio.mean())), last / max(first, 1e-12)
    return Cause(
        "recurrent_state",
        "the error builds up in the recurrent state: the last steps are"
        f" {times:.0f}x worse than the first",
        (share, share, share),
        (
            f"noise is {100 * first:.2g} % of the signal in the first quarter of the steps,"
            f" {100 * last:.2g} % in the last",
        ),
        f"{command}   # recurrent operators stay float",
    )

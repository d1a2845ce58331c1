"""How large a step is, as a share of the optimizer's rate: pure functions of the step."""

from __future__ import annotations

import math

from edgedl.train.settings import Cosine, OneCycle, Schedule, Step


def share_of(schedule: Schedule, step: int, steps: int, epoch_steps: int) -> float:
    """The share of the rate that step `step` of `steps` takes, an epoch having `epoch_steps`.

    The first step of a warm-up over n steps takes 1/n, its last the whole.
    """
    if isinstance(schedule, OneCycle):
        top = schedule.rise * (steps - 1)
        if step < top:
            return _between(schedule.start, 1.0, step / top)
        return _between(1.0, schedule.final, (step - top) / max(steps - 1 - top, 1))
    warm = round(schedule.warmup_epochs * epoch_steps)
    if step < warm:
        return (step + 1) / warm
    if isinstance(schedule, Cosine):
        return _between(1.0, schedule.final, (step - warm) / max(steps - warm, 1))
    if isinstance(schedule, Step):
        passed = sum(step >= epoch * epoch_steps for epoch in schedule.at)
        return float(schedule.factor**passed)
    return 1.0


def _between(first: float, last: float, way: float) -> float:
    """Half a cosine from the first value to the last; `way` from 0 to 1."""
    return last + (first - last) * (1 + math.cos(math.pi * min(way, 1.0))) / 2

"""Axes: where a value lies on the paper, and which values get a tick."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """A map from values in [low, high] to places between `start` and `end`, linear or log."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; values beyond the ends land on the ends."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def spanning(
    values: Sequence[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    pad: float = 0.04,
) -> Scale:
    """A scale that holds all values with some air around them; `zero` begins at 0."""
    low, high = min(values), max(values)
    if log and low > 0:
        air = max(math.log(high / low), 0.05) * pad
        return Scale(low * math.exp(-air), high * math.exp(air), start, end, log=True)
    if zero and low >= 0:
        return Scale(0.0, high * (1 + pad) or 1.0, start, end)
    air = (high - low) * pad or abs(high) * 0.05 or 0.5
    return Scale(low - air, high + air, start, end)


def tick_sets(scale: Scale) -> Iterator[list[float]]:
    """Sets of round values within the scale, from dense to sparse."""
    if scale.log and scale.high / scale.low > 5:
        low, high = math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            yield _within(scale, [d * 10.0**k for k in range(low, high + 1) for d in digits])
        for every in range(2, 40):
            yield _within(scale, [10.0**k for k in range(low, high + 1) if k % every == 0])
        return
    width = scale.high - scale.low
    power = math.floor(math.log10(width)) - 1
    for exponent in range(power, power + 4):
        for digit in (1, 2, 5):
            step = digit * 10.0**exponent
            first = math.ceil(scale.low / step - 1e-9)
            count = math.floor(width / step) + 2
            if count < 40:
                yield _within(scale, [round((first + i) * step, 12) for i in range(count)])


def _within(scale: Scale, values: Sequence[float]) -> list[float]:
    slack = 1e-9 * (scale.low if scale.log else scale.high - scale.low)
    return [value for value in values if scale.low - slack <= value <= scale.high + slack]


def tick_label(value: float) -> str:
    """A tick's value in as few digits as it takes."""
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def ticks(
    scale: Scale, room: Callable[[str], float], unit: str = "", most: int = 9
) -> list[tuple[float, str]]:
    """The densest round values whose labels, each taking `room`, do not touch."""
    for values in tick_sets(scale):
        labels = [text + unit for text in _labels(values, even=not scale.log)]
        places = [scale(value) for value in values]
        apart = all(
            abs(places[i + 1] - places[i]) >= (room(labels[i]) + room(labels[i + 1])) / 2
            for i in range(len(values) - 1)
        )
        if apart and len(values) <= most and len(set(labels)) == len(labels):
            if len(values) < 2:
                break
            return list(zip(values, labels, strict=True))
    middle = math.sqrt(scale.low * scale.high) if scale.log else (scale.low + scale.high) / 2
    digits = max(0, 2 - math.floor(math.log10(abs(middle) or 1)))
    value = min(max(round(middle, digits), scale.low), scale.high)
    return [(value, tick_label(value) + unit)]


def _labels(values: Sequence[float], *, even: bool) -> list[str]:
    """Labels, all with as many decimals as the longest needs where they are to be even."""
    labels = [tick_label(value) for value in values]
    if even and not any("e" in text for text in labels):
        decimals = max((len(text.partition(".")[2]) for text in labels), default=0)
        labels = [f"{value:,.{decimals}f}" for value in values]
    return labels

"""Outputs that are values: in units, as a distance from what was given, as a direction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.postprocess import Seen, taken
from edgedl.runtime.process.scores import check_labels, one_for_each

LEAST_NORM = 1e-30


@dataclass(frozen=True)
class Value:
    """One value that was estimated: its name and its unit where they are known."""

    name: str | None
    value: float
    unit: str | None


@dataclass(frozen=True)
class Values:
    """The values of one sample in units, `value * scale + offset`, as a tuple of `Value`.

    Attributes:
        output: the output that is taken; the first where None.
        labels: the values' names in order, or none.
        units: one for all, or one for each; or none.
        scale, offset: one number for all, or one for each.
        low, high: what lies beyond becomes these; None where there is no bound.
    """

    kind: ClassVar[str] = "values"
    axis: ClassVar[int] = -1

    output: str | None = None
    labels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels)
        for name in ("scale", "offset", *(("units",) if self.units else ())):
            one_for_each(name, getattr(self, name), len(self.labels))
        if self.low is not None and self.high is not None and self.low > self.high:
            message = f"`low` is {self.low:g}, above `high`"
            raise BadValue(message, keys=("low",), hint=f"{self.high:g} at most")

    def apply(
        self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None
    ) -> tuple[Value, ...]:
        given = taken(outputs, self.output).astype(np.float64).reshape(-1)
        for name in ("labels", "units", "scale", "offset"):
            if (count := len(getattr(self, name))) not in (0, given.size, int(name != "labels")):
                message = f"{count} {name} for {given.size} values"
                raise WrongInput(message, hint="one sample at a time, and one for each value")
        with np.errstate(over="ignore", invalid="ignore"):
            found = given * self.scale + self.offset
        if self.low is not None or self.high is not None:
            found = np.clip(found, self.low, self.high)
        names = self.labels or (None,) * given.size
        units = (self.units or (None,)) * (1 if len(self.units) == given.size else given.size)
        return tuple(
            Value(name, float(value), unit)
            for name, value, unit in zip(names, found, units, strict=True)
        )


@dataclass(frozen=True)
class Strangeness:
    """How unlike a sample is to what training knew, and whether that is beyond the threshold."""

    score: float
    anomaly: bool


@dataclass(frozen=True)
class Anomaly:
    """How unlike one sample is to what is normal: `Strangeness`.

    Attributes:
        threshold: the greatest score that is normal.
        of: what the score is: the mean squared difference between an autoencoder's output and the
            `input` that it should give back; or the one `value` of an output that is a score.
        output: the output that is taken; the first where None.
        input: the input that it is compared with; the first of its size where None.
    """

    kind: ClassVar[str] = "anomaly"
    labels: ClassVar[tuple[str, ...]] = ()

    threshold: float
    of: Literal["input", "value"] = "input"
    output: str | None = None
    input: str | None = None

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Strangeness:
        values = taken(outputs, self.output).astype(np.float64).reshape(-1)
        if self.of == "input":
            with np.errstate(over="ignore", invalid="ignore"):
                score = float(np.mean(np.square(values - self._given(values, seen))))
        elif values.size == 1:
            score = float(values[0])
        else:
            message = f"an output of {values.size} values is not one score"
            raise WrongInput(message, hint="`of: input`, where an autoencoder gives it back")
        # what is no number is no normal score, either
        return Strangeness(score, not score <= self.threshold)

    def _given(self, values: np.ndarray, seen: Seen | None) -> np.ndarray:
        if seen is None:
            message = "an anomaly is found by comparing with the input, which is not here"
            raise WrongInput(message, hint="`processing.after(outputs, Seen(feed))`")
        names = seen.feed if self.input is None else (self.input,)
        for name in names:
            if name in seen.feed and seen.feed[name].size == values.size:
                return seen.feed[name].astype(np.float64).reshape(-1)
        message = f"the output has {values.size} values, as no input has that it may be like"
        raise WrongInput(message, hint="`of: value`, where the network gives a score")


@dataclass(frozen=True)
class Embedding:
    """A direction: float32 of the output's shape, of length 1 along the axis, so that the dot
    product of two is their cosine. What has no length stays zeros.

    Attributes:
        output: the output that is taken; the first where None.
        axis: that of one embedding's values.
    """

    kind: ClassVar[str] = "embedding"
    labels: ClassVar[tuple[str, ...]] = ()

    output: str | None = None
    axis: int = -1

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> np.ndarray:
        values = taken(outputs, self.output).astype(np.float64)
        if not -values.ndim <= self.axis < values.ndim:
            message = f"an output of shape {values.shape} has no axis {self.axis}"
            raise WrongInput(message, hint="`axis` counts from 0, or from the end below 0")
        largest = np.max(np.abs(values), axis=self.axis, keepdims=True, initial=LEAST_NORM)
        with np.errstate(invalid="ignore"):
            values = values / largest
        norm = np.sqrt(np.sum(np.square(values), axis=self.axis, keepdims=True))
        return np.asarray(values / np.maximum(norm, LEAST_NORM), np.float32)

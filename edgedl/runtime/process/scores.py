"""Scores to classes: all of them as shares, the best, the best few by name, those above a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.activations import activated, sigmoid, softmax
from edgedl.runtime.process.postprocess import Seen, taken


@dataclass(frozen=True)
class Guess:
    """One class that an input may be of: its position, its name where it has one, its score."""

    index: int
    label: str | None
    score: float


@dataclass(frozen=True)
class _Scores:
    """What the kinds over an axis of classes share.

    Attributes:
        output: the output that is taken; the first where None.
        axis: that of the classes.
        labels: the names of the classes in order, or none.
    """

    output: str | None = None
    axis: int = -1
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def _values(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        values = taken(outputs, self.output)
        check_axis(values, self.axis)
        if not values.shape[self.axis]:
            message = f"an output of shape {values.shape} has no classes"
            raise WrongInput(message, hint="`axis` says where they are")
        return values


class Softmax(_Scores):
    """Shares that sum to 1 along the axis of the classes, float32 of the output's shape."""

    kind: ClassVar[str] = "softmax"

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> np.ndarray:
        return softmax(self._values(outputs), self.axis)


class Sigmoid(_Scores):
    """A share for each class by itself, float32 of the output's shape."""

    kind: ClassVar[str] = "sigmoid"

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> np.ndarray:
        return sigmoid(self._values(outputs))


class Argmax(_Scores):
    """The best class, the first of equals: int64 of the output's shape without the axis."""

    kind: ClassVar[str] = "argmax"

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> np.ndarray:
        return np.asarray(np.argmax(self._values(outputs), self.axis))


@dataclass(frozen=True)
class TopK:
    """The best classes of one sample: a tuple of `Guess`, the class of the greatest value first,
    those of equal values in their order.

    Attributes:
        output: the output that is taken; the first where None.
        k: how many; all where there are fewer classes.
        activation: what makes scores of the output's values, which are taken as they are where it
            is None.
        labels: the names of the classes in order, or none.
    """

    kind: ClassVar[str] = "top-k"
    axis: ClassVar[int] = -1

    output: str | None = None
    k: int = 5
    activation: Literal["softmax", "sigmoid"] | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadValue(f"`k` is {self.k}", keys=("k",), hint="1 or more")
        check_labels(self.labels)

    def apply(
        self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None
    ) -> tuple[Guess, ...]:
        values = one_row(taken(outputs, self.output), self.labels)
        return guesses(activated(values, self.activation), self.labels, best(values, self.k))


@dataclass(frozen=True)
class Threshold:
    """Every class of one sample whose score is not below a bound, as a tuple of `Guess`, in the
    order of `top-k`: for networks that may see several classes at once, or none.

    Attributes:
        threshold: the least score: one number, or one for each class.
        output, activation, labels: as in `top-k`.
    """

    kind: ClassVar[str] = "threshold"
    axis: ClassVar[int] = -1

    threshold: tuple[float, ...] = (0.5,)
    output: str | None = None
    activation: Literal["softmax", "sigmoid"] | None = "sigmoid"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)
        one_for_each("threshold", self.threshold, len(self.labels))

    def apply(
        self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None
    ) -> tuple[Guess, ...]:
        values = one_row(taken(outputs, self.output), self.labels)
        if len(self.threshold) not in (1, len(values)):
            message = f"{len(self.threshold)} thresholds for {len(values)} classes"
            raise WrongInput(message, hint="one, or one for each")
        scores = activated(values, self.activation)
        places = np.flatnonzero(scores.astype(np.float64) >= self.threshold)
        return guesses(scores, self.labels, places[best(values[places], len(places))])


@dataclass(frozen=True)
class Binary:
    """Yes or no, from the one value of one sample: a `Guess` of class 1 where its score is not
    below the threshold, else of class 0; the score is always that of class 1.

    Attributes:
        threshold: the least score of class 1.
        output, activation: as in `top-k`.
        labels: the names of class 0 and class 1, or none.
    """

    kind: ClassVar[str] = "binary"

    threshold: float = 0.5
    output: str | None = None
    activation: Literal["sigmoid"] | None = "sigmoid"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if len(self.labels) not in (0, 2):
            message = f"`labels` are {len(self.labels)} for yes and no"
            raise BadValue(message, keys=("labels",), hint="`[no, yes]`, that of class 0 first")

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Guess:
        values = taken(outputs, self.output)
        if values.size != 1:
            message = f"an output of shape {values.shape} is not one value"
            raise WrongInput(message, hint="`kind: threshold` takes a value for each class")
        score = float(activated(values.reshape(-1), self.activation)[0])
        index = int(score >= self.threshold)
        return Guess(index, self.labels[index] if self.labels else None, score)


def guesses(scores: np.ndarray, labels: Sequence[str], places: np.ndarray) -> tuple[Guess, ...]:
    """The classes at these places, with their scores."""
    pairs = zip(places.tolist(), scores[places].tolist(), strict=True)
    return tuple(Guess(i, labels[i] if labels else None, score) for i, score in pairs)


def best(values: np.ndarray, k: int) -> np.ndarray:
    """The places of the k greatest of values of shape [count], the greatest first: equals in their
    order, and behind them what is no number. All where there are fewer."""
    if k < len(values) and np.isfinite(values.max()):
        # what is as great as the k-th, so that few are left to sort
        least = np.partition(values, len(values) - k)[len(values) - k]
        some = np.flatnonzero(values >= least)
        return np.asarray(some[np.argsort(_turned(values[some]), kind="stable")][:k])
    return np.argsort(_turned(values), kind="stable")[:k]


def _turned(values: np.ndarray) -> np.ndarray:
    """Values in the opposite order; the least whole number has no negative, nor have unsigned."""
    return np.asarray(~values if values.dtype.kind in "iub" else -values)


def one_row(values: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The values of one sample's classes, of shape [classes].

    Raises:
        WrongInput: there are several samples, or another number of classes than of labels.
    """
    check_axis(values, -1)
    if values.size != values.shape[-1] or (labels and values.size != len(labels)):
        wanted = f"{len(labels)} classes" if labels else "one row of classes"
        raise WrongInput(
            f"an output of shape {values.shape} is not {wanted}",
            hint="one sample at a time, and a label for each of its classes",
        )
    return values.reshape(-1)


def check_axis(values: np.ndarray, axis: int) -> None:
    """Whether an output has this axis.

    Raises:
        WrongInput: it has not.
    """
    if not -values.ndim <= axis < values.ndim:
        message = f"an output of shape {values.shape} has no axis {axis}"
        raise WrongInput(message, hint="`axis` counts from 0, or from the end below 0")


def check_labels(labels: Sequence[str]) -> None:
    """Names that tell classes apart.

    Raises:
        BadValue: two are one.
    """
    if len(set(labels)) != len(labels):
        raise BadValue("two labels have one name", keys=("labels",), hint="name them apart")


def one_for_each(name: str, given: Sequence[Any], count: int) -> None:
    """One entry for all, or one for each of `count`, which is 0 where nobody knows.

    Raises:
        BadValue: there are others.
    """
    if not given or (count and len(given) not in (1, count)):
        hint = f"one, or {count}" if count else "one, or one for each"
        raise BadValue(f"`{name}` has {len(given)} values", keys=(name,), hint=hint)

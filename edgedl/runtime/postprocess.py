"""Outputs to answers: probabilities, the best class, the best few by name, boxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput, nearest
from edgedl.runtime.activations import sigmoid, softmax
from edgedl.runtime.boxes import Boxes

KINDS = ("softmax", "sigmoid", "argmax", "top-k", "boxes")


@dataclass(frozen=True)
class Guess:
    """One class that an input may be of: its position, its name where it has one, its score."""

    index: int
    label: str | None
    score: float


@dataclass(frozen=True)
class Postprocess:
    """What turns an output into an answer.

    Attributes:
        kind: `softmax` and `sigmoid` give float32 of the output's shape, `argmax` int64 without
            the axis, `top-k` a tuple of guesses, the best first, for the one sample of a call,
            `boxes` what was detected in it.
        output: the output that is taken; the first where None.
        axis: that of the classes.
        k: how many guesses; all where there are fewer classes.
        activation: for `top-k`, what makes scores of the output's values, which are taken as they
            are where it is None.
        labels: the names of the classes in order, or none.
        boxes: for `boxes`, how the outputs hold them.
    """

    kind: Literal["softmax", "sigmoid", "argmax", "top-k", "boxes"]
    output: str | None = None
    axis: int = -1
    k: int = 5
    activation: Literal["softmax", "sigmoid"] | None = None
    labels: tuple[str, ...] = ()
    boxes: Boxes | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadValue(f"`k` is {self.k}", keys=("k",), hint="1 or more")
        if self.kind != "top-k" and self.activation is not None:
            message = f"`activation` goes with `top-k`, not with `{self.kind}`"
            raise BadValue(message, keys=("activation",), hint="leave it out")
        if self.kind == "top-k" and self.axis != -1:
            message = "`top-k` takes the last axis"
            raise BadValue(message, keys=("axis",), hint="leave `axis` out")
        if (self.kind == "boxes") != (self.boxes is not None):
            message = "`kind: boxes` and `boxes: {format: ...}` go together"
            raise BadValue(message, keys=("boxes",), hint="give both, or none")
        if len(set(self.labels)) != len(self.labels):
            raise BadValue("two labels have one name", keys=("labels",), hint="name them apart")

    def apply(self, outputs: Mapping[str, np.ndarray]) -> Any:
        """The answer that a session's outputs are.

        Raises:
            WrongInput: there is no such output or axis, or `top-k` meets several samples, or
                another number of classes than of labels, or no boxes are in the outputs.
        """
        if self.boxes is not None:
            return self.boxes.decode(outputs)
        name = self.output or next(iter(outputs), "")
        if name not in outputs:
            raise WrongInput(f"`{name}` is not an output", hint=nearest(name, outputs))
        values = outputs[name]
        if not -values.ndim <= self.axis < values.ndim:
            message = f"output `{name}` of shape {values.shape} has no axis {self.axis}"
            raise WrongInput(message, hint="`axis` counts from 0, or from the end below 0")
        if self.kind == "softmax":
            return softmax(values, self.axis)
        if self.kind == "sigmoid":
            return sigmoid(values)
        if self.kind == "argmax":
            return np.argmax(values, self.axis)
        return self._guesses(name, values)

    def _guesses(self, name: str, values: np.ndarray) -> tuple[Guess, ...]:
        if values.size != values.shape[-1] or (self.labels and values.size != len(self.labels)):
            wanted = f"{len(self.labels)} classes" if self.labels else "one row of classes"
            raise WrongInput(
                f"output `{name}` has shape {values.shape}, not {wanted}",
                hint="top-k takes one sample at a time, and a label for each of its classes",
            )
        scores = values.reshape(-1)
        if self.activation is not None:
            scores = softmax(scores) if self.activation == "softmax" else sigmoid(scores)
        best = np.argsort(-scores, kind="stable")[: self.k]
        return tuple(
            Guess(int(i), self.labels[i] if self.labels else None, float(scores[i])) for i in best
        )

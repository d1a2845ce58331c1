"""Outputs that are sequences: what a CTC head reads, and a class for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput, nearest
from edgedl.runtime.process.activations import activated
from edgedl.runtime.process.postprocess import Seen, taken
from edgedl.runtime.process.scores import check_axis, check_labels


@dataclass(frozen=True)
class Transcript:
    """What was read: symbols by position, and as text where they have names; and for each the step
    at which it began."""

    symbols: tuple[int, ...]
    text: str | None
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Ctc:
    """What greedy decoding reads of one sample: the best symbol of each step, the first of equals,
    repeats taken as one, blanks left out (Graves et al., Connectionist Temporal Classification,
    2006).

    Attributes:
        output: the output that is taken, steps by symbols; the first where None.
        axis: that of the symbols.
        blank: the symbol that is none; counted from the end below 0.
        labels: the symbols in order, the blank among them, or none.
        between: what stands between two symbols in the text.
    """

    kind: ClassVar[str] = "ctc"

    output: str | None = None
    axis: int = -1
    blank: int = 0
    labels: tuple[str, ...] = ()
    between: str = ""

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.labels and not -len(self.labels) <= self.blank < len(self.labels):
            message = f"`blank` is {self.blank} of {len(self.labels)} labels"
            raise BadValue(message, keys=("blank",), hint="its place among them, 0 for the first")

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Transcript:
        scores = steps_of(taken(outputs, self.output), self.axis, self.labels)
        count = scores.shape[1]
        if not -count <= self.blank < count:
            message = f"`blank` is {self.blank} of {count} symbols"
            raise WrongInput(message, hint="its place among them, 0 for the first")
        best = np.argmax(scores, axis=1)
        begins = np.flatnonzero(np.diff(best, prepend=-1))
        begins = begins[best[begins] != self.blank % count]
        symbols = best[begins].tolist()
        text = self.between.join(self.labels[i] for i in symbols) if self.labels else None
        return Transcript(tuple(symbols), text, tuple(begins.tolist()))


@dataclass(frozen=True)
class Span:
    """Tokens that bear one class: the first, the one behind the last, and their mean score."""

    label: str
    first: int
    last: int
    score: float


@dataclass(frozen=True)
class Tags:
    """The class of each token of one sample, as a tuple of `Span`: a span for each token, or for
    each run of tokens that belong together.

    Attributes:
        output: the output that is taken, tokens by classes; the first where None.
        axis: that of the classes.
        labels: the names of the classes in order.
        outside: the class that is none and left out; None where all are given.
        spans: `bio` where `B-x` begins a span of x and `I-x` goes on with it (Ramshaw and Marcus,
            1995), an `I-x` that follows nothing of x begins one, too.
        activation: what makes scores of the output's values.
        padding: the token id of the input that is none, so that its places are left out.
    """

    kind: ClassVar[str] = "tags"

    labels: tuple[str, ...]
    output: str | None = None
    axis: int = -1
    outside: str | None = None
    spans: Literal["each", "bio"] = "each"
    activation: Literal["softmax", "sigmoid"] | None = "softmax"
    padding: int | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.outside is not None and self.outside not in self.labels:
            message = f"`outside` is `{self.outside}`, which is no label"
            raise BadValue(message, keys=("outside",), hint=nearest(self.outside, self.labels))
        if self.spans == "bio":
            for label in self.labels:
                if label != self.outside and label[:2] not in ("B-", "I-"):
                    message = f"`{label}` neither begins a span nor goes on with one"
                    hint = "`B-...`, `I-...`, and `outside: O`"
                    raise BadValue(message, keys=("labels",), hint=hint)

    def apply(
        self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None
    ) -> tuple[Span, ...]:
        values = steps_of(taken(outputs, self.output), self.axis, self.labels)
        scores = activated(values, self.activation)
        best = np.argmax(scores, axis=1)
        tokens = self._tokens(len(best), seen)
        found: list[tuple[str, list[int]]] = []
        for i in tokens:
            label = self.labels[best[i]]
            if label == self.outside:
                continue
            name = label[2:] if self.spans == "bio" else label
            follows = found and found[-1][0] == name and found[-1][1][-1] == i - 1
            if self.spans == "bio" and label[0] == "I" and follows:
                found[-1][1].append(i)
            else:
                found.append((name, [i]))
        return tuple(
            Span(name, run[0], run[-1] + 1, float(np.mean([scores[i, best[i]] for i in run])))
            for name, run in found
        )

    def _tokens(self, count: int, seen: Seen | None) -> list[int]:
        """The places of tokens that are none of the padding."""
        if self.padding is None or seen is None:
            return list(range(count))
        for array in seen.feed.values():
            if array.dtype.kind in "iu" and array.size == count:
                return [int(i) for i in np.flatnonzero(array.reshape(-1) != self.padding)]
        message = f"no input has a token for each of {count} classes"
        raise WrongInput(message, hint="leave `padding` out")


def steps_of(values: np.ndarray, axis: int, labels: tuple[str, ...]) -> np.ndarray:
    """One sample's output as [steps, classes].

    Raises:
        WrongInput: it has no such axis, holds several samples, or another number of classes than of
            labels.
    """
    check_axis(values, axis)
    moved = np.moveaxis(values, axis, -1)
    wide = sum(size > 1 for size in moved.shape[:-1])
    if wide > 1 or not values.size or (labels and len(labels) != moved.shape[-1]):
        wanted = f"steps by {len(labels)} classes" if labels else "steps by classes"
        message = f"an output of shape {values.shape} is not {wanted}"
        raise WrongInput(message, hint="one sample at a time; `axis` says where the classes are")
    return moved.reshape(-1, moved.shape[-1])

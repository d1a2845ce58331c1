"""Outputs that are maps over a picture: a class for each pixel, and where points are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadValue, WrongInput
from edgedl.runtime.process.activations import sigmoid
from edgedl.runtime.process.postprocess import Seen, taken
from edgedl.runtime.process.scores import check_labels


@dataclass(frozen=True)
class Mask:
    """The class of each pixel of one sample: int64 of shape [height, width].

    Attributes:
        output: the output that is taken; the first where None.
        layout: its axes, but for one of 1 before them: `chw`, or `hwc`.
        threshold: for an output of one class alone, the least sigmoid of it at which a pixel is 1.
        of: over what: the network's own `output`, or the `picture` that its input is cut and
            resized from, where that is known: each pixel takes the nearest class.
        outside: the class of the picture's pixels that the network did not see.
        labels: the names of the classes in order, or none.
    """

    kind: ClassVar[str] = "mask"

    output: str | None = None
    layout: Literal["chw", "hwc"] = "chw"
    threshold: float = 0.5
    of: Literal["output", "picture"] = "picture"
    outside: int = -1
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)

    @property
    def axis(self) -> int:
        """That of the classes."""
        return -3 if self.layout == "chw" else -1

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> np.ndarray:
        values = one_map(taken(outputs, self.output), self.axis)
        if len(values) == 1:
            found = (sigmoid(values[0]) >= self.threshold).astype(np.int64)
        else:
            found = np.argmax(values, axis=0)
        if self.of == "output" or seen is None or seen.place is None:
            return found
        return seen.place.spread(found, self.outside)


@dataclass(frozen=True)
class Point:
    """Where something is: x and y in pixels, its name where it has one, its score."""

    label: str | None
    x: float
    y: float
    score: float


@dataclass(frozen=True)
class Keypoints:
    """The middle of each map's highest pixel, in one sample: a tuple of `Point`, one a map.

    Attributes:
        output: the output that is taken, a map for each point; the first where None.
        layout: its axes, but for one of 1 before them: `chw`, or `hwc`.
        stride: the input's pixels to one of a map.
        threshold: the least score; a point below is left out. None keeps all.
        of: in whose pixels: of the network's `input`, or of the `picture` that it is cut and
            resized from, where that is known.
        labels: the names of the points in order, or none.
    """

    kind: ClassVar[str] = "keypoints"

    output: str | None = None
    layout: Literal["chw", "hwc"] = "chw"
    stride: int = 1
    threshold: float | None = None
    of: Literal["input", "picture"] = "picture"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.stride < 1:
            raise BadValue(f"`stride` is {self.stride}", keys=("stride",), hint="1 or more")

    @property
    def axis(self) -> int:
        """That of the points."""
        return -3 if self.layout == "chw" else -1

    def apply(
        self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None
    ) -> tuple[Point, ...]:
        values = one_map(taken(outputs, self.output), self.axis)
        if self.labels and len(self.labels) != len(values):
            message = f"{len(values)} maps for {len(self.labels)} labels"
            raise WrongInput(message, hint="a label for each map")
        flat = values.reshape(len(values), -1)
        best = np.argmax(flat, axis=1)
        y, x = np.divmod(best, values.shape[2])
        places = (np.stack([x, y], axis=1) + 0.5) * self.stride
        if self.of == "picture" and seen is not None and seen.place is not None:
            places = seen.place.points(places)
        scores = flat[np.arange(len(flat)), best]
        return tuple(
            Point(self.labels[i] if self.labels else None, float(x), float(y), float(score))
            for i, ((x, y), score) in enumerate(zip(places, scores, strict=True))
            if self.threshold is None or score >= self.threshold
        )


def one_map(values: np.ndarray, axis: int) -> np.ndarray:
    """One sample's maps as [classes, height, width].

    Raises:
        WrongInput: they are of several samples, or no maps.
    """
    if values.ndim < 3 or not values.size or values.size != np.prod(values.shape[-3:]):
        message = f"an output of shape {values.shape} is not maps of one sample"
        raise WrongInput(message, hint="`layout: chw`, or `hwc`")
    return np.moveaxis(values.reshape(values.shape[-3:]), axis, 0)

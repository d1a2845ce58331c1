"""The post-processing of detectors: boxes, in the picture where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from edgedl.runtime.process.boxes import Boxes, Detections
from edgedl.runtime.process.postprocess import Seen
from edgedl.runtime.process.scores import check_labels


@dataclass(frozen=True)
class Detect:
    """What was detected in one sample, the most certain first.

    Attributes:
        boxes: how the outputs hold boxes.
        of: in whose pixels corners are: of the network's `input`, or of the `picture` that it is
            cut and resized from, where that is known.
        output: nothing: the boxes' own `outputs` say which are taken.
        labels: the names of the classes in order, or none.
    """

    kind: ClassVar[str] = "boxes"

    boxes: Boxes
    of: Literal["input", "picture"] = "input"
    output: str | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_labels(self.labels)

    def apply(self, outputs: Mapping[str, np.ndarray], seen: Seen | None = None) -> Detections:
        found = self.boxes.decode(outputs)
        if self.of == "picture" and seen is not None and seen.place is not None:
            found = replace(found, boxes=seen.place.points(found.boxes))
        return found

"""What may be done by chance to a batch, as frozen values; `augment.py` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgedl.core.errors import BadValue
from edgedl.train.bounds import above, least, within


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Images moved by up to `padding` pixels each way, zeros where they leave off."""

    name: Literal["crop"] = "crop"
    padding: int = 4

    def __post_init__(self) -> None:
        least(self, 1, "padding")


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Images mirrored, by chance."""

    name: Literal["flip"] = "flip"
    axis: Literal["horizontal", "vertical"] = "horizontal"
    probability: float = 0.5

    def __post_init__(self) -> None:
        within(self, 0, 1, "probability")


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """A square of zeros somewhere in each image (DeVries and Taylor, 2017)."""

    name: Literal["cutout"] = "cutout"
    size: int = 8

    def __post_init__(self) -> None:
        least(self, 1, "size")


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Normal noise of this standard deviation on every value."""

    name: Literal["noise"] = "noise"
    deviation: float = 0.01

    def __post_init__(self) -> None:
        above(self, 0, "deviation")


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Each sample times a number between `low` and `high`."""

    name: Literal["gain"] = "gain"
    low: float = 0.8
    high: float = 1.2

    def __post_init__(self) -> None:
        if self.high < self.low:
            raise BadValue("`high` is below `low`", keys=("high",), hint="low: 0.8, high: 1.2")


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Each sample moved along its last axis, time, by up to `most` steps; zeros come in."""

    name: Literal["shift"] = "shift"
    most: int = 4

    def __post_init__(self) -> None:
        least(self, 1, "most")


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Zeros over `count` ranges of up to so many bands and so many frames: the last two axes.

    Park et al., SpecAugment, Interspeech 2019.
    """

    name: Literal["mask"] = "mask"
    bands: int = 0
    frames: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        least(self, 0, "bands", "frames")
        least(self, 1, "count")
        if not self.bands and not self.frames:
            raise BadValue("`mask` covers nothing", keys=("bands",), hint="bands: 8, frames: 16")


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Each sample with some of another, and the loss with some of its label's.

    Zhang et al., mixup, ICLR 2018: the share is drawn from Beta(alpha, alpha), once a batch.
    """

    name: Literal["mixup"] = "mixup"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        above(self, 0, "alpha")


@dataclass(frozen=True, kw_only=True)
class Cutmix:
    """A box of each image from another one, and as much of its label (Yun et al., ICCV 2019)."""

    name: Literal["cutmix"] = "cutmix"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        above(self, 0, "alpha")


Augment = Crop | Flip | Cutout | Noise | Gain | Shift | Mask | Mixup | Cutmix

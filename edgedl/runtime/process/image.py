"""Photos to inputs: decoded, which takes Pillow, then resized, cropped and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.pillow import decoded, has_pillow, pillow, resampled_whole
from edgedl.runtime.process.place import Place
from edgedl.runtime.process.planes import scaled, to_planes
from edgedl.runtime.process.resample import resampled

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
MOST_SIDE = 1 << 15
MOST_PIXELS = 1 << 26
MOST_BETWEEN = 1 << 28
NEAR = 1e-6
LUMA = (19595, 38470, 7471)
BLOCK = 1 << 18


@dataclass(frozen=True)
class Resize:
    """To which size an image is brought; one of the first three is given, others are None.

    Attributes:
        shorter: its shorter side, in pixels; the other follows, rounded down.
        exactly: height and width, whatever becomes of its proportions.
        letterbox: height and width within which it is made as large as it goes, proportions kept,
            sides rounded, in the middle of an area of `fill`.
        fill: the grey of that area, 0 to 255.
        interpolation: Pillow's filter of that name, which widens as the image shrinks.
    """

    shorter: int | None = None
    exactly: tuple[int, int] | None = None
    letterbox: tuple[int, int] | None = None
    fill: int = 0
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    def __post_init__(self) -> None:
        ways = ("shorter", "exactly", "letterbox")
        if sum(getattr(self, way) is not None for way in ways) != 1:
            raise BadValue(
                "one of `shorter`, `exactly` and `letterbox` says the size",
                hint="like `resize: {shorter: 256}` or `resize: {exactly: [224, 224]}`",
            )
        for way in ways:
            check_sides(way, getattr(self, way))
        if not 0 <= self.fill <= 255:
            raise BadValue(f"`fill` is {self.fill}", keys=("fill",), hint="0 to 255")


@dataclass(frozen=True)
class Image:
    """What turns a photo into an input: resize, crop, `(value * scale - mean) / std`, layout.

    Values run from 0 to 255 before `scale`. The formula is computed in double precision and rounded
    once, or in float32 where that comes within 1e-6 of it for every pixel there may be; either
    gives the same bits everywhere. Orientation (EXIF) is obeyed, an alpha
    channel is dropped, gray is ITU-R 601 luma, of several frames the first is taken.

    Attributes:
        color: the order of the channels.
        crop: height and width of the part in the middle that is kept.
        mean, std: one number, or one for each channel in their order.
        layout: the axes of the input; `n`, which is 1, and `c` may be left out where they have one
            entry.
        dtype: `uint8` takes the pixels as they are.
        input: the model's input; its only one where None.
    """

    kind: ClassVar[str] = "image"
    suffixes: ClassVar[frozenset[str]] = frozenset(
        {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
    )

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Resize | None = None
    crop: tuple[int, int] | None = None
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Literal["nchw", "nhwc", "nhw", "chw", "hwc", "hw"] = "nchw"
    dtype: Literal["float32", "uint8"] = "float32"
    input: str | None = None

    def __post_init__(self) -> None:
        check_sides("crop", self.crop)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                message = f"`{name}` has {len(values)} values for {self.channels} channels"
                raise BadValue(message, keys=(name,), hint=f"one, or {self.channels}")
        if 0 in self.std:
            raise BadValue("`std` divides, and is 0", keys=("std",), hint="leave it out for 1")
        if self.channels > 1 and "c" not in self.layout:
            message = f"`layout: {self.layout}` has no place for {self.channels} channels"
            raise BadValue(message, keys=("layout",), hint="`color: gray`, or a layout with `c`")
        if self.dtype == "uint8" and (self.scale, *self.mean, *self.std) != (
            1.0, *(0.0 for _ in self.mean), *(1.0 for _ in self.std),
        ):  # fmt: skip
            message = "`dtype: uint8` takes pixels as they are, without `scale`, `mean` and `std`"
            raise BadValue(message, keys=("dtype",), hint="leave them out, or `dtype: float32`")
        if not np.isfinite(self._table).all():
            raise BadValue("`scale`, `mean` and `std` make values that are not finite",
                           keys=("std",), hint="float32 goes to 3.4e38")  # fmt: skip
        self._check_crop()

    def _check_crop(self) -> None:
        if self.crop is None or self.resize is None:
            return
        shorter = self.resize.shorter
        least = self.resize.exactly or self.resize.letterbox
        if least is None:
            # the other side is the longer: it may well fit
            least = (shorter or 0, shorter or 0)
            fits = min(self.crop) <= min(least)
        else:
            fits = self.crop[0] <= least[0] and self.crop[1] <= least[1]
        if not fits:
            message = f"`crop` of {_by(self.crop)} is larger than what `resize` leaves"
            raise BadValue(message, keys=("crop",), hint="resize to more, or crop less")

    @property
    def channels(self) -> int:
        """How many there are."""
        return CHANNELS[self.color]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the input, None where it is the image's own."""
        resize = self.resize
        sides = self.crop or (resize and (resize.exactly or resize.letterbox)) or (None, None)
        sizes = {"n": 1, "c": self.channels, "h": sides[0], "w": sides[1]}
        return tuple(sizes[axis] for axis in self.layout)

    @property
    def decoder(self) -> str:
        """The library that decodes and resizes, and its version.

        Raises:
            Missing: it is not installed.
        """
        return f"Pillow {pillow().__version__}"

    @cached_property
    def _table(self) -> np.ndarray:
        """What becomes of each of the 256 values, float32 of shape [channels, 256]."""
        mean, std = (
            np.resize(np.asarray(values, np.float64), (self.channels, 1))
            for values in (self.mean, self.std)
        )
        with np.errstate(over="ignore", invalid="ignore"):
            return ((np.arange(256) * self.scale - mean) / std).astype(np.float32)

    def decode(self, path: str | Path) -> np.ndarray:
        """The pixels of an image file: uint8 of shape [height, width, channels], upright.

        Raises:
            BadSamples: the file is missing, damaged, no image, or has more than 8 bits a channel.
            Missing: Pillow is not installed.
        """
        pixels = decoded(path, gray=self.color == "gray")
        return np.ascontiguousarray(pixels[:, :, ::-1]) if self.color == "bgr" else pixels

    def apply(self, raw: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The model's input, of pixels as `decode` gives them, or as a camera does.

        Args:
            raw: uint8 of shape [height, width, channels], channels in the order of `color`; gray
                may lack the last axis.
            out: what to write it into and to give back, contiguous, of the input's type and shape;
                a new array, or a view of `raw` where nothing is to be done, where None.

        Raises:
            BadSamples: the array is none of these, or is smaller than the crop.
        """
        pixels = self._checked(raw)
        if pixels.shape[:2] != self._left_alone:
            pixels = self._cut(pixels, self.place(pixels.shape[:2]))
        if self.dtype == "uint8" and out is None:
            return np.ascontiguousarray(self._ordered(pixels))
        if out is None:
            sizes = {"n": 1, "c": self.channels, "h": pixels.shape[0], "w": pixels.shape[1]}
            out = np.empty([sizes[axis] for axis in self.layout], self.dtype)
        elif not out.flags.c_contiguous:
            raise BadSamples("`out` does not lie in one piece", hint="np.empty(image.shape, dtype)")
        if self.dtype == "uint8":
            np.copyto(out, self._ordered(pixels))
        else:
            self._normalise(pixels, out)
        return out

    def _ordered(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in the order of the layout."""
        if not self.layout.endswith("hwc"):
            pixels = np.moveaxis(pixels, 2, 0) if "c" in self.layout else pixels[:, :, 0]
        return pixels[None] if "n" in self.layout else pixels

    def _normalise(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Write `(value * scale - mean) / std`: by float32 factors and summands where these come
        near enough, which is twice as fast as looking each value up."""
        height, width, channels = pixels.shape
        if self.layout.endswith("hwc"):
            rows = out.reshape(height, width * channels)
            if self._fused is None:
                places = pixels + np.arange(channels) * 256
                np.take(self._table.reshape(-1), places.reshape(rows.shape), out=rows, mode="clip")
                return
            np.copyto(rows, pixels.reshape(rows.shape))
            factor, summand = self._fused
            scaled(
                rows, np.tile(factor, width), None if summand is None else np.tile(summand, width)
            )
            return
        planes = out.reshape(channels, height, width)
        step = max(1, BLOCK // (width * channels))
        for top in range(0, height, step):
            places, some = planes[:, top : top + step], pixels[top : top + step]
            if self._fused is None:
                for channel, table in enumerate(self._table):
                    np.take(table, some[:, :, channel], out=places[channel], mode="clip")
                continue
            to_planes(some, places)
            factor, summand = self._fused
            for i, place in enumerate(places):
                scaled(place, factor[i], None if summand is None else summand[i])

    @cached_property
    def _left_alone(self) -> tuple[int, int] | None:
        """The one size of pictures that are neither resized nor cropped."""
        sides = self.crop
        if self.resize is not None:
            sides = self.resize.exactly or self.resize.letterbox
        return sides if sides is not None and self.place(sides).area == sides else None

    @cached_property
    def _fused(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """Float32 factors and summands, one a channel, or no summands where all are 0, where with
        these all 256 values come within 1e-6 of what they should become; else None."""
        mean, std = (np.asarray(values, np.float64) for values in (self.mean, self.std))
        with np.errstate(over="ignore", invalid="ignore"):
            factor, summand = (
                np.resize(one.astype(np.float32), self.channels)
                for one in (self.scale / std, -mean / std)
            )
            found = np.arange(256, dtype=np.float32) * factor[:, None] + summand[:, None]
            off = np.abs(found.astype(np.float64) - self._table)
        if not (off <= NEAR).all():
            return None
        return factor, summand if summand.any() else None

    def _checked(self, raw: np.ndarray) -> np.ndarray:
        if not isinstance(raw, np.ndarray):
            message = f"{type(raw).__name__} is no picture"
            hint = f"the path of a file, or uint8 of shape (height, width, {self.channels})"
            raise BadSamples(message, hint=hint)
        pixels = raw[:, :, None] if self.channels == 1 and raw.ndim == 2 else raw
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != self.channels:
            raise BadSamples(
                f"{raw.dtype} of shape {raw.shape} is not an image of {self.channels} channels",
                hint=f"uint8 of shape (height, width, {self.channels})",
            )
        if not pixels.size:
            raise BadSamples("an image without pixels", hint=f"its shape is {raw.shape}")
        return pixels

    def place(self, picture: tuple[int, int]) -> Place:
        """Where the input lies in a picture of this height and width.

        Raises:
            BadSamples: the picture is smaller than the crop.
        """
        height, width = picture
        resize = self.resize
        size = area = picture
        shift = (0, 0)
        if resize is None:
            pass
        elif resize.exactly is not None:
            size = area = resize.exactly
        elif resize.shorter is not None:
            shorter = min(picture)
            size = area = height * resize.shorter // shorter, width * resize.shorter // shorter
        else:
            assert resize.letterbox is not None
            area = resize.letterbox
            ratio = min(area[0] / height, area[1] / width)
            size = max(1, round(height * ratio)), max(1, round(width * ratio))
            shift = (area[0] - size[0]) // 2, (area[1] - size[1]) // 2
        if self.crop is None:
            return Place(picture, size, area, shift)
        if area[0] < self.crop[0] or area[1] < self.crop[1]:
            raise BadSamples(
                f"{_by(area)} pixels are less than the crop of {_by(self.crop)}",
                hint="add `resize: {shorter: ...}` to the pre-processing, or crop less",
            )
        cut = [round((area[i] - self.crop[i]) / 2) for i in (0, 1)]
        return Place(picture, size, self.crop, (shift[0] - cut[0], shift[1] - cut[1]))

    def _cut(self, pixels: np.ndarray, place: Place) -> np.ndarray:
        """The area of the picture, resized."""
        size, area, (down, right) = place.resized, place.area, place.shift
        rows = slice(max(0, -down), min(size[0], area[0] - down))
        columns = slice(max(0, -right), min(size[1], area[1] - right))
        if size == place.picture:
            inner = pixels[rows, columns]
        else:
            assert self.resize is not None
            inner = _resized(pixels, size, (rows, columns), self.resize.interpolation)
        if inner.shape[:2] == area:
            return inner
        assert self.resize is not None
        found = np.full((*area, pixels.shape[2]), self.resize.fill, np.uint8)
        top, left = rows.start + down, columns.start + right
        found[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return found


def recolored(pixels: np.ndarray, given: str, wanted: str) -> np.ndarray:
    """Pixels in another order of channels; gray is ITU-R 601 luma, in the whole numbers that files
    are decoded with.

    Args:
        pixels: uint8 of shape [height, width, channels]; gray may lack the last axis.
        given, wanted: `rgb`, `bgr` or `gray`, unlike one another.

    Returns:
        uint8 of shape [height, width, channels]; a view where only the order differs.

    Raises:
        BadSamples: the array is not of the given order.
    """
    pixels = pixels[:, :, None] if given == "gray" and pixels.ndim == 2 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != CHANNELS[given]:
        message = f"{pixels.dtype} of shape {pixels.shape} is no picture in `{given}`"
        hint = f"uint8 of shape (height, width, {CHANNELS[given]})"
        raise BadSamples(message, hint=hint)
    if wanted == "gray":
        weights = np.array(LUMA if given == "rgb" else LUMA[::-1], np.uint32)
        return np.asarray((pixels @ weights + 0x8000 >> 16)[:, :, None], np.uint8)
    return np.repeat(pixels, 3, axis=2) if given == "gray" else pixels[:, :, ::-1]


def check_sides(name: str, sides: Any) -> None:
    """Sides of an image, in pixels, or None.

    Raises:
        BadValue: one is not between 1 and 32768.
    """
    for side in sides if isinstance(sides, tuple) else (sides,):
        if side is not None and not 1 <= side <= MOST_SIDE:
            raise BadValue(f"`{name}` is {side} pixels", keys=(name,), hint=f"1 to {MOST_SIDE}")


def _resized(
    pixels: np.ndarray, size: tuple[int, int], window: tuple[slice, slice], interpolation: str
) -> np.ndarray:
    """A window of the pixels at another height and width, by Pillow where it is installed, which is
    the faster, and else by numpy, which gives the same."""
    between = pixels.shape[0] * size[1]
    if size[0] * size[1] > MOST_PIXELS or between > MOST_BETWEEN:
        raise BadSamples(
            f"{_by(pixels.shape[:2])} pixels would become {_by(size)}",
            hint="`exactly` or `letterbox` bounds both sides",
        )
    if has_pillow():
        return resampled_whole(pixels, size, interpolation)[window]
    return resampled(pixels, size, window, interpolation)


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))

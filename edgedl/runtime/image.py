"""Photos to inputs: decoded and resized by Pillow, cropped and normalised by numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from edgedl.core.errors import BadSamples, BadValue
from edgedl.core.registry import missing

CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
LAYOUTS = ("nchw", "nhwc", "nhw", "chw", "hwc", "hw")
MOST_SIDE = 1 << 15
MOST_PIXELS = 1 << 26
ORIENTATION = 0x0112


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

    Values run from 0 to 255 before `scale`; the formula is computed in double precision and
    rounded once, so that it gives the same bits everywhere. Orientation (EXIF) is obeyed, an alpha
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
        """The library that decodes and resizes, and its version."""
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
        library = pillow()
        try:
            with library.open(path) as file:
                if file.mode.startswith(("I", "F")):
                    hint = "save it with 8 bits a channel"
                    raise _bad(path, f"its pixels are `{file.mode}`, not 8 bits a channel", hint)
                return self._pixels(file)
        except BadSamples:
            raise
        except FileNotFoundError as error:
            raise _bad(path, "no such file") from error
        except Exception as error:
            raise _bad(path, f"cannot be decoded ({_reason(error)})") from error

    def _pixels(self, file: Any) -> np.ndarray:
        if file.getexif().get(ORIENTATION, 1) != 1:
            from PIL import ImageOps

            ImageOps.exif_transpose(file, in_place=True)
        if file.mode == "P" and "transparency" in file.info:
            file = file.convert("RGBA")
        mode = "L" if self.color == "gray" else "RGB"
        pixels = np.asarray(file if file.mode == mode else file.convert(mode))
        if self.color == "bgr":
            return np.ascontiguousarray(pixels[:, :, ::-1])
        return pixels.reshape(*pixels.shape[:2], self.channels)

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """The model's input, of pixels as `decode` gives them, or as a camera does.

        Args:
            raw: uint8 of shape [height, width, channels], channels in the order of `color`; gray
                may lack the last axis.

        Raises:
            BadSamples: the array is none of these, or is smaller than the crop.
        """
        pixels = self._cropped(self._resized(self._checked(raw)))
        if self.dtype == "uint8":
            planes = np.moveaxis(pixels, 2, 0)
        else:
            planes = np.empty((self.channels, *pixels.shape[:2]), np.float32)
            for channel, table in enumerate(self._table):
                np.take(table, pixels[:, :, channel], out=planes[channel], mode="clip")
        if "c" not in self.layout:
            planes = planes[0]
        elif self.layout.endswith("hwc"):
            planes = np.moveaxis(planes, 0, 2)
        return np.ascontiguousarray(planes[None] if "n" in self.layout else planes)

    def _checked(self, raw: np.ndarray) -> np.ndarray:
        pixels = raw[:, :, None] if self.channels == 1 and raw.ndim == 2 else raw
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != self.channels:
            raise BadSamples(
                f"{raw.dtype} of shape {raw.shape} is not an image of {self.channels} channels",
                hint=f"uint8 of shape (height, width, {self.channels})",
            )
        if not pixels.size:
            raise BadSamples("an image without pixels", hint=f"its shape is {raw.shape}")
        return pixels

    def _resized(self, pixels: np.ndarray) -> np.ndarray:
        resize = self.resize
        if resize is None:
            return pixels
        height, width = pixels.shape[:2]
        if resize.exactly is not None:
            return _scaled(pixels, resize.exactly, resize.interpolation)
        if resize.shorter is not None:
            shorter = min(height, width)
            size = height * resize.shorter // shorter, width * resize.shorter // shorter
            return _scaled(pixels, size, resize.interpolation)
        assert resize.letterbox is not None
        area = resize.letterbox
        ratio = min(area[0] / height, area[1] / width)
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        inner = _scaled(pixels, size, resize.interpolation)
        top, left = (area[0] - size[0]) // 2, (area[1] - size[1]) // 2
        found = np.full((*area, pixels.shape[2]), resize.fill, np.uint8)
        found[top : top + size[0], left : left + size[1]] = inner
        return found

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        if self.crop is None:
            return pixels
        (height, width), (tall, wide) = pixels.shape[:2], self.crop
        if height < tall or width < wide:
            raise BadSamples(
                f"{_by((height, width))} pixels are less than the crop of {_by(self.crop)}",
                hint="add `resize: {shorter: ...}` to the pre-processing, or crop less",
            )
        top, left = round((height - tall) / 2), round((width - wide) / 2)
        return pixels[top : top + tall, left : left + wide]


def check_sides(name: str, sides: Any) -> None:
    """Sides of an image, in pixels, or None.

    Raises:
        BadValue: one is not between 1 and 32768.
    """
    for side in sides if isinstance(sides, tuple) else (sides,):
        if side is not None and not 1 <= side <= MOST_SIDE:
            raise BadValue(f"`{name}` is {side} pixels", keys=(name,), hint=f"1 to {MOST_SIDE}")


def pillow() -> Any:
    """Pillow's module `Image`.

    Raises:
        Missing: it is not installed.
    """
    try:
        import PIL.Image
    except ModuleNotFoundError as error:
        raise missing(error, "reading images") from error
    return PIL.Image


def _scaled(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Pixels of another height and width."""
    if size == pixels.shape[:2]:
        return pixels
    if size[0] * size[1] > MOST_PIXELS:
        raise BadSamples(
            f"{_by(pixels.shape[:2])} pixels would become {_by(size)}",
            hint="`exactly` or `letterbox` bounds both sides",
        )
    library = pillow()
    filter_: Callable[..., Any] = getattr(library.Resampling, interpolation.upper())
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    found = library.fromarray(np.ascontiguousarray(flat)).resize(size[::-1], filter_)
    return np.asarray(found).reshape(*size, pixels.shape[2])


def _by(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _bad(path: str | Path, reason: str, hint: str = "remove it, or put a sound one") -> BadSamples:
    return BadSamples(reason, where=str(path), hint=hint)

"""What Pillow does for pictures: their files decoded, and pixels resampled."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.registry import installed, missing

ORIENTATION = 0x0112


@lru_cache(maxsize=1)
def has_pillow() -> bool:
    """Whether it is installed, as looked up once."""
    return installed("PIL")


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


def decoded(path: str | Path, *, gray: bool) -> np.ndarray:
    """The pixels of an image file, upright, of its first frame where it has several.

    Args:
        gray: ITU-R 601 luma, or red, green and blue; an alpha channel is dropped.

    Returns:
        uint8 of shape [height, width, channels].

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
            return _pixels(file, "L" if gray else "RGB")
    except BadSamples:
        raise
    except FileNotFoundError as error:
        raise _bad(path, "no such file") from error
    except Exception as error:
        raise _bad(path, f"cannot be decoded ({_reason(error)})") from error


def _pixels(file: Any, mode: str) -> np.ndarray:
    if file.getexif().get(ORIENTATION, 1) != 1:
        from PIL import ImageOps

        ImageOps.exif_transpose(file, in_place=True)
    if file.mode == "P" and "transparency" in file.info:
        file = file.convert("RGBA")
    pixels = np.asarray(file if file.mode == mode else file.convert(mode))
    return pixels.reshape(*pixels.shape[:2], len(mode))


def resampled_whole(pixels: np.ndarray, size: tuple[int, int], interpolation: str) -> np.ndarray:
    """Pixels at another height and width: uint8 of shape [height, width, channels], as given.

    The width comes first, then the height, which no version of Pillow can take in another order.

    Args:
        interpolation: the name of one of Pillow's filters, in lower case.

    Raises:
        Missing: Pillow is not installed.
    """
    library = pillow()
    filter_: Callable[..., Any] = getattr(library.Resampling, interpolation.upper())
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    wide = library.fromarray(np.ascontiguousarray(flat)).resize((size[1], len(flat)), filter_)
    return np.asarray(wide.resize(size[::-1], filter_)).reshape(*size, pixels.shape[2])


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _bad(path: str | Path, reason: str, hint: str = "remove it, or put a sound one") -> BadSamples:
    return BadSamples(reason, where=str(path), hint=hint)

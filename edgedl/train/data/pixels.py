"""The pre-processing of images, where nobody has said it: 0 to 1, mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from edgedl.runtime.process.image import Image, Resize

MOST_READ = 4096
LEAST_STD = 1 / 255


def normal_image(
    images: Iterable[np.ndarray],
    color: Literal["rgb", "bgr", "gray"],
    sides: tuple[int, int],
    given: Image | None = None,
) -> Image:
    """An image's pre-processing of this height and width.

    Args:
        images: uint8 of shape [height, width(, channels)] to take mean and deviation from, the
            first 4096 of them; not looked at where `given` says them.
    """
    if given is not None:
        return given if None not in given.shape else replace(given, resize=Resize(exactly=sides))
    channels = 1 if color == "gray" else 3
    total = squares = np.zeros(channels)
    count = 0
    for i, image in enumerate(images):
        if i == MOST_READ:
            break
        values = image.reshape(-1, channels) / 255
        total, squares = total + values.sum(axis=0), squares + np.square(values).sum(axis=0)
        count += len(values)
    mean = total / max(1, count)
    std = np.sqrt(np.maximum(squares / max(1, count) - mean**2, 0))
    return Image(
        color=color,
        resize=Resize(exactly=sides),
        scale=1 / 255,
        mean=tuple(round(float(value), 6) for value in mean),
        std=tuple(round(max(float(value), LEAST_STD), 6) for value in std),
    )

"""Answers that are masks, as pictures: PNG files with a colour for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgedl.core.errors import BadOption
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.store import atomic_write
from edgedl.runtime.process.files import Files
from edgedl.runtime.process.maps import Mask
from edgedl.runtime.process.pillow import pillow
from edgedl.runtime.session import Session

SUFFIX = ".png"
# What the network did not see.
NOTHING = 255


def write_mask(
    session: Session, bound: Samples, output: str | Path, progress: Progress = silent
) -> int:
    """Save the mask of one picture, as large as the picture; returns 1.

    The file has a palette: a pixel's value is its class, 255 where the network saw nothing of it.

    Raises:
        BadOption: there are several pictures, or the bundle answers with something else.
        BadSamples: the picture is damaged. EngineFailed: the engine failed while it ran.
        Missing: Pillow is not installed.
    """
    source = bound.source
    after = source.processing.postprocess if isinstance(source, Files) else None
    if not isinstance(source, Files) or not isinstance(after, Mask):
        raise BadOption("what is answered is no mask of a picture", hint="--output O.npz")
    if len(bound) != 1:
        message = f"{len(bound)} pictures have as many masks"
        raise BadOption(message, hint="--input with one picture, or --output O.npz")
    raw = bound.load(0)
    feed = bound.prepare(raw)
    processing = source.processing.bind(session.signature)
    found = processing.after(session.run(feed), processing.seen(raw[1], feed))
    image = pillow().fromarray(np.where(found < 0, NOTHING, found).astype(np.uint8))
    image.putpalette(palette().reshape(-1).tolist())
    with atomic_write(Path(output)) as work, work.open("wb") as file:
        image.save(file, "PNG")
    progress("running", 1, 1)
    return 1


def palette() -> np.ndarray:
    """Colours for 256 classes, uint8 [256, 3], black first: the bits of each number spread over the
    three channels, as the PASCAL VOC challenge does (Everingham et al., IJCV 88, 2010)."""
    numbers = np.arange(256)
    found = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            found[:, channel] |= ((numbers >> channel & 1) << (7 - bit)).astype(np.uint8)
        numbers = numbers >> 3
    return found

"""Tiny image files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image


def photo(folder: Path, pixels: Any, name: str = "photo.png", **options: Any) -> Path:
    """An image file of these pixels, uint8."""
    path = folder / name
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path

"""Resizing by numpy alone: the bits that Pillow gives, and what can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.pillow import pillow
from edgedl.runtime.process.resample import FILTERS, resampled

INTERPOLATIONS = ["nearest", *FILTERS]
SIDES = st.integers(1, 70)


def whole(height: int, width: int) -> tuple[slice, slice]:
    return slice(0, height), slice(0, width)


def by_pillow(pixels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """Width before height, each by one call: which Pillow takes first depends on its version."""
    pytest.importorskip("PIL", reason="Pillow is not installed")
    library = pillow()
    filter_ = getattr(library.Resampling, name.upper())
    flat = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    wide = library.fromarray(flat).resize((size[1], len(flat)), filter_)
    return np.asarray(wide.resize(size[::-1], filter_)).reshape(*size, pixels.shape[2])


@given(
    st.tuples(SIDES, SIDES),
    st.tuples(SIDES, SIDES),
    st.sampled_from([1, 3]),
    st.sampled_from(INTERPOLATIONS),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=400, deadline=None)
def test_the_bits_of_pillow(
    given_size: tuple[int, int], size: tuple[int, int], channels: int, name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.choice([0, 255, 128, 1], size=(*given_size, channels)).astype(np.uint8)
    wanted = by_pillow(pixels, size, name)
    assert np.array_equal(resampled(pixels, size, whole(*size), name), wanted)
    image = Image(
        color="gray" if channels == 1 else "rgb",
        resize=Resize(exactly=size, interpolation=name),  # type: ignore[arg-type]
        layout="hwc",
        dtype="uint8",
    )
    assert np.array_equal(image.apply(pixels), wanted)


@pytest.mark.parametrize("name", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("given_size", "size"), [((480, 640), (256, 341)), ((77, 31), (224, 224)), ((9, 500), (9, 99))]
)
def test_a_window_of_a_picture(
    given_size: tuple[int, int], size: tuple[int, int], name: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*given_size, 3), np.uint8)
    wanted = by_pillow(pixels, size, name)
    assert np.array_equal(resampled(pixels, size, whole(*size), name), wanted)
    window = slice(size[0] // 3, size[0]), slice(1, size[1] // 2)
    assert np.array_equal(resampled(pixels, size, window, name), wanted[window])


def test_halving_by_hand() -> None:
    row = np.array([[0, 100, 200, 40]], np.uint8)[:, :, None]
    # a triangle of half-width 2 about 1 and 3: 3/8, 3/8, 1/8 of 0, 100, 200 over 7/8; and mirrored
    found = resampled(row, (1, 2), whole(1, 2), "bilinear")
    assert found[0, :, 0].tolist() == [round((300 + 200) / 7), round((100 + 600 + 120) / 7)]


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_one_grey_stays_one_grey(name: str) -> None:
    pixels = np.full((13, 7, 3), 201, np.uint8)
    assert (resampled(pixels, (5, 19), whole(5, 19), name) == 201).all()

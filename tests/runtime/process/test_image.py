"""Photos to inputs: arithmetic by hand, sizes as they are said, and files that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.image import Image, Resize
from tests.photos import photo

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    random = np.random.default_rng(height * width)
    return random.integers(0, 256, (height, width, channels), np.uint8)


def test_decoding_gives_the_pixels(tmp_path: Path) -> None:
    path = photo(tmp_path, [[RED, GREEN], [BLUE, WHITE]])
    assert Image().decode(path).tolist() == [[[*RED], [*GREEN]], [[*BLUE], [*WHITE]]]
    assert Image(color="bgr").decode(path).tolist() == [[[*BLUE], [*GREEN]], [[*RED], [*WHITE]]]
    gray = Image(color="gray").decode(path)
    # ITU-R 601: 0.299 red + 0.587 green + 0.114 blue
    assert gray.tolist() == [[[76], [150]], [[29], [255]]]


def test_normalising_by_hand() -> None:
    pixels = np.array([[[0, 51, 255]]], np.uint8)
    image = Image(scale=1 / 255, mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0))
    # (0 - 0.5) / 0.5, (51/255 - 0.2) / 0.1, (1 - 0) / 2
    assert image.apply(pixels).reshape(-1).tolist() == [-1.0, 0.0, 0.5]
    assert image.apply(pixels).dtype == np.float32
    assert Image(mean=(1.0,), std=(2.0,)).apply(pixels).reshape(-1).tolist() == [-0.5, 25.0, 127.0]


EVERY = np.arange(256, dtype=np.uint8)
FORMULAS = {
    "deviations": {"scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "one for all": {"scale": 1 / 255, "mean": (0.1307,), "std": (0.3081,)},
    "as they are": {},
    "large": {"mean": (127.5,), "std": (1e-3,)},
    "small": {"scale": 1e-9, "mean": (1e-7,)},
    "turned round": {"std": (-1.0, 3.0, 7.0)},
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "chw", "hwc"])
def test_every_value_comes_within_a_millionth_of_double_precision(
    formula: dict[str, Any], layout: Any
) -> None:
    image = Image(layout=layout, **formula)
    pixels = np.stack([EVERY, EVERY[::-1], np.roll(EVERY, 99)], axis=1).reshape(16, 16, 3)
    mean, std = (np.array(formula.get(k, d)) for k, d in (("mean", (0.0,)), ("std", (1.0,))))
    wanted = (pixels.astype(np.float64) * formula.get("scale", 1.0) - mean) / std
    found = image.apply(pixels)
    assert found.dtype == np.float32
    found = found.reshape(found.shape[-3:])
    wanted = wanted if layout.endswith("hwc") else wanted.transpose(2, 0, 1)
    # a float32 of 2**17, as there are among the large ones, lies half of 2**-6 from its number
    allowed = 1e-6 + np.spacing(np.abs(wanted).astype(np.float32)) / 2
    assert (np.abs(found - wanted) <= allowed).all()
    assert image.apply(pixels, out := np.empty_like(image.apply(pixels))) is out
    assert np.array_equal(out.reshape(found.shape), found)


@pytest.mark.parametrize(
    ("layout", "shape"),
    [("nchw", (1, 3, 2, 4)), ("nhwc", (1, 2, 4, 3)), ("chw", (3, 2, 4)), ("hwc", (2, 4, 3))],
)
def test_layouts_of_colors(layout: Any, shape: tuple[int, ...]) -> None:
    pixels = noise(2, 4)
    found = Image(layout=layout).apply(pixels)
    assert found.shape == shape
    assert found.flags.c_contiguous
    axes = [layout.replace("n", "").index(axis) for axis in "hwc"]
    assert np.array_equal(np.transpose(found.reshape(shape[-3:]), axes), pixels)


@pytest.mark.parametrize(
    ("layout", "shape"), [("nchw", (1, 1, 2, 4)), ("nhw", (1, 2, 4)), ("hw", (2, 4))]
)
def test_layouts_of_gray(layout: Any, shape: tuple[int, ...]) -> None:
    pixels = noise(2, 4, 1)
    image = Image(color="gray", layout=layout)
    assert np.array_equal(image.apply(pixels), pixels.reshape(shape))
    assert np.array_equal(image.apply(pixels[:, :, 0]), pixels.reshape(shape))


def test_pixels_as_they_are() -> None:
    found = Image(dtype="uint8", layout="nhwc").apply(noise(3, 5))
    assert found.dtype == np.uint8
    assert np.array_equal(found[0], noise(3, 5))


@pytest.mark.parametrize(
    ("size", "crop", "top", "left"),
    [((4, 6), (2, 2), 1, 2), ((5, 5), (2, 2), 2, 2),
     ((3, 4), (3, 4), 0, 0), ((7, 4), (4, 1), 2, 2)],
)  # fmt: skip
def test_the_middle_is_kept(
    size: tuple[int, int], crop: tuple[int, int], top: int, left: int
) -> None:
    pixels = noise(*size)
    found = Image(crop=crop, layout="hwc").apply(pixels)
    assert np.array_equal(found, pixels[top : top + crop[0], left : left + crop[1]])


@pytest.mark.parametrize(
    ("size", "resize", "wanted"),
    [
        ((40, 60), Resize(shorter=10), (10, 15)),
        ((60, 40), Resize(shorter=10), (15, 10)),
        ((33, 50), Resize(shorter=10), (10, 15)),
        ((40, 60), Resize(exactly=(7, 9)), (7, 9)),
        ((40, 60), Resize(letterbox=(30, 30)), (30, 30)),
    ],
)
def test_sizes_after_resizing(
    size: tuple[int, int], resize: Resize, wanted: tuple[int, int]
) -> None:
    assert Image(resize=resize, layout="hwc").apply(noise(*size)).shape == (*wanted, 3)


def test_nearest_takes_pixels_that_were_there() -> None:
    pixels = np.array([[10, 20], [30, 40]], np.uint8)
    resize = Resize(exactly=(4, 4), interpolation="nearest")
    found = Image(color="gray", resize=resize, layout="hw", dtype="uint8").apply(pixels)
    assert found.tolist() == [[10, 10, 20, 20]] * 2 + [[30, 30, 40, 40]] * 2


def test_bilinear_halves_by_the_triangle_that_is_as_wide() -> None:
    # antialiased: support 2 pixels to either side of 1.0, weights 0.25, 0.75, 0.75, 0.25 at -0.5,
    # 0.5, 1.5, 2.5, the first outside: (0.75*0 + 0.75*80 + 0.25*160) / 1.75
    pixels = np.array([[0, 80, 160, 240]] * 2, np.uint8)
    resize = Resize(exactly=(2, 2))
    found = Image(color="gray", resize=resize, layout="hw", dtype="uint8").apply(pixels)
    assert found.tolist() == [[57, 183]] * 2


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_every_interpolation_keeps_a_flat_image(interpolation: Any) -> None:
    pixels = np.full((13, 9, 3), 77, np.uint8)
    resize = Resize(exactly=(5, 21), interpolation=interpolation)
    assert np.unique(Image(resize=resize).apply(pixels)).tolist() == [77.0]


def test_a_letterbox_is_filled_around_the_middle() -> None:
    pixels = np.full((2, 4, 3), 200, np.uint8)
    found = Image(resize=Resize(letterbox=(5, 4), fill=7), layout="hwc").apply(pixels)
    assert found[:, 0, 0].tolist() == [7, 200, 200, 7, 7]
    assert np.array_equal(found[1:3], np.full((2, 4, 3), 200))
    wide = Image(resize=Resize(letterbox=(2, 8)), layout="hwc").apply(pixels)
    assert wide[0, :, 0].tolist() == [0, 0, 200, 200, 200, 200, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_obeyed(orientation: int, tmp_path: Path) -> None:
    upright = np.array([[[10] * 3, [20] * 3, [30] * 3], [[40] * 3, [50] * 3, [60] * 3]], np.uint8)
    # what a camera held so would have stored (Exif 2.3, tag 0x0112)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]  # fmt: skip
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = photo(tmp_path, stored, exif=exif)
    assert np.array_equal(Image().decode(path), upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "CMYK"])
def test_every_mode_becomes_the_color(mode: str, tmp_path: Path) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    path = tmp_path / f"photo.{suffix}"
    PIL.Image.new("RGB", (4, 3), WHITE).convert(mode).save(path)
    assert np.array_equal(Image().decode(path), np.full((3, 4, 3), 255))
    assert Image(color="gray").decode(path).shape == (3, 4, 1)


def test_a_palette_with_transparency_warns_nobody(tmp_path: Path) -> None:
    picture = PIL.Image.new("P", (2, 2))
    picture.putpalette([*RED, *BLUE])
    picture.save(tmp_path / "photo.png", transparency=bytes([0, 128]))
    assert Image().decode(tmp_path / "photo.png")[0, 0].tolist() == [*RED]


def test_sixteen_bits_are_refused_before_they_are_cut(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.full((2, 2), 40_000, np.uint16)).save(tmp_path / "scan.png")
    with pytest.raises(BadSamples, match="not 8 bits a channel") as caught:
        Image(color="gray").decode(tmp_path / "scan.png")
    assert caught.value.where == str(tmp_path / "scan.png")


def damaged(folder: Path) -> dict[str, Path]:
    whole = photo(folder, noise(50, 50), "whole.jpg").read_bytes()
    files = {"cut": whole[:-200], "nothing": b"", "text": b"not a photo", "head": whole[:30]}
    for name, content in files.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "folder.jpg").mkdir()
    return {name: folder / f"{name}.jpg" for name in (*files, "folder", "absent")}


@pytest.mark.parametrize("kind", ["cut", "nothing", "text", "head", "folder", "absent"])
def test_a_damaged_file_is_named(kind: str, tmp_path: Path) -> None:
    path = damaged(tmp_path)[kind]
    with pytest.raises(BadSamples) as caught:
        Image().decode(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("image", "raw", "says"),
    [
        (Image(), np.zeros((4, 4), np.uint8), "not an image of 3 channels"),
        (Image(), np.zeros((4, 4, 3), np.float32), "not an image of 3 channels"),
        (Image(color="gray"), np.zeros((4, 4, 3), np.uint8), "not an image of 1 channels"),
        (Image(), np.zeros((0, 4, 3), np.uint8), "without pixels"),
        (Image(crop=(5, 5)), np.zeros((4, 6, 3), np.uint8), "4x6 pixels are less than the crop"),
        (
            Image(resize=Resize(shorter=30_000)),
            np.zeros((1, 30_000, 3), np.uint8),
            "would become 30000x900000000",
        ),
    ],
)
def test_pixels_that_are_refused(image: Image, raw: np.ndarray, says: str) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        image.apply(raw)
    assert caught.value.hint


IMPOSSIBLE: dict[str, tuple[Any, tuple[str, ...]]] = {
    "no size": (lambda: Resize(), ()),
    "two sizes": (lambda: Resize(shorter=3, exactly=(3, 3)), ()),
    "a side of 0": (lambda: Resize(exactly=(3, 0)), ("exactly",)),
    "a side of a million": (lambda: Resize(shorter=10**6), ("shorter",)),
    "a fill of 256": (lambda: Resize(letterbox=(3, 3), fill=256), ("fill",)),
    "a crop of 0": (lambda: Image(crop=(0, 3)), ("crop",)),
    "a crop beyond the size": (
        lambda: Image(crop=(3, 4), resize=Resize(exactly=(3, 3))),
        ("crop",),
    ),
    "a crop beyond the shorter side": (
        lambda: Image(crop=(4, 4), resize=Resize(shorter=3)),
        ("crop",),
    ),
    "two means": (lambda: Image(mean=(1.0, 2.0)), ("mean",)),
    "three means of gray": (lambda: Image(color="gray", mean=(1.0,) * 3), ("mean",)),
    "a std of 0": (lambda: Image(std=(1.0, 0.0, 1.0)), ("std",)),
    "values beyond float32": (lambda: Image(scale=1e300), ("std",)),
    "colors in no axis": (lambda: Image(layout="nhw"), ("layout",)),
    "scaled bytes": (lambda: Image(dtype="uint8", scale=1 / 255), ("dtype",)),
    "bytes less a mean": (lambda: Image(dtype="uint8", mean=(0.5, 0.0, 0.0)), ("dtype",)),
}


@pytest.mark.parametrize(("make", "keys"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_impossible_settings(make: Any, keys: tuple[str, ...]) -> None:
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.keys == keys
    assert caught.value.hint


@pytest.mark.parametrize(
    ("image", "shape"),
    [
        (Image(), (1, 3, None, None)),
        (Image(resize=Resize(shorter=9), layout="nhwc"), (1, None, None, 3)),
        (Image(resize=Resize(exactly=(5, 6))), (1, 3, 5, 6)),
        (Image(resize=Resize(letterbox=(5, 6)), color="gray", layout="hw"), (5, 6)),
        (Image(resize=Resize(shorter=9), crop=(5, 6)), (1, 3, 5, 6)),
    ],
)
def test_the_shape_is_known_beforehand(image: Image, shape: tuple[int | None, ...]) -> None:
    assert image.shape == shape
    made = image.apply(noise(40, 50, image.channels)).shape
    assert all(size in (None, real) for size, real in zip(shape, made, strict=True))


@pytest.mark.parametrize("raw", [None, 3, [[1, 2]], {"a": 1}, b"x"])
def test_what_is_no_array_is_no_picture(raw: object) -> None:
    with pytest.raises(BadSamples, match="is no picture"):
        Image().apply(raw)  # type: ignore[arg-type]

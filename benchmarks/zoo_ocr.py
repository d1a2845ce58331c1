"""The zoo's PP-OCR models, and rendered pages and lines, prepared as rapidocr prepares them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.ImageFont import FreeTypeFont
from zoo_download import read, read_one
from zoo_photos import open_picture, photo_files
from zoo_text import sentences

Floats = NDArray[np.float32]
Colour = tuple[int, int, int]

_PAGES, _PAGE = 64, 640
_LINES, _LINE_WIDTH, _LINE_HEIGHT = 256, 320, 48


def ppocr_det(folder: Path, downloads: Path) -> None:
    """Writes the text detector and 64 pages, float32 [64, 3, 640, 640]."""
    model = read_one("rapidocr", downloads, "rapidocr/models/PP-OCRv6_det_small.onnx")
    (folder / "model.onnx").write_bytes(model)
    draw = np.random.default_rng(0)
    fonts = _fonts(downloads)
    words = sentences(downloads)
    grounds = [open_picture(data) for data in photo_files(downloads).values()]
    scans = read("scikit-image", downloads, "skimage/data/page.png", "skimage/data/text.png")
    pages = [_resized(open_picture(data), _PAGE, _PAGE) for data in scans.values()]
    while len(pages) < _PAGES:
        ground = grounds[len(pages) % len(grounds)] if len(pages) % 4 == 0 else None
        pages.append(_page(draw, fonts, words, ground))
    np.savez(
        folder / "samples.npz", allow_pickle=False, x=np.stack([_prepared(page) for page in pages])
    )


def ppocr_rec(folder: Path, downloads: Path) -> None:
    """Writes the text recogniser and 256 lines, float32 [256, 3, 48, 320]."""
    model = read_one("rapidocr", downloads, "rapidocr/models/PP-OCRv6_rec_small.onnx")
    (folder / "model.onnx").write_bytes(model)
    draw = np.random.default_rng(0)
    fonts = _fonts(downloads)
    words = sentences(downloads)
    values = np.zeros((_LINES, 3, _LINE_HEIGHT, _LINE_WIDTH), np.float32)
    for index in range(_LINES):
        line = _line(draw, fonts, _text(draw, words[index]))
        width = min(_LINE_WIDTH, -(-_LINE_HEIGHT * line.width // line.height))
        values[index, :, :, :width] = _prepared(_resized(line, width, _LINE_HEIGHT))
    np.savez(folder / "samples.npz", allow_pickle=False, x=values)


def _fonts(downloads: Path) -> list[bytes]:
    """The DejaVu fonts that have letters."""
    files = read("dejavu-fonts-ttf", downloads, "package/ttf/*.ttf")
    return [data for name, data in files.items() if "Math" not in name]


def _font(draw: np.random.Generator, fonts: list[bytes], size: int) -> FreeTypeFont:
    chosen = fonts[int(draw.integers(len(fonts)))]
    font = ImageFont.truetype(io.BytesIO(chosen), size)
    return font


def _colours(draw: np.random.Generator) -> tuple[Colour, Colour]:
    """A paper and an ink that can be told apart; dark on light three times out of four."""
    light, dark = draw.integers(190, 256, 3), draw.integers(0, 90, 3)
    paper, ink = (light, dark) if draw.random() < 0.75 else (dark, light)
    return (int(paper[0]), int(paper[1]), int(paper[2])), (int(ink[0]), int(ink[1]), int(ink[2]))


def _text(draw: np.random.Generator, sentence: str) -> str:
    """A few words of the sentence, or a price, date, time, serial number or telephone number."""
    a, b, c = (int(value) for value in draw.integers(0, 10_000, 3))
    numbers = (
        f"${a}.{b % 100:02d}",
        f"{1950 + a % 90}-{1 + b % 12:02d}-{1 + c % 28:02d}",
        f"{a % 24:02d}:{b % 60:02d}:{c % 60:02d}",
        f"No. {a:04d}-{b:04d}/{c % 26 + 10:X}",
        f"+{a % 90 + 1} {b:04d} {c:04d}",
    )
    if draw.random() < 0.25:
        return numbers[int(draw.integers(len(numbers)))]
    words = sentence.split()
    start = int(draw.integers(max(1, len(words) - 2)))
    text = ""
    for word in words[start : start + int(draw.integers(1, 5))]:
        if text and len(text) + len(word) > 19:
            break
        text = f"{text} {word}".strip()
    return text[:24].upper() if draw.random() < 0.15 else text[:24]


def _line(draw: np.random.Generator, fonts: list[bytes], text: str) -> Image.Image:
    """One line of text, cut close, as a detector would cut it out."""
    font = _font(draw, fonts, int(draw.integers(20, 44)))
    left, top, right, bottom = font.getbbox(text)
    margin = int(draw.integers(2, 7))
    paper, ink = _colours(draw)
    size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
    line = Image.new("RGB", size, paper)
    ImageDraw.Draw(line).text((margin - left, margin - top), text, ink, font)
    return _worn(draw, line)


def _page(
    draw: np.random.Generator, fonts: list[bytes], words: list[str], ground: Image.Image | None
) -> Image.Image:
    """A page of 640 x 640 pixels: a heading and 1 or 2 columns, or, on a photo, a few signs."""
    paper, ink = _colours(draw)
    if ground is None:
        page = Image.new("RGB", (_PAGE, _PAGE), paper)
    else:
        page = _resized(ground, _PAGE, _PAGE)
    pen = ImageDraw.Draw(page)
    if ground is not None:
        for _ in range(int(draw.integers(2, 6))):
            text = _text(draw, words[int(draw.integers(len(words)))])
            corner = (int(draw.integers(10, 400)), int(draw.integers(10, 590)))
            font = _font(draw, fonts, int(draw.integers(20, 56)))
            pen.text(corner, text, paper, font, stroke_width=2, stroke_fill=ink)
        return _worn(draw, page)
    heading = _font(draw, fonts, int(draw.integers(30, 48)))
    pen.text((30, 20), _text(draw, words[int(draw.integers(len(words)))]), ink, heading)
    columns = int(draw.integers(1, 3))
    size = int(draw.integers(13, 27))
    font = _font(draw, fonts, size)
    wide = (_PAGE - 30) // columns - 30
    for column in range(columns):
        x, y = 30 + column * (wide + 30), 90
        while y < _PAGE - 2 * size:
            for row in _wrapped(words[int(draw.integers(len(words)))], font, wide):
                if y < _PAGE - 2 * size:
                    pen.text((x, y), row, ink, font)
                y += size * 3 // 2
            y += size * int(draw.integers(1, 4))
    return _worn(draw, page)


def _wrapped(sentence: str, font: FreeTypeFont, width: int) -> list[str]:
    rows = [""]
    for word in sentence.split():
        longer = f"{rows[-1]} {word}".strip()
        if font.getlength(longer) > width and rows[-1]:
            rows.append(word)
        else:
            rows[-1] = longer
    return rows


def _worn(draw: np.random.Generator, picture: Image.Image) -> Image.Image:
    """The picture turned by up to 2 degrees, a little blurred and noisy, each half of the time."""
    if draw.random() < 0.5:
        corner = picture.getpixel((0, 0))
        turn = float(draw.uniform(-2, 2))
        picture = picture.rotate(turn, Image.Resampling.BICUBIC, fillcolor=corner)
    if draw.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(float(draw.uniform(0.3, 0.9))))
    if draw.random() < 0.5:
        values = np.asarray(picture, np.float32)
        noisy = values + draw.normal(0, draw.uniform(2, 12), values.shape)
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    return picture


def _resized(picture: Image.Image, width: int, height: int) -> Image.Image:
    small = picture.resize((width, height), Image.Resampling.BILINEAR)
    return small


def _prepared(picture: Image.Image) -> Floats:
    """The channels blue, green, red of a picture, float32 [3, height, width], values in -1..1."""
    values = np.asarray(picture, np.float32)[:, :, ::-1] / np.float32(127.5) - 1
    return np.ascontiguousarray(values.transpose(2, 0, 1))

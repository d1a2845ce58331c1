"""Training's batches hold what a device makes of the same raw things."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgedl.runtime.process import Processing
from edgedl.runtime.process.features import Features
from edgedl.runtime.process.files import Files
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.sound import Sound
from edgedl.train.batches import open_data
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import Dataset, signature_of
from edgedl.train.data.settings import Vocabulary
from tests.photos import photo
from tests.sounds import wav

RNG = np.random.default_rng(8)
WORDS = ["the", "pump", "runs", "hot", "and", "the", "valve", "leaks", "a", "little"]
Raw = Callable[[Dataset, int], Any]
Made = tuple[Data, Raw]


def file_of(found: Dataset, row: int) -> Path:
    source = found.test.source
    assert isinstance(source, Files)
    return source.folder / source.names[row]


def photos(folder: Path, **settings: Any) -> Made:
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            pixels = RNG.integers(0, 256, (21 + i, 33, 3))
            photo(folder / name, pixels, f"{i}.{'jpg' if i % 2 else 'png'}")
    return Data(folder=str(folder), image=Image(**settings)), file_of


def same_photos(folder: Path) -> Made:
    """Of one size, whose mean and deviation training finds."""
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for i in range(6):
            photo(folder / name, RNG.integers(0, 256, (9, 8, 3)), f"{i}.png")
    return Data(folder=str(folder)), file_of


def sounds(folder: Path, **settings: Any) -> Made:
    for name in ("low", "high"):
        (folder / name).mkdir()
        for i in range(6):
            values = RNG.integers(-(2**15), 2**15, 2000 + 300 * i).astype("<i2")
            rate = 8000 if i % 2 else 11_025
            wav(folder / name, values.tobytes(), name=f"{i}.wav", rate=rate)
    return Data(folder=str(folder), **settings), file_of


def table(folder: Path) -> Made:
    rows = [
        {"age": str(RNG.integers(18, 90)), "town": str(RNG.choice(["Bonn", "Kiel", "Ulm"])),
         "income": f"{RNG.normal(3e4, 1e4):.2f}" if i % 7 else "", "label": "yn"[i % 2]}
        for i in range(60)
    ]  # fmt: skip
    path = folder / "people.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    settings = Data(table=str(path), categories=("town",), missing="mean")
    return settings, lambda _, row: rows[row]


def texts(folder: Path) -> Made:
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    rows = [" ".join(RNG.choice(WORDS, RNG.integers(1, 12))) + f" {i}!" for i in range(40)]
    lines = [f'"{text}",{"ab"[i % 2]}' for i, text in enumerate(rows)]
    (folder / "texts.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    words = Vocabulary(size=64, least=1)
    path = str(folder / "texts.csv")
    return Data(text=path, length=8, vocabulary=words), lambda _, row: rows[row]


def series(folder: Path) -> Made:
    frames = np.round(RNG.normal([5, -300, 0.01], [2, 90, 0.001], (320, 3)), 6)
    rows = [f"{x},{y},{z},{'run' if i // 40 % 2 else 'rest'},{i // 80}"
            for i, (x, y, z) in enumerate(frames)]  # fmt: skip
    (folder / "a.csv").write_text("\n".join(["x,y,z,label,person", *rows]) + "\n")
    settings = Data(series=str(folder / "a.csv"), length=8, group="person")
    return settings, lambda _, row: frames[8 * row : 8 * row + 8]


def forecast(folder: Path) -> Made:
    frames = np.round(RNG.normal([20, 1000], [4, 3], (300, 2)), 6)
    rows = [f"{x},{y}" for x, y in frames]
    (folder / "a.csv").write_text("\n".join(["load,air", *rows]) + "\n")
    settings = Data(series=str(folder / "a.csv"), length=12, horizon=3, label="load")
    # what lies before the window is there on the device, too, and is not looked at
    return settings, lambda _, row: frames[max(0, row - 5) : row + 12]


def arrays(folder: Path) -> Made:
    pixels = RNG.integers(0, 256, (40, 7, 6), np.uint8)
    np.savez(folder / "a.npz", input=pixels, labels=np.arange(40) % 2)
    return Data(arrays=str(folder / "a.npz")), lambda _, row: pixels[row]


MAKERS: dict[str, Callable[[Path], Made]] = {
    "photos": lambda folder: photos(
        folder, resize=Resize(shorter=20), crop=(16, 16), scale=1 / 255,
        mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
    ),
    "photos in a frame": lambda folder: photos(
        folder, color="bgr", resize=Resize(letterbox=(12, 12), fill=114, interpolation="bicubic"),
        scale=1 / 255, layout="nhwc",
    ),
    "photos of one size": same_photos,
    "sounds": lambda folder: sounds(folder, sound=Sound(8000, 1500)),
    "log-mel": lambda folder: sounds(
        folder, features=Features(8000, 2400, window=200, hop=80, bands=20)
    ),
    "mfcc": lambda folder: sounds(
        folder, features=Features(8000, of="mfcc", window=256, hop=128, bands=16, mel="slaney",
                                  area=True, mean=(-2.0,), std=(5.0,)),
    ),
    "table": table,
    "texts": texts,
    "series": series,
    "forecast": forecast,
    "arrays": arrays,
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_batch_holds_what_the_device_makes(make: Callable[[Path], Made], tmp_path: Path) -> None:
    place = tmp_path / "data"
    place.mkdir()
    settings, raw_of = make(place)
    found = load(settings, seed=0, cache=tmp_path)
    assert found.processing is not None
    carried = json.dumps(found.processing.to_json(), allow_nan=False)
    on_device = Processing.from_json(json.loads(carried)).bind(signature_of(found.inputs))
    samples = found.test.bind(signature_of(found.inputs))
    fed = open_data(samples, torch.device("cpu")).batch(np.arange(len(samples)))
    [batch] = fed.inputs
    assert len(batch) == len(samples) >= 2
    for one, row in zip(batch.numpy(), samples.rows, strict=True):
        [made] = on_device.before(raw_of(found, int(row))).values()
        assert made.dtype == one.dtype
        assert np.array_equal(made[0], one)

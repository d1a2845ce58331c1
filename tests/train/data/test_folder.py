"""Folders of images and recordings, a folder a class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.runtime.process.features import Features
from edgedl.runtime.process.files import reopen
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.sound import Sound
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import Dataset
from tests.sounds import tone, wav

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def photo(path: Path, seed: int, size: tuple[int, int] = (7, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    PIL.fromarray(pixels).save(path)


def photos(folder: Path, count: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for number, name in enumerate(classes):
        for i in range(count):
            photo(folder / name / f"{i}.png", 100 * number + i)
    return folder


def opened(folder: Path, **settings: Any) -> Dataset:
    return load(Data(folder=str(folder), **settings), seed=0, cache=folder)


def test_images_of_one_size_need_no_settings(tmp_path: Path) -> None:
    found = opened(photos(tmp_path))
    assert (len(found.train), len(found.validation), len(found.test)) == (14, 2, 4)
    assert found.train.classes == ("cat", "dog")
    assert found.inputs["image"].shape == (3, 7, 6)
    rows = np.stack([found.train.feed(i)["image"][0] for i in range(14)])
    assert rows.mean(axis=(0, 2, 3)) == pytest.approx([0, 0, 0], abs=1e-4)
    assert found.processing is not None
    path = tmp_path / found.test.source.names[found.test.rows[0]]  # type: ignore[attr-defined]
    assert np.array_equal(found.processing.before(path)["image"], found.test.feed(0)["image"])
    label = found.test.chosen_labels
    assert label is not None
    assert path.parent.name == found.test.classes[label[0]]


def test_images_of_many_sizes_want_one(tmp_path: Path) -> None:
    photo(photos(tmp_path) / "cat" / "large.png", 3, (9, 9))
    with pytest.raises(BadSamples, match="unlike in size: 7x6 and 9x9") as caught:
        opened(tmp_path)
    assert "resize" in (caught.value.hint or "")
    given = Image(resize=Resize(exactly=(4, 4)), scale=1 / 255)
    assert opened(tmp_path, image=given).inputs["image"].shape == (3, 4, 4)


def test_an_official_test_folder(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    photo(tmp_path / "test/dog/a.png", 555)
    found = opened(tmp_path / "train", test=str(tmp_path / "test"))
    assert len(found.test) == 1
    assert found.test.chosen_labels is not None
    assert found.test.chosen_labels.tolist() == [1]
    assert (len(found.train), len(found.validation)) == (18, 2)


def test_only_good_examples(tmp_path: Path) -> None:
    photos(tmp_path, classes=("good",))
    with pytest.raises(BadSamples, match="one class, `good`") as caught:
        opened(tmp_path)
    assert "reconstruction" in (caught.value.hint or "")
    found = opened(tmp_path, task="reconstruction")
    assert (found.outputs, found.task) == (0, "reconstruction")


def test_bad_examples_are_for_the_test(tmp_path: Path) -> None:
    photos(tmp_path, classes=("bad", "good"))
    found = opened(tmp_path, task="reconstruction", normal="good")
    assert found.test.chosen_labels is not None
    assert sorted(found.test.chosen_labels.tolist()) == [0, 0, 1, 1]
    assert found.train.chosen_labels is not None
    assert not found.train.chosen_labels.any()


def test_every_damaged_file_is_named(tmp_path: Path) -> None:
    photos(tmp_path)
    for name in ("cat/3.png", "dog/4.png"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadSamples, match="2 of 20 samples are damaged") as caught:
        opened(tmp_path)
    said = f"{caught.value.where} {caught.value.message}"
    assert "3.png" in said
    assert "4.png" in said
    assert "`damaged: drop`" in (caught.value.hint or "")


def test_damaged_files_can_be_left_out(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "cat" / "3.png").write_bytes(b"no image")
    (tmp_path / "dog" / "4.png").write_bytes(b"")
    with pytest.raises(BadSamples, match="2 of 20 samples are damaged"):
        opened(tmp_path)
    with pytest.raises(BadSamples, match=r"4\.png: the file is empty"):
        opened(tmp_path, check=False)
    found = opened(tmp_path, damaged="drop")
    parts = (found.train, found.validation, found.test)
    assert sum(map(len, parts)) == 18
    names = {part.source.names[row] for part in parts for row in part.rows}  # type: ignore[attr-defined]
    assert not names & {"cat/3.png", "dog/4.png"}
    [said] = found.doubts
    assert said.startswith("2 of 20 samples are damaged and were left out")
    assert str(Path("cat", "3.png")) in said
    assert str(Path("dog", "4.png")) in said
    again = reopen(found.train.origin(1000) or {})
    assert len(again) == len(found.train)
    for name in names:
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(BadSamples, match="no image can be read"):
        opened(tmp_path, damaged="drop")


@pytest.mark.parametrize(("suffix", "way"), [(".flac", "ffmpeg"), (".HEIC", "magick")])
def test_files_of_kinds_that_are_not_read(suffix: str, way: str, tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / f"a{suffix}").write_bytes(b"x")
    with pytest.raises(BadSamples, match=f"`{suffix.lower()}` files are not read") as caught:
        opened(tmp_path)
    assert way in (caught.value.hint or "")
    [said] = opened(photos(tmp_path)).doubts
    assert said.startswith(f"files of kinds that are not read, as `cat/a{suffix}`, are left out: 1")


def test_copies_are_told_by_their_files(tmp_path: Path) -> None:
    for i in range(10):
        photo(tmp_path / "cat" / f"{i}.png", i % 5)
        photo(tmp_path / "dog" / f"{i}.png", 50 + i)
    said = " ".join(opened(tmp_path).doubts)
    assert re.search(r"\(`cat/\d.png` is `cat/\d.png`", said)


def test_classes_in_an_order_of_ones_own(tmp_path: Path) -> None:
    found = opened(photos(tmp_path), classes=("dog", "bird", "cat"))
    assert found.outputs == 3
    assert "class `bird` has no files" in found.doubts
    with pytest.raises(BadSamples, match="`cat` is none of the 2 labels"):
        opened(tmp_path, classes=("dog", "bird"))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "is empty"),
        (lambda folder: (folder / "a.pdf").touch(), "no images and no recordings"),
        (lambda folder: photo(folder / "a.png", 0), "no folders of classes"),
        (lambda folder: (photos(folder), (folder / "cat/x.png").touch()), "the file is empty"),
        (lambda folder: (photos(folder), photo(folder / "a.png", 0)), "beside the folders"),
    ],
)
def test_bad_folders(make: Any, says: str, tmp_path: Path) -> None:
    make(tmp_path)
    with pytest.raises(BadSamples, match=says) as caught:
        opened(tmp_path)
    assert caught.value.hint


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(BadSamples, match="no such folder"):
        opened(tmp_path / "absent")
    with pytest.raises(BadSamples, match="holds no values"):
        opened(photos(tmp_path), task="regression")


def recordings(folder: Path) -> Path:
    for name, hertz in (("high", 900), ("low", 200)):
        (folder / name).mkdir()
        for i in range(10):
            values = (tone(hertz + i, 8000, 0.1 + i / 100) * 9000).astype("<i2")
            wav(folder / name, values.tobytes(), name=f"{i}.wav", rate=8000)
    return folder


def test_recordings_become_bands_of_25_ms(tmp_path: Path) -> None:
    found = opened(recordings(tmp_path))
    assert found.processing is not None
    before = found.processing.preprocess
    assert isinstance(before, Features)
    assert (before.rate, before.window, before.hop) == (8000, 200, 80)
    assert before.length is not None
    assert 8000 * 0.1 <= before.length <= 8000 * 0.19
    assert found.inputs["sound"].shape == (1, 40, 1 + (before.length - 200) // 80)
    path = tmp_path / found.test.source.names[found.test.rows[0]]  # type: ignore[attr-defined]
    assert np.array_equal(found.processing.before(path)["sound"], found.test.feed(0)["sound"])


def test_recordings_as_the_settings_say(tmp_path: Path) -> None:
    given = Features(8000, length=800, of="mfcc", bands=20)
    found = opened(recordings(tmp_path), features=given)
    assert found.inputs["sound"].shape == (1, 13, 3)
    assert opened(tmp_path, sound=Sound(8000, 500)).inputs["sound"].shape == (500,)


def test_files_that_lie_deeper_are_told_of(tmp_path: Path) -> None:
    inside = photos(tmp_path / "all" / "train")
    with pytest.raises(BadSamples, match="two folders deep") as caught:
        opened(tmp_path / "all")
    assert "train" in (caught.value.hint or "")
    (inside / "cat" / "more").mkdir()
    next((inside / "cat").glob("*.*")).rename(inside / "cat" / "more" / "one.png")
    assert "`cat/more`" in opened(inside).doubts[0]

"""Pictures in a folder, each with a file of classes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.runtime.process.image import Image, Resize
from edgedl.runtime.process.pillow import ORIENTATION
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import IGNORED, Dataset
from edgedl.train.data.mask_files import read_mask

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
SIDES = (6, 8)


def saved(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.fromarray(pixels).save(path, **how)
    return path


def photo(path: Path, seed: int, sides: tuple[int, int] = SIDES) -> Path:
    return saved(path, np.random.default_rng(seed).integers(0, 256, (*sides, 3), np.uint8))


def mask(seed: int, sides: tuple[int, int] = SIDES) -> np.ndarray:
    return np.random.default_rng(1000 + seed).integers(0, 3, sides, np.uint8)


def pairs(folder: Path, count: int = 12, name: str = "masks/{name}.png") -> Path:
    for i in range(count):
        photo(folder / f"photos/{i:02}.png", i)
        saved(folder / name.replace("{name}", f"{i:02}"), mask(i))
    return folder


def opened(folder: Path, masks: str = "masks", **settings: Any) -> Dataset:
    data = Data(folder=str(folder / "photos"), masks=str(folder / masks), **settings)
    return load(data, seed=0, cache=folder)


def every(found: Dataset) -> dict[str, np.ndarray]:
    """The mask of each picture by the name of its file."""
    made = {}
    for part in (found.train, found.validation, found.test):
        labels = part.chosen_labels
        assert labels is not None
        for row, label in zip(part.rows, labels, strict=True):
            made[Path(part.source.names[row]).stem] = label  # type: ignore[attr-defined]
    return made


def test_each_picture_has_its_mask(tmp_path: Path) -> None:
    found = opened(pairs(tmp_path), classes=("a", "b", "c"))
    assert (len(found.train), len(found.validation), len(found.test)) == (9, 1, 2)
    assert (found.task, found.outputs, found.places) == ("segmentation", 3, SIDES)
    assert found.train.classes == ("a", "b", "c")
    assert found.inputs["image"].shape == (3, *SIDES)
    assert {name: label.tolist() for name, label in every(found).items()} == {
        f"{i:02}": mask(i).tolist() for i in range(12)
    }
    again = opened(tmp_path, classes=("a", "b", "c"))
    assert np.array_equal(found.train.rows, again.train.rows)


@pytest.mark.parametrize(
    "rule",
    ["photos/{name}_mask.png", "photos/truth/{name}", "m/{name}-l", "m/{name}/{name}_mask.png"],
)
def test_masks_are_named_by_a_rule(rule: str, tmp_path: Path) -> None:
    name = rule if rule.endswith(".png") else f"{rule}.png"
    found = opened(pairs(tmp_path, name=name), masks=rule)
    assert len(every(found)) == 12
    assert found.outputs == 3


def test_pictures_lie_as_deep_as_their_masks_and_make_groups(tmp_path: Path) -> None:
    for i in range(12):
        photo(tmp_path / f"photos/flight{i // 3}/{i}.jpg", i)
        saved(tmp_path / f"masks/flight{i // 3}/{i}.png", mask(i))
    found = opened(tmp_path, group=r"flight\d")
    parts = (found.train, found.validation, found.test)
    flights = [
        {part.source.names[row].split("/")[0] for row in part.rows}  # type: ignore[attr-defined]
        for part in parts
    ]
    assert sum(map(len, flights)) == 4
    assert len(set.union(*flights)) == 4
    with pytest.raises(BadSamples, match=r"`group` finds nothing in `flight0/0.jpg`"):
        opened(tmp_path, group="patient")


def test_an_official_test_folder(tmp_path: Path) -> None:
    pairs(tmp_path)
    photo(tmp_path / "test/a.png", 77)
    saved(tmp_path / "test_masks/a.png", mask(77))
    found = opened(tmp_path, test=str(tmp_path / "test"), test_masks=str(tmp_path / "test_masks"))
    assert (len(found.train), len(found.validation), len(found.test)) == (11, 1, 1)
    assert found.test.chosen_labels is not None
    assert np.array_equal(found.test.chosen_labels[0], mask(77))


def test_masks_are_resized_to_the_nearest_and_nothing_counts_beside_the_picture(
    tmp_path: Path,
) -> None:
    pairs(tmp_path)
    half = opened(tmp_path, image=Image(resize=Resize(exactly=(3, 4)), scale=1 / 255))
    assert np.array_equal(every(half)["00"], mask(0)[1::2, 1::2])
    padded = opened(tmp_path, image=Image(resize=Resize(letterbox=(8, 8)), scale=1 / 255))
    label = every(padded)["00"]
    assert (label[[0, -1]] == IGNORED).all()
    assert np.array_equal(label[1:-1], mask(0))
    cut = opened(tmp_path, image=Image(crop=(2, 4), scale=1 / 255))
    assert np.array_equal(every(cut)["00"], mask(0)[2:4, 2:6])


def test_pictures_of_many_sizes_want_one(tmp_path: Path) -> None:
    pairs(tmp_path)
    photo(tmp_path / "photos/x.png", 5, (9, 9))
    saved(tmp_path / "masks/x.png", mask(5, (9, 9)))
    with pytest.raises(BadSamples, match=r"`00.png` becomes 6x8, this one 9x9") as caught:
        opened(tmp_path)
    assert "resize" in (caught.value.hint or "")
    assert opened(tmp_path, image=Image(resize=Resize(exactly=(4, 4)))).places == (4, 4)


def test_what_a_picture_says_of_its_turn_is_heeded(tmp_path: Path) -> None:
    pairs(tmp_path)
    told = PIL.Exif()
    told[ORIENTATION] = 6
    pixels = np.random.default_rng(3).integers(0, 256, (8, 6, 3), np.uint8)
    saved(tmp_path / "photos/t.jpg", pixels, exif=told)
    saved(tmp_path / "masks/t.png", mask(3))
    found = opened(tmp_path)
    assert np.array_equal(every(found)["t"], mask(3))
    assert any("turned by what their files say (EXIF): 1" in doubt for doubt in found.doubts)


def of_few_bits(path: Path, values: np.ndarray, bits: int) -> Path:
    """A gray PNG of 2 or 4 bits a pixel (PNG specification, 11.2.2): Pillow writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    height, width = values.shape
    rows = np.zeros((height, 1 + width * bits // 8), np.uint8)
    for i in range(width):
        shift = 8 - bits - i * bits % 8
        rows[:, 1 + i * bits // 8] |= (values[:, i] << shift).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes())), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_masks_of_every_kind_of_file(tmp_path: Path) -> None:
    values = mask(0)
    palette = PIL.fromarray(values).convert("P")
    palette.putdata(values.reshape(-1).tolist())
    palette.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "p.png")
    saved(tmp_path / "l.tif", values)
    saved(tmp_path / "rgb.png", np.stack([values] * 3, axis=-1))
    saved(tmp_path / "deep.png", values.astype(np.uint16))
    saved(tmp_path / "alpha.png", np.stack([values, 255 - values], axis=-1))
    of_few_bits(tmp_path / "2.png", values, 2)
    of_few_bits(tmp_path / "4.png", values, 4)
    for name in ("p.png", "l.tif", "rgb.png", "deep.png", "alpha.png", "2.png", "4.png"):
        assert np.array_equal(read_mask(tmp_path / name), values), name
    saved(tmp_path / "1.png", values > 0)
    assert np.array_equal(read_mask(tmp_path / "1.png"), values > 0)


def test_masks_without_a_picture_are_told(tmp_path: Path) -> None:
    pairs(tmp_path)
    saved(tmp_path / "masks/more.png", mask(0))
    [told] = [doubt for doubt in opened(tmp_path).doubts if "without a picture" in doubt]
    assert "not read: 1, as" in told
    assert "more.png" in told


def renamed(folder: Path, old: str, new: str) -> None:
    (folder / new).parent.mkdir(parents=True, exist_ok=True)
    (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("make", "says", "hint"),
    [
        (lambda at: (at / "masks/03.png").unlink(), "there is no mask of it; looked for", "draw"),
        (lambda at: [(at / f"masks/0{i}.png").unlink() for i in (1, 4)], "2 of 12 pictures", ""),
        (lambda at: renamed(at, "masks/03.png", "masks/03_m.png"), "no mask of it",
         r"`masks: masks/{name}_m.png`"),
        (lambda at: renamed(at, "masks/03.png", "masks/03.jpg"), "no mask of it", "JPEG changes"),
        (lambda at: saved(at / "masks/03.png", mask(3, (6, 7))),
         "is of 6x7 pixels, and its picture `03.png` of 6x8", "a value for each pixel"),
        (lambda at: saved(at / "masks/03.png", mask(3) + 5), "has the value 5", "`ignore: 5`"),
        (lambda at: photo(at / "masks/03.png", 3), "colours, not class numbers", "palette"),
        (lambda at: (at / "masks/03.png").write_bytes(b"no"), "cannot be decoded", "sound one"),
        (lambda at: (at / "photos/03.png").write_bytes(b"no"), "cannot be decoded", "sound one"),
        (lambda at: renamed(at, "masks", "other"), "no such folder", "a mask for each picture"),
        (lambda at: renamed(at, "photos", "other"), "no such folder", "folder of pictures"),
        (lambda at: [one.unlink() for one in (at / "photos").iterdir()], "no pictures in it", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told(make: Any, says: str, hint: str, tmp_path: Path) -> None:
    make(pairs(tmp_path))
    with pytest.raises(BadSamples, match=says) as caught:
        opened(tmp_path, classes=("a", "b", "c"))
    assert hint in (caught.value.hint or "")
    if "03" in says or hint in ("draw", "`ignore: 5`", "palette"):
        assert "03.png" in str(caught.value.where)

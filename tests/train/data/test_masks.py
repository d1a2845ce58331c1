"""What the values of masks mean, and masks in an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples
from edgedl.runtime.process.image import Image, Resize
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import IGNORED, Dataset
from edgedl.train.data.masks import OUTSIDE, coded, coding_of, counted, pixel_doubts

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (20, 6, 8, 3), np.uint8)
MASKS = RANDOM.integers(0, 3, (20, 6, 8))
SMALL = Image(resize=Resize(exactly=(3, 4)), scale=1 / 255)


def classes(masks: Any, **settings: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The class of each pixel of masks of one row, and the classes' names."""
    rows = [np.atleast_2d(np.asarray(one)) for one in masks]
    counts = np.stack([counted(one, "here") for one in rows])
    data = Data(arrays="a.npz", task="segmentation", **settings)
    coding = coding_of(counts, data, lambda row: f"mask {row}")
    return coded(rows, coding)[:, 0].tolist(), coding.classes


@pytest.mark.parametrize(
    ("masks", "settings", "found", "names"),
    [
        ([[0, 1, 2]], {}, [[0, 1, 2]], ("0", "1", "2")),
        ([[0, 1, 2]], {"classes": ("a", "b", "c", "d")}, [[0, 1, 2]], ("a", "b", "c", "d")),
        ([[0, 255, 0], [0, 0, 0]], {}, [[0, 1, 0], [0, 0, 0]], ("0", "1")),
        ([[0, 255]], {"classes": ("no", "yes")}, [[0, 1]], ("no", "yes")),
        ([[0, 1, 255]], {}, [[0, 1, IGNORED]], ("0", "1")),
        ([[0, 255]], {"class_count": 3}, [[0, IGNORED]], ("0", "1", "2")),
        ([[0, 255]], {"class_count": 2, "ignore": 255}, [[0, IGNORED]], ("0", "1")),
        ([[0, 1, 9]], {"ignore": 9}, [[0, 1, IGNORED]], ("0", "1")),
        ([[0, 1, 2]], {"ignore": 0}, [[IGNORED, 1, 2]], ("0", "1", "2")),
        ([[0, 1, OUTSIDE]], {}, [[0, 1, IGNORED]], ("0", "1")),
    ],
)
def test_values_are_classes(
    masks: Any, settings: dict[str, Any], found: list[Any], names: tuple[str, ...]
) -> None:
    assert classes(masks, **settings) == (found, names)


@pytest.mark.parametrize(
    ("masks", "settings", "says", "where"),
    [
        ([[0, 1], [2, 2]], {"classes": ("a", "b")}, "the value 2 in 2 pixels.* 2 classes", 1),
        ([[0, 1, 255]], {"ignore": 9, "class_count": 2}, "has the value 255 in 1 pixels", 0),
        ([[0, 0]], {}, "there is one class, `0`", 0),
        ([[0, 255]], {"classes": ("scratch",)}, "there is one class, `scratch`", 0),
        ([[255, 255]], {"ignore": 255}, "not one pixel of the masks has a class", 0),
        ([[0, 0], [0, 128]], {}, "hold the values 0, 128", 1),
    ],
)
def test_values_that_are_no_classes(
    masks: Any, settings: dict[str, Any], says: str, where: int
) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        classes(masks, **settings)
    assert caught.value.where == f"mask {where}"
    assert caught.value.hint


def opened(folder: Path, arrays: dict[str, Any], **settings: Any) -> Dataset:
    np.savez(folder / "a.npz", **arrays)
    data = Data(arrays=str(folder / "a.npz"), task="segmentation", **settings)
    return load(data, seed=0, cache=folder / "unused")


@pytest.mark.parametrize("name", ["masks", "labels", "truth"])
def test_an_archive_of_images_and_masks(name: str, tmp_path: Path) -> None:
    label = {"label": "truth"} if name == "truth" else {}
    found = opened(tmp_path, {"images": IMAGES, name: MASKS.astype(np.uint8)}, **label)
    assert (found.task, found.outputs, found.places) == ("segmentation", 3, (6, 8))
    assert found.inputs["images"].shape == (3, 6, 8)
    parts = (found.train, found.validation, found.test)
    assert [len(one) for one in parts] == [14, 2, 4]
    for part in parts:
        labels = part.chosen_labels
        assert labels is not None
        assert np.array_equal(labels, MASKS[part.rows])


def test_masks_of_other_shapes_and_images_that_are_inputs_already(tmp_path: Path) -> None:
    planes = np.moveaxis(IMAGES, 3, 1).astype(np.float32)
    found = opened(tmp_path, {"x": planes, "masks": MASKS[..., None]})
    assert found.places == (6, 8)
    found = opened(tmp_path, {"x": IMAGES[..., 0], "masks": (MASKS > 0)[:, None]})
    assert (found.outputs, found.places) == (2, (6, 8))


def test_masks_become_as_small_as_the_input(tmp_path: Path) -> None:
    doubled = MASKS.repeat(2, 1).repeat(2, 2)
    images = IMAGES.repeat(2, 1).repeat(2, 2)
    small = Image(resize=Resize(exactly=(6, 8)), scale=1 / 255)
    found = opened(tmp_path, {"x": images, "masks": doubled}, image=small)
    assert found.train.labels is not None
    assert np.array_equal(found.train.labels, MASKS)
    padded = Image(resize=Resize(letterbox=(8, 8)), scale=1 / 255)
    found = opened(tmp_path, {"x": IMAGES, "masks": MASKS}, image=padded)
    assert found.train.labels is not None
    assert (found.train.labels[:, [0, -1]] == IGNORED).all()
    assert np.array_equal(found.train.labels[:, 1:-1], MASKS)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": IMAGES}, "there is no array `labels`"),
        ({"x": IMAGES, "masks": MASKS[:, :5]}, "masks of 5x8 pixels, and `x` is of 6x8"),
        ({"x": IMAGES, "masks": MASKS / 2}, "are no masks"),
        ({"x": IMAGES, "masks": MASKS[:, 0, 0]}, "are no masks"),
        ({"x": IMAGES, "masks": MASKS + 300}, "has the value 302"),
        ({"x": IMAGES, "masks": MASKS[:7]}, "unlike length|7 labels for 20"),
        ({"x": IMAGES[:, 0, 0], "masks": MASKS}, "holds no images"),
    ],
)
def test_archives_that_do_not_fit(arrays: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        opened(tmp_path, arrays)
    assert caught.value.hint


def test_rare_and_missing_classes_are_told() -> None:
    labels = np.zeros((4, 10, 10), np.int16)
    labels[:, 0, 0] = 2
    labels[3, 5] = 1
    [lacking, rare] = pixel_doubts(labels, np.arange(3), ("back", "edge", "hole"))
    assert lacking == "class `edge` has no training pixel"
    assert "`back` has 99.0 % of the training pixels, `hole` 1 %" in rare
    assert pixel_doubts(MASKS, np.arange(20), ("a", "b", "c")) == ()

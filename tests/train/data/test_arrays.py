"""Numpy archives: one group or two, images of bytes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.image import Image
from edgedl.train.data import Data, load
from edgedl.train.data.dataset import Dataset

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (40, 6, 5, 3), np.uint8)
LABELS = np.arange(40) % 4


def opened(folder: Path, arrays: dict[str, Any], **settings: Any) -> Dataset:
    np.savez(folder / "a.npz", **arrays)
    data = Data(arrays=str(folder / "a.npz"), **settings)
    return load(data, seed=0, cache=folder / "unused")


def test_images_of_bytes_are_normalised_by_the_training_rows(tmp_path: Path) -> None:
    found = opened(tmp_path, {"image": IMAGES, "labels": LABELS})
    assert found.inputs["image"].shape == (3, 6, 5)
    rows = np.stack([found.train.feed(i)["image"][0] for i in range(len(found.train))])
    assert rows.mean(axis=(0, 2, 3)) == pytest.approx([0, 0, 0], abs=1e-4)
    assert rows.std(axis=(0, 2, 3)) == pytest.approx([1, 1, 1], abs=1e-4)
    assert found.processing is not None
    row = int(found.test.rows[0])
    assert np.array_equal(
        found.processing.before(IMAGES[row])["image"], found.test.feed(0)["image"]
    )


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5), (6, 5, 1), (3, 6, 5)])
def test_images_of_other_layouts(shape: tuple[int, ...], tmp_path: Path) -> None:
    images = RANDOM.integers(0, 256, (40, *shape), np.uint8)
    found = opened(tmp_path, {"image": images, "labels": LABELS})
    assert found.inputs["image"].shape == (3 if shape[0] == 3 else 1, 6, 5)


def test_the_settings_may_say_how_images_are_prepared(tmp_path: Path) -> None:
    given = Image(scale=1 / 255, layout="nhwc")
    found = opened(tmp_path, {"image": IMAGES, "labels": LABELS}, image=given)
    assert found.inputs["image"].shape == (6, 5, 3)
    row = int(found.train.rows[0])
    assert found.train.feed(0)["image"][0] == pytest.approx(IMAGES[row] / 255, abs=1e-6)


def test_a_layout_without_a_batch_axis_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="no batch axis") as caught:
        opened(tmp_path, {"image": IMAGES, "labels": LABELS}, image=Image(layout="chw"))
    assert caught.value.keys == ("image", "layout")


def test_numbers_are_taken_as_they_are(tmp_path: Path) -> None:
    values = RANDOM.random((40, 7))
    found = opened(tmp_path, {"x": values, "z": LABELS.astype(np.int32), "labels": LABELS})
    assert found.processing is None
    assert {n: (s.shape, s.dtype) for n, s in found.inputs.items()} == {
        "x": ((7,), "float32"), "z": ((), "int64"),
    }  # fmt: skip
    row = int(found.train.rows[3])
    assert found.train.feed(3)["x"][0] == pytest.approx(values[row])


def test_two_groups(tmp_path: Path) -> None:
    values = RANDOM.random((50, 7), np.float32)
    labels = np.arange(50) % 2
    found = opened(tmp_path, {
        "train_x": values[:40], "train_labels": labels[:40],
        "test_x": values[40:], "test_labels": labels[40:],
    })  # fmt: skip
    assert found.test.rows.tolist() == list(range(40, 50))
    assert list(found.inputs) == ["x"]
    assert len(found.validation) == 4


def test_a_group_and_a_reconstruction(tmp_path: Path) -> None:
    values = RANDOM.random((40, 7), np.float32)
    found = opened(tmp_path, {"x": values, "who": np.arange(40) // 5}, group="who")
    assert found.task == "reconstruction"
    assert found.outputs == 0
    sides = [set(part.rows // 5) for part in (found.train, found.validation, found.test)]
    assert sum(map(len, sides)) == 8


def test_copies_on_two_sides_are_told(tmp_path: Path) -> None:
    values = RANDOM.random((40, 7), np.float32)
    values[20:] = values[:20]
    found = opened(tmp_path, {"x": values, "labels": LABELS})
    assert any("test samples are training samples, too" in doubt for doubt in found.doubts)
    assert not opened(tmp_path, {"x": values, "labels": LABELS}, check=False).doubts


def test_labels_may_number_more_classes_than_occur(tmp_path: Path) -> None:
    few = np.tile([3, 990], 20)
    found = opened(tmp_path, {"x": RANDOM.random((40, 2)), "labels": few}, class_count=1000)
    assert found.outputs == 1000
    assert set(found.train.labels.tolist()) == {3, 990}


X = RANDOM.random((8, 2))


@pytest.mark.parametrize(
    ("arrays", "settings", "says"),
    [
        ({"labels": LABELS}, {}, "no input arrays"),
        ({"x": X, "labels": LABELS}, {}, "40 labels for 8 samples"),
        ({"x": X, "y": X[:4]}, {}, "unlike length"),
        ({"x": X, "labels": np.array([0, 1, 0, 1, -1, 0, 1, 0])}, {}, "row 4 has the label -1"),
        ({"x": X, "labels": np.arange(8)}, {"classes": ("a", "b")}, "row 2 has the label 2, and"),
        ({"x": X, "labels": np.arange(8) * 9}, {}, "label 63 among 8 rows"),
        ({"x": X, "labels": np.arange(8)}, {"class_count": 7}, "row 7 has the label 7, and"),
        ({"x": X, "labels": np.zeros(8, int)}, {}, "there is one class"),
        ({"x": X, "labels": np.full(8, np.nan)}, {}, "no finite numbers"),
        ({"x": X, "labels": np.arange(8)}, {"label": "lables"}, "no array `lables`"),
        ({"x": X, "labels": np.arange(8)}, {"columns": ("y",)}, "no array `y`"),
        ({"x": X, "labels": np.arange(8)}, {"group": "who"}, "no array `who`"),
        ({"x": X}, {"task": "classification"}, "no array `labels`"),
        ({"x": np.array(["a"] * 8), "labels": np.arange(8) % 2}, {}, "array `x` is <U1"),
        ({"train_x": X, "test_y": X}, {}, "no `test_x` beside it"),
        ({"train_x": X, "test_x": X[:, :1]}, {}, "unlike for train and test"),
        ({"train_x": X, "test_x": X, "y": X}, {}, "`y` is of no pair"),
        ({"train_x": X, "test_x": X, "train_labels": LABELS, "test_labels": LABELS}, {}, "unlike"),
        ({"x": np.where(X < 2, np.nan, X), "labels": LABELS[:8] % 2}, {}, "not finite"),
        ({"x": np.zeros((8, 2, 2, 5), np.uint8), "labels": LABELS[:8] % 2}, {}, "of 5 channels"),
    ],
)
def test_bad_archives(
    arrays: dict[str, Any], settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSamples, match=says) as caught:
        opened(tmp_path, arrays, **settings)
    assert caught.value.hint


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{}] * 3, object))
    with pytest.raises(BadSamples, match="pickled"):
        load(Data(arrays=str(tmp_path / "a.npz")), seed=0, cache=tmp_path)


def test_inputs_without_labels_are_taken_as_they_are(tmp_path: Path) -> None:
    ids = RANDOM.integers(0, 9, (40, 6)).astype(np.int32)
    mask = np.ones((40, 6), np.int64)
    found = opened(tmp_path, {"ids": ids, "mask": mask}, task="unlabelled")
    assert (found.task, found.outputs) == ("unlabelled", None)
    assert {name: one.dtype for name, one in found.inputs.items()} == {
        "ids": "int32",
        "mask": "int64",
    }
    assert found.train.labels is None
    assert len(found.train) + len(found.validation) + len(found.test) == 40


def test_without_labels_there_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="does not go with `text`") as caught:
        Data(text=str(tmp_path), task="unlabelled")
    assert caught.value.keys == ("task",)


def test_labels_that_could_be_meant_for_classes_are_told_of(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    whole = np.arange(40) % 2.0
    assert "whole numbers 0 to 1" in opened(tmp_path, {"x": x, "labels": whole}).doubts[0]
    for labels, settings in ((whole + 0.5, {}), (whole, {"task": "regression"})):
        assert not opened(tmp_path, {"x": x, "labels": labels}, **settings).doubts
    with pytest.raises(BadSamples, match="no finite numbers") as caught:
        opened(tmp_path, {"x": x, "labels": np.array(["a", "b"] * 20)})
    assert "np.unique" in (caught.value.hint or "")

"""A U-Net from pictures and masks to a bundle that answers with a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.cli import main
from edgedl.core.errors import BadOption, BadSamples, EdgeError
from edgedl.line.make import make
from edgedl.runtime.masks import palette
from edgedl.train.data.mask_files import read_mask
from edgedl.verbs.answers import evaluate

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
SIDES = (30, 36)
RECIPE = """
data:
  folder: photos
  masks: masks
  classes: [ground, square, disc]
  image: {resize: {exactly: [20, 24]}, scale: 1/255}
network: {name: unet, width: 6, depth: 2}
train:
  epochs: 12
  batch: 8
  optimizer: {name: adamw, lr: 0.02}
  loss: {name: cross_entropy, balanced: true, dice: 0.5}
  augment: [flip, {name: crop, padding: 2}]
compress: {target: onnxruntime}
bench: null
"""


def shapes(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a square, brightest in red, or a disc, brightest in blue, and the class of each
    pixel."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 140, (count, *SIDES, 3)).astype(np.uint8)
    masks = np.zeros((count, *SIDES), np.uint8)
    rows, columns = np.mgrid[: SIDES[0], : SIDES[1]]
    for i in range(count):
        radius = int(rng.integers(5, 9))
        down, right = (rows - rng.integers(9, 21)), (columns - rng.integers(9, 27))
        square = np.maximum(abs(down), abs(right)) <= radius
        inside = square if i % 2 else down**2 + right**2 <= radius**2
        images[i, ..., 0 if i % 2 else 2][inside] += 100
        masks[i][inside] = 1 if i % 2 else 2
    return images, masks


def drawn(folder: Path, count: int, seed: int = 0) -> None:
    for name in ("photos", "masks"):
        (folder / name).mkdir(parents=True)
    for i, (image, mask) in enumerate(zip(*shapes(count, seed), strict=True)):
        PIL.fromarray(image).save(folder / f"photos/{i:02}.png")
        PIL.fromarray(mask).save(folder / f"masks/{i:02}.png")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with the bundle `shapes.edl` and pictures that it was not trained on, in `other`,
    and what the line tells."""
    folder = tmp_path_factory.mktemp("line")
    drawn(folder, 60)
    drawn(folder / "other", 6, seed=1)
    (folder / "shapes.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDL_STORE", str(folder / "store"))
        patch.chdir(folder)
        return folder, make("shapes.yaml")


def test_squares_are_told_from_discs_down_the_whole_line(made: tuple[Path, Any]) -> None:
    _, told = made
    accuracy = told.compressed["accuracy"]
    assert (accuracy["metric"], accuracy["figure"]["name"]) == ("segmentation", "mIoU")
    # at the outset, all of one class: a third of its share
    assert accuracy["result"] > 0.6
    parts = accuracy["parts"]
    assert list(parts) == ["ground", "square", "disc"]
    mean = np.mean([one["result"] for one in parts.values()])
    assert accuracy["result"] == pytest.approx(mean)
    assert "  square" in told.compressed["text"]


def test_a_bundle_answers_a_picture_with_its_mask(made: tuple[Path, Any]) -> None:
    folder, _ = made
    _, masks = shapes(6, seed=1)
    with edgedl.answering(folder / "shapes.edl") as session:
        pictures = (folder / f"other/photos/{i:02}.png" for i in range(6))
        answers = [session.answer(picture) for picture in pictures]
    found = np.stack(answers)
    assert found.shape == (6, *SIDES)
    for number in range(3):
        both = (found == number) & (masks == number)
        either = (found == number) | (masks == number)
        # one class for all pixels has nothing of the other two
        assert both.sum() > 0.3 * either.sum()


def test_eval_takes_masks_beside_pictures(
    made: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = made
    found = evaluate([folder / "shapes.edl"], folder / "other/photos", masks=folder / "other/masks")
    [row] = found["rows"]
    assert (found["metric"], found["figure"]) == ("segmentation", "mIoU")
    assert row["value"] == pytest.approx(np.mean(list(row["parts"].values())))
    assert list(row["parts"]) == ["ground", "square", "disc"]
    where = [str(folder / one) for one in ("shapes.edl", "other/photos", "other/masks/{name}.png")]
    words = ["eval", where[0], "--samples", where[1], "--masks", where[2]]
    for metric, line in (("segmentation", "  disc"), ("pixel_accuracy", "pixel accuracy")):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--metric", metric])
        assert not ended.value.code
        assert line in capsys.readouterr().out
    with pytest.raises(BadOption, match="pictures in a folder"):
        evaluate([folder / "shapes.edl"], folder / "none.npz", masks=folder / "other/masks")
    with pytest.raises(BadSamples, match="no such folder"):
        evaluate([folder / "shapes.edl"], folder / "other/photos", masks=folder / "nowhere")


def test_run_draws_the_mask_of_one_picture(made: tuple[Path, Any], tmp_path: Path) -> None:
    folder, _ = made
    picture = folder / "other/photos/01.png"
    out = tmp_path / "mask.png"
    assert edgedl.run(folder / "shapes.edl", picture, out) == 1
    with edgedl.answering(folder / "shapes.edl") as session:
        assert np.array_equal(read_mask(out), session.answer(picture))
    with PIL.open(out) as file:
        assert file.getpalette()[3:6] == palette()[1].tolist() == [128, 0, 0]
    with pytest.raises(BadOption, match="6 pictures have as many masks"):
        edgedl.run(folder / "shapes.edl", picture.parent, out)


def test_a_network_without_a_class_for_each_pixel_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    images, masks = shapes(20)
    np.savez(tmp_path / "shapes.npz", images=images, masks=masks)
    recipe = tmp_path / "shapes.yaml"
    recipe.write_text(
        "data: {arrays: shapes.npz, task: segmentation}\nnetwork: {name: resnet8, width: 8}\n"
    )
    with pytest.raises(EdgeError, match="not with a score for each class and pixel") as caught:
        make(recipe)
    assert caught.value.where == f"{recipe}:2"
    assert "2 x 3 x 30 x 36" in str(caught.value)
    assert "`unet` does" in (caught.value.hint or "")
    recipe.write_text("data: {folder: a, masks: nowhere}\nnetwork: unet\n")
    (tmp_path / "a").mkdir()
    with pytest.raises(EdgeError, match="`nowhere`: no such folder") as caught:
        make(recipe)
    assert caught.value.where == f"{recipe}:1"

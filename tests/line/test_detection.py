"""A detector from boxes in an archive to a bundle that gives boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import EdgeError
from edgedl.line.make import make

SIDE = 32
RECIPE = """
data: {arrays: squares.npz, task: detection, classes: [bright, dark]}
network: {name: ssd, width: 8, levels: 1, decoded: true}
train:
  epochs: 2
  batch: 16
  optimizer: {name: adamw, lr: 0.01}
  metric: detection
  augment: [flip, {name: crop, padding: 4}]
compress: {target: onnxruntime}
bench: null
"""


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)


def squares(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Grey images with a bright or a dark square each, and its box; a second row fills up."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 156, (count, SIDE, SIDE, 3)).astype(np.uint8)
    boxes = np.zeros((count, 2, 5), np.float32)
    boxes[:, 1, 4] = -1
    for i in range(count):
        size = int(rng.integers(8, 16))
        left, top = (int(n) for n in rng.integers(0, SIDE - size, 2))
        dark = i % 2
        images[i, top : top + size, left : left + size] = 0 if dark else 255
        boxes[i, 0] = left, top, left + size, top + size, dark
    return images, boxes


def test_a_detector_of_ones_own_boxes_goes_down_the_whole_line(tmp_path: Path) -> None:
    images, boxes = squares()
    np.savez("squares.npz", image=images, labels=boxes)
    Path("squares.yaml").write_text(RECIPE)
    made = make("squares.yaml")
    assert made.compressed is not None
    assert made.compressed["accuracy"]["figure"]["name"] == "mAP"
    with edgedl.open("squares.edl") as session:
        given = {t.name for t in session.signature.outputs}
    assert given == {"boxes", "scores", "classes"}


def changed(**at: object) -> np.ndarray:
    _, boxes = squares(8)
    for name, value in at.items():
        boxes[3, 0, {"right": 2, "label": 4}[name]] = value
    return boxes


def test_a_network_that_knows_no_boxes_is_told_with_its_line(tmp_path: Path) -> None:
    images, boxes = squares(40)
    np.savez("squares.npz", image=images, labels=boxes)
    Path("squares.yaml").write_text(RECIPE.replace("network: {name: ssd", "network: {name: resnet8")
                                    .replace(", levels: 1, decoded: true", ""))  # fmt: skip
    with pytest.raises(EdgeError, match="how its answers hold boxes") as caught:
        make("squares.yaml")
    assert caught.value.where == "squares.yaml:3"


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (squares(8)[1][..., :4], "are no boxes"),
        (changed(right=-5), "row 3 has a box without size"),
        (changed(right=np.nan), "a box is not finite"),
        (changed(label=0.5), "row 3 has a box of class 0.5"),
        (changed(label=2), "a box has the class 2, and there are 2 classes"),
        (np.full((8, 2, 5), -1, np.float32), "there is not one box"),
    ],
)
def test_boxes_that_are_none_are_told(tmp_path: Path, labels: np.ndarray, said: str) -> None:
    np.savez("squares.npz", image=squares(8)[0], labels=labels)
    Path("squares.yaml").write_text(RECIPE)
    with pytest.raises(EdgeError, match=said):
        make("squares.yaml")

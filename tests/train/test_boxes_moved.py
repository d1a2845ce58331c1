"""True boxes lie where their objects do after images were flipped and cropped."""

from __future__ import annotations

import pytest
import torch

from edgedl.core.errors import Unsupported
from edgedl.train.augment import Batch, augmented
from edgedl.train.augmentations import Augment, Crop, Cutmix, Cutout, Flip, Mixup, Shift
from edgedl.train.boxes_moved import flipped_boxes, moved_boxes

HEIGHT, WIDTH = 12, 16


def of_squares(count: int = 64) -> Batch:
    """Images black but for one rectangle of ones each, its box, and a row that fills up."""
    dice = torch.Generator().manual_seed(3)
    images = torch.zeros(count, 1, HEIGHT, WIDTH)
    truth = torch.zeros(count, 2, 5)
    truth[:, 1, 4] = -1
    for i in range(count):
        high, wide = (int(n) for n in torch.randint(1, 6, (2,), generator=dice))
        top = int(torch.randint(HEIGHT - high + 1, (1,), generator=dice))
        left = int(torch.randint(WIDTH - wide + 1, (1,), generator=dice))
        images[i, 0, top : top + high, left : left + wide] = 1
        truth[i, 0] = torch.tensor([left, top, left + wide, top + high, i % 3])
    return Batch((images,), truth)


@pytest.mark.parametrize(
    "kind",
    [Flip(), Flip(axis="vertical"), Crop(padding=4), Cutout(size=1)],
    ids=lambda one: f"{one.name} {getattr(one, 'axis', '')}".strip(),
)
def test_a_box_is_where_its_rectangle_is(kind: Augment) -> None:
    batch = of_squares()
    found = augmented([kind], batch, torch.Generator().manual_seed(0), has_boxes=True)
    if not isinstance(kind, Cutout):
        assert not torch.equal(found.targets, batch.targets)
    for image, (box, filler) in zip(found.inputs[0], found.targets, strict=True):
        assert filler.tolist() == [0, 0, 0, 0, -1]
        left, top, right, bottom, label = (int(n) for n in box)
        if label == -1:
            # Its middle went out: no more than half of it along either side is left.
            rows, columns = (int(image[0].any(axis).sum()) for axis in (1, 0))
            assert rows <= 3 or columns <= 3
            continue
        if isinstance(kind, Cutout):
            continue
        inside = torch.zeros_like(image)
        inside[0, top:bottom, left:right] = 1
        assert torch.equal(image, inside)


def test_boxes_worked_out_by_hand() -> None:
    truth = torch.tensor([[[2.0, 1, 6, 5, 7], [0, 0, 0, 0, -1]]])
    yes, no = torch.tensor([True]), torch.tensor([False])
    assert flipped_boxes(truth, yes, -1, 10)[0, 0].tolist() == [4, 1, 8, 5, 7]
    assert flipped_boxes(truth, yes, -2, 10)[0, 0].tolist() == [2, 5, 6, 9, 7]
    assert torch.equal(flipped_boxes(truth, no, -1, 10), truth)
    moved = moved_boxes(truth, torch.tensor([-2]), torch.tensor([5]), 8, 10)
    assert moved[0].tolist() == [[7, 0, 10, 3, 7], [0, 0, 0, 0, -1]]
    gone = moved_boxes(truth, torch.tensor([0]), torch.tensor([6]), 8, 10)
    assert gone[0, 0].tolist() == [0, 0, 0, 0, -1]


@pytest.mark.parametrize("kind", [Mixup(), Cutmix(), Shift()], ids=lambda one: one.name)
def test_what_would_leave_boxes_behind_is_refused(kind: Augment) -> None:
    with pytest.raises(Unsupported, match=kind.name):
        augmented([kind], of_squares(4), torch.Generator().manual_seed(0), has_boxes=True)

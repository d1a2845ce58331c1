"""Augmentation: what it may do, that it does it, and that the same draws do it again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from edgedl.core.errors import Unsupported
from edgedl.train.augment import Batch, augmented
from edgedl.train.augmentations import (
    Augment,
    Crop,
    Cutmix,
    Cutout,
    Flip,
    Gain,
    Mask,
    Mixup,
    Noise,
    Shift,
)
from edgedl.train.data.dataset import IGNORED

ALL: list[Augment] = [
    Crop(), Flip(), Cutout(), Noise(), Gain(), Shift(), Mask(bands=3, frames=4), Mixup(), Cutmix(),
]  # fmt: skip


def changed(kind: Augment, batch: Batch, seed: int = 0) -> Batch:
    return augmented([kind], batch, torch.Generator().manual_seed(seed))


def batch_of(*shape: int, targets: Tensor | None = None) -> Batch:
    x = 1 + torch.rand(*shape, generator=torch.Generator().manual_seed(1))
    return Batch((x,), torch.arange(shape[0]) if targets is None else targets)


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_the_same_draws_do_the_same_and_leave_what_was(kind: Augment) -> None:
    batch = batch_of(16, 3, 10, 12)
    before = batch.inputs[0].clone()
    one, two, other = (changed(kind, batch, seed) for seed in (0, 0, 1))
    assert torch.equal(one.inputs[0], two.inputs[0])
    assert not torch.equal(one.inputs[0], other.inputs[0])
    assert torch.equal(batch.inputs[0], before)
    assert one.inputs[0].shape == before.shape
    assert one.share == two.share


def test_crop_is_a_window_of_the_padded_image() -> None:
    x = batch_of(64, 2, 6, 7).inputs[0]
    found = changed(Crop(padding=2), Batch((x,), torch.arange(64))).inputs[0]
    padded = functional.pad(x, (2, 2, 2, 2))
    offsets = set()
    for i in range(64):
        for down in range(5):
            for right in range(5):
                if torch.equal(found[i], padded[i, :, down : down + 6, right : right + 7]):
                    offsets.add((down, right))
    assert len(offsets) > 15


def test_each_is_flipped_or_left() -> None:
    x = batch_of(64, 2, 5, 5).inputs[0]
    for axis, number in (("horizontal", -1), ("vertical", -2)):
        found = changed(Flip(axis=axis), Batch((x,), torch.arange(64))).inputs[0]  # type: ignore[arg-type]
        flipped = (found == x.flip(number)).flatten(1).all(dim=1)
        assert ((found == x).flatten(1).all(dim=1) ^ flipped).all()
        assert 16 < int(flipped.sum()) < 48
        assert torch.equal(changed(Flip(probability=0), Batch((x,), x)).inputs[0], x)


def test_maps_and_reconstructions_move_along_and_labels_do_not() -> None:
    x = batch_of(32, 1, 8, 8).inputs[0]
    classes = (10 * x[:, 0]).long()
    for kind in (Flip(), Crop(padding=3)):
        found = changed(kind, Batch((x,), classes))
        inside = found.inputs[0][:, 0] != 0
        assert torch.equal((10 * found.inputs[0][:, 0]).long()[inside], found.targets[inside])
        assert (found.targets[~inside] == IGNORED).all()
    for kind in (Flip(), Crop(), Shift()):
        moved = changed(kind, Batch((x,), x))
        assert torch.equal(moved.inputs[0], moved.targets)
        assert torch.equal(changed(kind, Batch((x,), torch.arange(32))).targets, torch.arange(32))
    denoised = changed(Noise(), Batch((x,), x))
    assert torch.equal(denoised.targets, x)


def test_cutout_takes_a_square_and_less_at_the_edge() -> None:
    found = changed(Cutout(size=3), batch_of(200, 2, 9, 9)).inputs[0]
    missing = (found == 0).flatten(1).sum(dim=1)
    assert int(missing.max()) == 2 * 9
    assert int(missing.min()) >= 2 * 4
    assert torch.equal((found == 0)[:, 0], (found == 0)[:, 1])


def test_a_shift_moves_time_and_zeros_come_in() -> None:
    x = batch_of(50, 3, 20).inputs[0]
    found = changed(Shift(most=4), Batch((x,), torch.arange(50))).inputs[0]
    moves = set()
    for i in range(50):
        for by in range(-4, 5):
            wanted = torch.zeros(3, 20)
            start, end = max(by, 0), 20 + min(by, 0)
            wanted[:, start:end] = x[i, :, start - by : end - by]
            if torch.equal(found[i], wanted):
                moves.add(by)
    assert moves == set(range(-4, 5))


def test_masks_cover_bands_and_frames_up_to_their_size() -> None:
    covered = changed(Mask(bands=3, frames=5), batch_of(300, 1, 16, 40)).inputs[0] == 0
    bands = covered.all(dim=3).sum(dim=2).flatten()
    frames = covered.all(dim=2).sum(dim=2).flatten()
    assert set(bands.tolist()) == {0, 1, 2, 3}
    assert set(frames.tolist()) == {0, 1, 2, 3, 4, 5}
    whole = changed(Mask(frames=99, count=2), batch_of(50, 4, 6)).inputs[0]
    assert bool((whole == 0).any())


def test_noise_and_gain_are_as_large_as_asked() -> None:
    x = torch.ones(500, 40)
    noisy = changed(Noise(deviation=0.5), Batch((x,), x[:, 0])).inputs[0] - 1
    assert float(noisy.std()) == pytest.approx(0.5, rel=0.02)
    gains = changed(Gain(low=0.5, high=2), Batch((x,), x[:, 0])).inputs[0]
    assert 0.5 <= float(gains.min()) < 0.52 < 1.98 < float(gains.max()) <= 2
    assert torch.equal(gains, gains[:, :1].expand(500, 40))


def test_mixtures_are_of_the_samples_that_their_labels_say() -> None:
    x = torch.eye(8)
    found = changed(Mixup(alpha=1), Batch((x,), torch.arange(8)))
    assert found.others is not None
    assert 0 < found.share < 1
    wanted = found.share * x + (1 - found.share) * x[found.others]
    torch.testing.assert_close(found.inputs[0], wanted)
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 10, 10)
    cut = changed(Cutmix(), Batch((images,), torch.arange(8)), seed=3)
    assert cut.others is not None
    own = (cut.inputs[0] == images)[cut.others != torch.arange(8)].float().mean()
    assert float(own) == pytest.approx(cut.share, abs=1e-6)
    maps = changed(Cutmix(), Batch((images,), images[:, 0].long()), seed=3)
    assert maps.others is None
    assert torch.equal(maps.inputs[0][:, 0].long(), maps.targets)


@pytest.mark.parametrize(
    ("kind", "x", "says"),
    [
        (Crop(), torch.zeros(4, 8), "`crop` needs images of shape"),
        (Cutmix(), torch.zeros(4, 8), "`cutmix` needs images"),
        (Mask(bands=2), torch.zeros(4, 8), "`mask` needs features"),
        (Noise(), torch.zeros(4, 8, dtype=torch.uint8), "`noise` needs real numbers; .* is uint8"),
        (Mixup(), torch.zeros(4, 8, dtype=torch.int64), "`mixup` needs real numbers"),
    ],
)
def test_what_has_nothing_of_the_kind_is_told(kind: Augment, x: Tensor, says: str) -> None:
    with pytest.raises(Unsupported, match=says):
        changed(kind, Batch((x,), torch.arange(4)))
    with pytest.raises(Unsupported, match="the network has 2"):
        changed(Mixup(), Batch((torch.zeros(4, 2), torch.zeros(4, 2)), torch.arange(4)))


def test_parts_of_a_batch_are_all_of_it() -> None:
    batch = changed(Mixup(), batch_of(7, 3))
    parts = batch.cut(3)
    assert [len(part) for part in parts] == [3, 2, 2]
    assert torch.equal(torch.cat([part.inputs[0] for part in parts]), batch.inputs[0])
    assert torch.equal(torch.cat([p.others for p in parts if p.others is not None]), batch.others)  # type: ignore[arg-type]
    assert {part.share for part in parts} == {batch.share}
    assert len(batch.cut(99)) == 7


@pytest.mark.parametrize(
    "kind",
    [Flip(probability=1.0), Flip(axis="vertical"), Crop(padding=2), Shift(most=3), Cutmix()],
    ids=lambda kind: kind.name,
)
def test_a_mask_goes_where_its_picture_goes(kind: Augment) -> None:
    """Each pixel of a picture is its own number, and so is that of the mask."""
    numbers = torch.arange(1, 1 + 8 * 6 * 7).reshape(8, 6, 7)
    picture = numbers[:, None].repeat(1, 3, 1, 1).float()
    found = changed(kind, Batch((picture,), numbers))
    moved = found.inputs[0][:, 0].long()
    assert not torch.equal(moved, numbers)
    assert torch.equal(found.targets, torch.where(moved == 0, IGNORED, moved))


@pytest.mark.parametrize("kind", [Gain(), Noise(), Cutout(size=3)], ids=lambda kind: kind.name)
def test_what_changes_colours_alone_leaves_the_mask(kind: Augment) -> None:
    masks = torch.randint(0, 3, (8, 6, 7), generator=torch.Generator().manual_seed(0))
    batch = batch_of(8, 3, 6, 7, targets=masks)
    found = changed(kind, batch)
    assert torch.equal(found.targets, masks)
    assert not torch.equal(found.inputs[0], batch.inputs[0])

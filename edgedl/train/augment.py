"""What is done by chance to batches of tensors, on the device that they lie on.

All draws come from one generator, so that the same batch of the same epoch is the same again.
No step waits for the device, and none goes over samples one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import Unsupported
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
from edgedl.train.boxes_moved import flipped_boxes, moved_boxes
from edgedl.train.data.dataset import IGNORED

IMAGES = "images of shape (channels, height, width)"


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network learns from at once, each tensor with a batch axis.

    Attributes:
        inputs: in the order that the network takes them.
        targets: what it should answer.
        others: of a mixed batch, what the other samples' answers should be.
        share: how much `targets` count then, and `others` the rest.
        answers: a teacher's, side by side, where they are kept.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    others: Tensor | None = None
    share: float = 1.0
    answers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def cut(self, parts: int) -> list[Batch]:
        """The batch in so many parts, as many samples each within one."""
        parts = min(parts, len(self))
        if parts == 1:
            return [self]
        inputs = zip(*(one.tensor_split(parts) for one in self.inputs), strict=True)
        targets = self.targets.tensor_split(parts)
        others, answers = (
            [None] * parts if one is None else one.tensor_split(parts)
            for one in (self.others, self.answers)
        )
        return [
            Batch(x, y, other, self.share, answer)
            for x, y, other, answer in zip(inputs, targets, others, answers, strict=True)
        ]

    def channels_last(self) -> Batch:
        """The same, the channels of images lying together in memory."""
        if all(one.ndim != 4 for one in self.inputs):
            return self
        inputs = (
            one.contiguous(memory_format=torch.channels_last) if one.ndim == 4 else one
            for one in self.inputs
        )
        return replace(self, inputs=tuple(inputs))


def augmented(
    kinds: Sequence[Augment],
    batch: Batch,
    generator: torch.Generator,
    name: str = "input",
    *,
    has_boxes: bool = False,
) -> Batch:
    """The batch with its first input changed, kind after kind.

    What moves things about moves targets along where they are maps of the image's size, the input
    itself, or boxes. What covers or disturbs leaves targets: an autoencoder learns to undo it.

    Args:
        generator: on the batch's device, seeded anew for each batch.
        name: of the first input, for errors.
        has_boxes: whether targets are boxes in pixels, as `networks.boxes.match` takes them. One
            whose middle is moved out of the image is no more; of others, what is inside stays.

    Raises:
        Unsupported: samples of this shape or type have nothing of the kind.
    """
    for kind in kinds:
        x = batch.inputs[0]
        if not x.is_floating_point() and not isinstance(kind, (Crop, Flip, Shift, Mask, Cutout)):
            raise _unfit(kind, name, x, "real numbers")
        if has_boxes and isinstance(kind, (Mixup, Cutmix, Shift)):
            raise Unsupported(
                f"`{kind.name}` leaves boxes where they were", hint=f"leave `{kind.name}` out"
            )
        if isinstance(kind, (Mixup, Cutmix)):
            batch = _mixed(kind, batch, generator, name)
            continue
        if isinstance(kind, (Crop, Flip, Cutout)) and x.ndim != 4:
            raise _unfit(kind, name, x, IMAGES)
        x, targets = _changed(kind, x, batch.targets, generator, name, has_boxes)
        batch = replace(batch, inputs=(x, *batch.inputs[1:]), targets=targets)
    return batch


def _changed(
    kind: Augment,
    x: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    name: str,
    has_boxes: bool,
) -> tuple[Tensor, Tensor]:
    if isinstance(kind, Crop):
        by = _whole((2, len(x)), 2 * kind.padding + 1, x, generator) - kind.padding
        if has_boxes:
            return _moved(x, by[0], by[1]), moved_boxes(targets, by[0], by[1], *x.shape[-2:])
        both = (_moved(one, by[0], by[1]) for one in (x, targets) if _maps(one, x))
        return _pair(both, targets)
    if isinstance(kind, Flip):
        axis = -1 if kind.axis == "horizontal" else -2
        chosen = _reals((len(x),), x, generator) < kind.probability
        if has_boxes:
            return _flipped(x, chosen, axis), flipped_boxes(targets, chosen, axis, x.shape[axis])
        both = (_flipped(one, chosen, axis) for one in (x, targets) if _maps(one, x))
        return _pair(both, targets)
    if isinstance(kind, Shift):
        by = _whole((len(x),), 2 * kind.most + 1, x, generator) - kind.most
        both = (_shifted(one, by) for one in (x, targets) if one.shape == x.shape or _maps(one, x))
        return _pair(both, targets)
    if isinstance(kind, Cutout):
        rows = _range(kind.size, x.shape[-2], x, generator)
        columns = _range(kind.size, x.shape[-1], x, generator)
        return x.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0), targets
    if isinstance(kind, Mask):
        if x.ndim < 3:
            raise _unfit(kind, name, x, "features of shape (..., bands, frames)")
        for most, axis in ((kind.bands, -2), (kind.frames, -1)):
            for _ in range(kind.count if most else 0):
                x = _masked(x, most, axis, generator)
        return x, targets
    if isinstance(kind, Noise):
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return x.add(noise, alpha=kind.deviation), targets
    assert isinstance(kind, Gain)
    gain = _reals((len(x), *[1] * (x.ndim - 1)), x, generator)
    return x * (kind.low + (kind.high - kind.low) * gain).to(x.dtype), targets


def _pair(changed: Iterable[Tensor], targets: Tensor) -> tuple[Tensor, Tensor]:
    """The input, and the targets as they are where they were not changed along."""
    x, *moved = changed
    return x, moved[0] if moved else targets


def _maps(one: Tensor, images: Tensor) -> bool:
    """Whether these are the images, or have a value for each of their places."""
    return one.ndim in (3, 4) and one.shape[-2:] == images.shape[-2:]


def _filler(x: Tensor) -> int:
    return 0 if x.ndim == 4 or x.is_floating_point() else IGNORED


def _moved(x: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Each image so many pixels down and right."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) - down[:, None]
    columns = torch.arange(width, device=x.device) - right[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None]
    inside = inside & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = rows.clamp_(0, height - 1), columns.clamp_(0, width - 1)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    flat = x.reshape(len(x), -1, height * width)
    moved = flat.gather(2, index[:, None].expand(flat.shape))
    return moved.masked_fill_(~inside.flatten(1)[:, None], _filler(x)).view(x.shape)


def _flipped(x: Tensor, chosen: Tensor, axis: int) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (x.ndim - 1)), x.flip(axis), x)


def _shifted(x: Tensor, by: Tensor) -> Tensor:
    length = x.shape[-1]
    source = torch.arange(length, device=x.device) - by[:, None]
    inside = ((source >= 0) & (source < length)).view(len(x), *[1] * (x.ndim - 2), length)
    source = source.clamp_(0, length - 1).view(inside.shape)
    return x.gather(-1, source.expand(x.shape)).masked_fill_(~inside, _filler(x))


def _range(size: int, length: int, x: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample, `size` places around one drawn; less at the ends. Bool [batch, length]."""
    centre = _whole((len(x), 1), length, x, generator)
    place = torch.arange(length, device=x.device) - (centre - size // 2)
    return (place >= 0) & (place < size)


def _masked(x: Tensor, most: int, axis: int, generator: torch.Generator) -> Tensor:
    length = x.shape[axis]
    size = _whole((len(x), 1), min(most, length) + 1, x, generator)
    start = (_reals((len(x), 1), x, generator) * (length - size + 1)).long()
    place = torch.arange(length, device=x.device)
    covered = (place >= start) & (place < start + size)
    shape = [len(x), *[1] * (x.ndim - 1)]
    shape[axis] = length
    return x.masked_fill(covered.view(shape), 0)


def _mixed(kind: Mixup | Cutmix, batch: Batch, generator: torch.Generator, name: str) -> Batch:
    if len(batch.inputs) > 1:
        raise Unsupported(
            f"`{kind.name}` mixes samples of one input, the network has {len(batch.inputs)}",
            hint="leave it out",
        )
    [x] = batch.inputs
    order = torch.randperm(len(x), generator=generator, device=x.device)
    drawn = np.random.default_rng(generator.initial_seed())
    share = float(drawn.beta(kind.alpha, kind.alpha))
    if isinstance(kind, Mixup):
        return Batch((x.mul(share).add_(x[order], alpha=1 - share),), batch.targets,
                     batch.targets[order], share)  # fmt: skip
    if x.ndim != 4:
        raise _unfit(kind, name, x, IMAGES)
    height, width = x.shape[-2:]
    side = float(np.sqrt(1 - share))
    top, left = int(drawn.integers(height)), int(drawn.integers(width))
    rows = slice(*_cut(top, round(side * height), height))
    columns = slice(*_cut(left, round(side * width), width))
    moved = []
    for one in (x, batch.targets):
        if not _maps(one, x):
            continue
        other = one.clone()
        other[..., rows, columns] = one[order][..., rows, columns]
        moved.append(other)
    if len(moved) == 2:
        return Batch((moved[0],), moved[1])
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Batch((moved[0],), batch.targets, batch.targets[order], 1 - area / (height * width))


def _cut(centre: int, size: int, length: int) -> tuple[int, int]:
    return max(0, centre - size // 2), min(length, centre - size // 2 + size)


def _reals(shape: tuple[int, ...], x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=x.device)


def _whole(shape: tuple[int, ...], most: int, x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(most, shape, generator=generator, device=x.device)


def _unfit(kind: Augment, name: str, x: Tensor, wanted: str) -> Unsupported:
    dtype = str(x.dtype).removeprefix("torch.")
    return Unsupported(
        f"`{kind.name}` needs {wanted}; a sample of `{name}` is {dtype} of shape"
        f" {tuple(x.shape[1:])}",
        hint=f"leave `{kind.name}` out of `augment`",
    )

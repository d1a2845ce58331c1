"""A detector, the scenes that it learns from, and its loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tests.golden.convolutional import InvertedResidual, conv_bn

CANVAS = 96
KINDS = (1, 7, 8, 9)  # trouser, sneaker, bag, ankle boot
STRIDES = (8, 16)
SMALL = 30  # boxes with a longer side than this belong to the coarse level
MOST_ITEMS = 4


class Detector(nn.Module):
    """A YOLO-like detector: image float32 [1, 1, 96, 96] in [0, 1] to one output of boxes in pixels
    (centre and size) and a score for each class, float32 [1, 4 + 4, 180], as YOLOv8's export."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv_bn(1, 12, 3, 2, act=nn.SiLU),
            conv_bn(12, 24, 3, 2, act=nn.SiLU),
            conv_bn(24, 32, 3, 2, act=nn.SiLU),
        )
        self.fine = nn.Sequential(*(InvertedResidual(32, 64, 32, 3, 1, nn.SiLU) for _ in range(2)))
        self.coarse = nn.Sequential(
            InvertedResidual(32, 64, 48, 3, 2, nn.SiLU), InvertedResidual(48, 96, 48, 3, 1, nn.SiLU)
        )
        self.boxes = nn.ModuleList(self.branch(wide, 4) for wide in (32, 48))
        self.scores = nn.ModuleList(self.branch(wide, len(KINDS)) for wide in (32, 48))
        for branch in self.scores:
            nn.init.constant_(branch[-1].bias, -4.0)
        points, strides = cells()
        self.register_buffer("points", points.T[None])
        self.register_buffer("strides", strides.T[None])

    @staticmethod
    def branch(wide: int, made: int) -> nn.Sequential:
        depthwise = conv_bn(wide, wide, 3, groups=wide, act=nn.SiLU)
        return nn.Sequential(depthwise, conv_bn(wide, 32, 1, act=nn.SiLU), nn.Conv2d(32, made, 1))

    def raw(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Distances to a box's sides in strides [n, 4, cells], and logits [n, classes, cells]."""
        fine = self.fine(self.stem(image))
        levels = [
            torch.cat([boxes(x), scores(x)], 1).flatten(2)
            for x, boxes, scores in zip(
                (fine, self.coarse(fine)), self.boxes, self.scores, strict=True
            )
        ]
        sides, logits = torch.cat(levels, 2).split((4, len(KINDS)), 1)
        return sides, logits

    def forward(self, image: Tensor) -> Tensor:
        sides, logits = self.raw(image)
        near, far = sides.chunk(2, 1)
        low, high = self.points - near * self.strides, self.points + far * self.strides
        return torch.cat([(low + high) / 2, high - low, logits.sigmoid()], 1)


def cells() -> tuple[Tensor, Tensor]:
    """Centres of all levels' cells in pixels [cells, 2], and their strides [cells, 1]."""
    points, strides = [], []
    for stride in STRIDES:
        side = (torch.arange(CANVAS // stride) + 0.5) * stride
        y, x = torch.meshgrid(side, side, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((side.numel() ** 2, 1), float(stride)))
    return torch.cat(points), torch.cat(strides)


def scenes(
    images: NDArray[np.uint8], labels: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Items at random places and sizes: u8 [n, 1, 96, 96], and left, top, right, bottom and class
    float32 [n, 4, 5], with rows of class -1 where there are fewer than four."""
    random = np.random.default_rng(seed)
    able = [np.flatnonzero(labels == kind) for kind in KINDS]
    canvases = np.zeros((count, 1, CANVAS, CANVAS), np.uint8)
    boxes = np.full((count, MOST_ITEMS, 5), -1, np.float32)
    for canvas, rows in zip(canvases[:, 0], boxes, strict=True):
        free = np.ones((CANVAS, CANVAS), bool)
        wanted, placed = random.integers(1, MOST_ITEMS + 1), 0
        for _ in range(3 * wanted):
            kind = int(random.integers(len(KINDS)))
            item = images[random.choice(able[kind]), 0]
            size = int(random.integers(18, 57))
            x, y = random.integers(0, CANVAS - size + 1, 2)
            grown = functional.interpolate(
                torch.from_numpy(item.astype(np.float32))[None, None], (size, size), mode="bilinear"
            )[0, 0]
            seen = grown.numpy() > 24
            place = (slice(y, y + size), slice(x, x + size))
            if placed == wanted or not free[place][seen].all():
                continue
            canvas[place] = np.maximum(canvas[place], grown.numpy().astype(np.uint8))
            down, across = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            left, top, right, bottom = across[0], down[0], across[-1] + 1, down[-1] + 1
            rows[placed] = (x + left, y + top, x + right, y + bottom, kind)
            free[y + top : y + bottom, x + left : x + right] = False
            placed += 1
    return canvases, boxes


def assigned(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell the box that it is to find, [n, cells, 4], and its class, [n, cells], -1 where
    there is none: cells near a box's centre, on the level of its size, find it."""
    points, strides = cells()
    sizes = boxes[..., 2:4] - boxes[..., :2]
    centres = (boxes[..., :2] + boxes[..., 2:4]) / 2
    level = torch.where(sizes.amax(-1) > SMALL, STRIDES[1], STRIDES[0])
    near = (points[None, :, None] - centres[:, None]).abs().amax(-1) < strides[None]
    mine = near & (strides[None] == level[:, None]) & (boxes[:, None, :, 4] >= 0)
    which = mine.float().argmax(-1)
    found = boxes.gather(1, which[..., None].expand(-1, -1, 5))
    return found[..., :4], torch.where(mine.any(-1), found[..., 4].long(), -1)


def detection_loss(model: Detector, images: Tensor, boxes: Tensor) -> Tensor:
    """Focal cross-entropy of scores, and 1 - IoU of boxes where there are any."""
    sides, logits = model.raw(images)
    wanted, kinds = assigned(boxes)
    positive = kinds >= 0
    truth = functional.one_hot(kinds.clamp(min=0), len(KINDS)) * positive[..., None]
    logits, truth = logits.transpose(1, 2), truth.float()
    each = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    focus = (truth - logits.sigmoid()).abs() ** 1.5
    count = positive.sum().clamp(min=1)
    points, strides = cells()
    sides = sides.transpose(1, 2)
    low, high = points - sides[..., :2] * strides, points + sides[..., 2:] * strides
    shared = (torch.minimum(high, wanted[..., 2:]) - torch.maximum(low, wanted[..., :2])).clamp(0)
    area = (high - low).clamp(0).prod(-1) + (wanted[..., 2:] - wanted[..., :2]).prod(-1)
    overlap = shared.prod(-1) / (area - shared.prod(-1)).clamp(min=1)
    ends = torch.cat([low, high], -1)
    apart = functional.smooth_l1_loss(ends, wanted, reduction="none").mean(-1) / CANVAS
    return (each * focus).sum() / count + ((1 - overlap + 2 * apart) * positive).sum() / count

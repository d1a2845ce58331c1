"""Anchors, and boxes as offsets from them, there and back; the loss that detectors learn by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# What offsets of centres, and of sizes, are divided by (Liu et al., SSD, 2016).
VARIANCES = (0.1, 0.2)
LARGEST = 4.0
Level = tuple[tuple[float, float], ...]


def anchors_of(
    size: tuple[int, int], strides: tuple[int, ...], levels: tuple[Level, ...]
) -> Tensor:
    """Centres, widths and heights in pixels of all anchors, float32 of shape [anchors, 4].

    Level by level, each row by row of its cells; an anchor stands in the middle of its cell.

    Args:
        size: the image's height and width in pixels.
        strides: pixels to a cell of each level.
        levels: widths and heights of each level's anchors.
    """
    tables = []
    for stride, anchors in zip(strides, levels, strict=True):
        rows, columns = (-(-pixels // stride) for pixels in size)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = (torch.stack([x, y], 2).reshape(-1, 1, 2) + 0.5) * stride
        sizes = torch.tensor(anchors, dtype=torch.float32)[None]
        cells = rows * columns
        both = [centres.expand(-1, len(anchors), -1), sizes.expand(cells, -1, -1)]
        tables.append(torch.cat(both, 2).reshape(-1, 4))
    return torch.cat(tables).float()


def encode(corners: Tensor, anchors: Tensor) -> Tensor:
    """Offsets from anchors of boxes given as left, top, right, bottom; both [..., anchors, 4]."""
    centres = (corners[..., :2] + corners[..., 2:]) / 2
    sizes = (corners[..., 2:] - corners[..., :2]).clamp(min=1e-3)
    moved = (centres - anchors[:, :2]) / anchors[:, 2:] / VARIANCES[0]
    return torch.cat([moved, torch.log(sizes / anchors[:, 2:]) / VARIANCES[1]], -1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Left, top, right and bottom in pixels of boxes given as offsets; both [..., anchors, 4]."""
    centres = anchors[:, :2] + offsets[..., :2] * VARIANCES[0] * anchors[:, 2:]
    halves = anchors[:, 2:] / 2 * torch.exp((offsets[..., 2:] * VARIANCES[1]).clamp(max=LARGEST))
    return torch.cat([centres - halves, centres + halves], -1)


class Decoder(nn.Module):
    """Offsets and logits to boxes in pixels, and each one's best class and its score.

    The background is the last of the classes, and never the best.
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors, persistent=False)

    def forward(self, offsets: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """`boxes` [batch, anchors, 4], `scores` float32 and `classes` int64 [batch, anchors]."""
        scores, classes = torch.softmax(logits, -1)[..., :-1].max(-1)
        return {"boxes": decode(offsets, self.anchors), "scores": scores, "classes": classes}


@torch.no_grad()
def match(
    anchors: Tensor, truth: Tensor, background: int, overlap: float = 0.5
) -> tuple[Tensor, Tensor]:
    """What each anchor is to find: the true box that it overlaps most, where by enough; and each
    true box's best anchor finds it, however little they overlap (Liu et al., 2016, section 2.2).

    Args:
        anchors: centres, widths and heights, [anchors, 4].
        truth: left, top, right, bottom and class, rows of class -1 filling up, [batch, most, 5].
        background: the class of an anchor that is to find nothing.
        overlap: the least intersection over union.

    Returns:
        Classes int64 [batch, anchors], and offsets [batch, anchors, 4].
    """
    batch, most = truth.shape[:2]
    if most == 0:
        classes = torch.full((batch, len(anchors)), background, device=truth.device)
        return classes, torch.zeros(batch, len(anchors), 4, device=truth.device)
    corners, real = truth[..., :4], truth[..., 4] >= 0
    halves = anchors[:, 2:] / 2
    mine = torch.cat([anchors[:, :2] - halves, anchors[:, :2] + halves], 1)
    over = _overlaps(corners, mine).masked_fill(~real[..., None], -1)
    best, which = over.max(1)
    for index in range(most):
        # A box's best anchor, which it shares with no box before it.
        share, anchor = over[:, index].masked_fill(best >= 2, -1).max(1)
        taken = real[:, index] & (share >= 0)
        rows = torch.nonzero(taken)[:, 0]
        best[rows, anchor[rows]] = 2.0
        which[rows, anchor[rows]] = index
    rows = torch.arange(batch, device=truth.device)[:, None]
    chosen = truth[rows, which]
    classes = torch.where(best >= overlap, chosen[..., 4].long(), background)
    return classes, encode(chosen[..., :4], anchors)


def multibox(
    offsets: Tensor, logits: Tensor, anchors: Tensor, truth: Tensor, negatives: float = 3.0
) -> Tensor:
    """SSD's loss of each sample, float32 [batch]: of places and classes, over the boxes there are.

    Anchors that are to find nothing count where they are the worst, three for one that is to find
    something (Liu et al., 2016, section 2.2).

    Args:
        offsets: as the network gives them, [batch, anchors, 4].
        logits: of classes and, behind them, the background, [batch, anchors, classes + 1].
        anchors: centres, widths and heights, [anchors, 4].
        truth: left, top, right, bottom and class, rows of class -1 filling up, [batch, most, 5].
        negatives: background anchors to one that is none.
    """
    background = logits.shape[-1] - 1
    classes, wanted = match(anchors, truth.float(), background)
    found = classes != background
    counts = found.sum(1)
    places = functional.smooth_l1_loss(offsets.float(), wanted, reduction="none").sum(2)
    kinds = functional.cross_entropy(logits.float().transpose(1, 2), classes, reduction="none")
    with torch.no_grad():
        rank = kinds.masked_fill(found, -1).argsort(1, descending=True).argsort(1)
        worst = rank < (negatives * counts.clamp(min=1))[:, None]
    counted = kinds * (found | worst) + places * found
    return counted.sum(1) / counts.clamp(min=1)


def _overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes [batch, m, 4] with others [n, 4], [batch, m, n]."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(3)
    areas = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(2)
    union = areas[:, :, None] + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / union.clamp(min=1e-9)

"""True boxes, moved as their images are.

Boxes are left, top, right, bottom in pixels and a class, float [batch, most, 5]; rows of class -1
fill up and stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

CLASS, NONE = 4, -1


def flipped_boxes(truth: Tensor, chosen: Tensor, axis: int, size: int) -> Tensor:
    """Boxes of images that are mirrored where they are chosen.

    Args:
        chosen: bool [batch].
        axis: -1, left and right change places; -2, top and bottom.
        size: pixels along it.
    """
    low = 0 if axis == -1 else 1
    mirrored = truth.clone()
    mirrored[..., low] = size - truth[..., low + 2]
    mirrored[..., low + 2] = size - truth[..., low]
    real = truth[..., CLASS] != NONE
    return torch.where((chosen[:, None] & real)[..., None], mirrored, truth)


def moved_boxes(truth: Tensor, down: Tensor, right: Tensor, height: int, width: int) -> Tensor:
    """Boxes of images that are moved, cut at the image's edges; one whose middle is outside is no
    more.

    Args:
        down, right: pixels, whole numbers [batch].
    """
    by = torch.stack([right, down, right, down], 1)[:, None].to(truth.dtype)
    limit = truth.new_tensor([width, height, width, height])
    corners = truth[..., :CLASS] + by
    middle = (corners[..., :2] + corners[..., 2:]) / 2
    inside = ((middle >= 0) & (middle < limit[:2])).all(-1)
    real = truth[..., CLASS] != NONE
    kept = torch.cat([torch.minimum(corners.clamp(min=0), limit), truth[..., CLASS:]], -1)
    gone = torch.zeros_like(truth)
    gone[..., CLASS] = NONE
    return torch.where(real[..., None], torch.where(inside[..., None], kept, gone), truth)

"""A small U-Net: an answer for each pixel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import image, positive, share
from edgedl.train.networks.layers import begin_convolutions, convolution
from edgedl.train.shapes import TensorShape


def unet(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 16,
    depth: int = 3,
    dropout: float = 0.0,
) -> nn.Module:
    """U-Net (Ronneberger et al., 2015), with padded and normalised convolutions.

    Image float32 [batch, channels, height, width] to logits of each pixel [batch, outputs, height,
    width]; without labels, to the image itself. Any height and width will do.

    Args:
        inputs: one image.
        outputs: classes or values of a pixel; 0 reconstructs the image.
        width: channels at full size, twice as many with each halving.
        depth: halvings.
        dropout: share of channels left out where it is narrowest while training.

    Raises:
        BadValue: the input is no image or too small, or a setting is out of range.
    """
    channels, height, length = image(inputs)
    positive(width=width, depth=depth)
    share(dropout=dropout)
    if min(height, length) < 2**depth:
        most = min(height, length).bit_length() - 1
        message = f"an image of {height} x {length} cannot be halved {depth} times"
        raise BadValue(message, keys=("depth",), hint=f"depth: {most} at most")
    network = UNet(channels, outputs or channels, (height, length), width, depth, dropout)
    begin_convolutions(network)
    return network


class UNet(nn.Module):
    """Down by halves, up again, each size joined with what it was on the way down."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        size: tuple[int, int],
        width: int,
        depth: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # Sides are filled up to a whole number of the smallest size's pixels, and cut off again.
        self.size = size
        self.fill = tuple(-side % 2**depth for side in size)
        self.first = _double(channels, width)
        self.down, self.up, self.join = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.halve = nn.MaxPool2d(2)
        for level in range(depth):
            self.down.append(_double(width * 2**level, width * 2 ** (level + 1)))
        for level in reversed(range(depth)):
            narrow = width * 2**level
            self.up.append(nn.ConvTranspose2d(2 * narrow, narrow, 2, 2))
            self.join.append(_double(2 * narrow, narrow))
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the pixels."""
        below, right = self.fill
        if below or right:
            x = functional.pad(x, (0, right, 0, below))
        x = self.first(x)
        passed = []
        for down in self.down:
            passed.append(x)
            x = down(self.halve(x))
        x = self.dropout(x)
        for up, join, beside in zip(self.up, self.join, reversed(passed), strict=True):
            x = join(torch.cat([beside, up(x)], 1))
        logits: Tensor = self.head(x)
        if below or right:
            logits = logits[:, :, : self.size[0], : self.size[1]]
        return logits


def _double(inside: int, out: int) -> nn.Sequential:
    return nn.Sequential(convolution(inside, out, 3), convolution(out, out, 3))

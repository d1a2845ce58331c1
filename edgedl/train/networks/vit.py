"""A vision transformer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.networks.attention import (
    Activation,
    TransformerBlock,
    begin_transformer,
    check_blocks,
)
from edgedl.train.networks.inputs import image, positive, values
from edgedl.train.shapes import TensorShape


def vit(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    heads: int = 3,
    ratio: float = 4.0,
    pool: Literal["mean", "class"] = "mean",
    activation: Activation = "gelu",
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> nn.Module:
    """ViT (Dosovitskiy et al., An Image is Worth 16x16 Words, 2021).

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. DeiT-Tiny (Touvron et
    al., 2021) is `patch` 16, `depth` 12 and `pool` class.

    Args:
        inputs: one image, of a whole number of patches.
        outputs: classes or values.
        patch: pixels of a patch's sides.
        width: values of a token.
        depth: blocks.
        heads: of attention, which share the width.
        ratio: values between a block's two dense layers, as a multiple of the width.
        pool: what the last layer reads: the mean of all tokens (Beyer et al., Better plain ViT
            baselines, 2022), or a token of its own.
        activation: between the dense layers; ReLU is faster and rounds better, GELU the paper's.
        dropout: share of values left out while training.
        drop_path: share of samples for which the last block is left out while training; blocks
            before it less, in proportion to their depth.

    Raises:
        BadValue: the input is no image, its sides hold no whole number of patches, or a setting is
            out of range.
    """
    channels, height, length = image(inputs)
    positive(patch=patch)
    if height % patch or length % patch:
        side = math.gcd(height, length)
        whole = ", ".join(str(n) for n in range(2, side + 1) if side % n == 0) or "none but 1"
        message = f"an image of {height} x {length} holds no whole number of patches of {patch}"
        raise BadValue(message, keys=("patch",), hint=f"patches that fit: {whole}")
    check_blocks(width, depth, heads, ratio, dropout, drop_path)
    rates = [drop_path * index / max(1, depth - 1) for index in range(depth)]
    blocks = [TransformerBlock(width, heads, ratio, dropout, activation, r) for r in rates]
    tokens = (height // patch) * (length // patch)
    network = ViT(channels, values(outputs), patch, tokens, width, blocks, pool == "class", dropout)
    begin_transformer(network)
    fan_in = channels * patch * patch
    nn.init.trunc_normal_(network.patches.weight, 0, math.sqrt(1 / fan_in))
    nn.init.zeros_(network.patches.bias)  # type: ignore[arg-type]
    return network


class ViT(nn.Module):
    """Patches as tokens, their places added, transformer blocks, one dense layer."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        patch: int,
        tokens: int,
        width: int,
        blocks: list[TransformerBlock],
        classed: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if classed else None
        self.places = nn.Parameter(torch.zeros(1, tokens + classed, width))
        nn.init.trunc_normal_(self.places, 0, 0.02, -0.04, 0.04)
        if self.token is not None:
            nn.init.trunc_normal_(self.token, 0, 0.02, -0.04, 0.04)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(self.dropout(x + self.places)))
        logits: Tensor = self.head(x.mean(1) if self.token is None else x[:, 0])
        return logits

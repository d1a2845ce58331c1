"""A vision transformer, and the outliers that spoil it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.golden.convolutional import CLASSES

OUTLIERS, OUTLIER = 3, 64.0


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, wide: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(wide, wide) for _ in range(3))
        self.out = nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, wide = x.shape

        def split(y: Tensor) -> Tensor:
            return y.reshape(count, tokens, self.heads, wide // self.heads).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        weights = (query @ key.transpose(2, 3) * (wide // self.heads) ** -0.5).softmax(-1)
        mixed: Tensor = self.out((weights @ value).transpose(1, 2).reshape(count, tokens, wide))
        return mixed


class Encoder(nn.Module):
    """Attention and a perceptron, each behind a layer norm and added to what they read."""

    def __init__(self, wide: int, heads: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(wide), nn.LayerNorm(wide)
        self.attention = Attention(wide, heads)
        self.up, self.down = nn.Linear(wide, 2 * wide), nn.Linear(2 * wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.down(functional.gelu(self.up(self.second(x))))


@torch.no_grad()
def add_outliers(model: nn.Module, seed: int) -> None:
    """Multiply three channels of each layer norm by 64, and divide the weights that read them by
    it: such channels grow in large transformers by themselves (Bondarenko et al., 2023)."""
    random = np.random.default_rng(seed)
    for layer in model.modules():
        if isinstance(layer, Encoder):
            attention = layer.attention
            for norm, readers in (
                (layer.first, (attention.query, attention.key, attention.value)),
                (layer.second, (layer.up,)),
            ):
                picked = random.choice(norm.weight.numel(), OUTLIERS, replace=False)
                norm.weight[picked] *= OUTLIER
                norm.bias[picked] *= OUTLIER
                for reader in readers:
                    reader.weight[:, picked] /= OUTLIER


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) over 49 patches of 4x4."""

    def __init__(self, wide: int = 40, heads: int = 4, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, wide, 4, 4)
        self.place = nn.Parameter(0.02 * torch.randn(1, 50, wide))
        self.token = nn.Parameter(torch.zeros(1, 1, wide))
        self.layers = nn.Sequential(*(Encoder(wide, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(wide), nn.Linear(wide, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        patches = self.embed(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(image), -1, -1), patches], 1) + self.place
        logits: Tensor = self.head(self.norm(self.layers(tokens)[:, 0]))
        return logits

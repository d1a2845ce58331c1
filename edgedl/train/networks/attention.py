"""Transformer blocks, which images and texts share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import positive, share
from edgedl.train.networks.layers import DropPath

Activation = Literal["gelu", "relu"]
# A score that a softmax makes 0 of, finite in float16, too.
OUT_OF_SIGHT = -1e4


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al., Attention Is All You Need, 2017).

    Queries, keys and values have a layer each, so that each has a range of its own when rounded.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.each, self.dropout = heads, width // heads, dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each token [batch, tokens, width] as the sum of what it attends to.

        `mask`, bool of shape [batch, 1, 1, tokens], says which tokens may be attended to.
        """
        tokens = x.shape[1]
        shape = (-1, tokens, self.heads, self.each)
        query, key, value = (
            layer(x).reshape(shape).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        if self.training:
            y = functional.scaled_dot_product_attention(query, key, value, mask, self.dropout)
        else:
            # The same, spelled out: what is exported then holds no more than these operators.
            scores = (query * self.each**-0.5) @ key.transpose(2, 3)
            scores = scores if mask is None else torch.where(mask, scores, OUT_OF_SIGHT)
            y = torch.softmax(scores, 3) @ value
        y = y.transpose(1, 2).reshape(-1, tokens, self.heads * self.each)
        given: Tensor = self.out(y)
        return given


class TransformerBlock(nn.Module):
    """Attention, then two dense layers, each normalised before (Xiong et al., On Layer
    Normalization in the Transformer Architecture, 2020) and beside a shortcut."""

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: float,
        dropout: float,
        activation: Activation,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attention = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps)
        wide = int(width * ratio)
        self.dense = nn.Sequential(
            nn.Linear(width, wide),
            nn.GELU() if activation == "gelu" else nn.ReLU(),
            nn.Linear(wide, width),
        )
        self.dropout = nn.Dropout(dropout)
        self.drop = DropPath(drop_path)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The tokens [batch, tokens, width] once more thought over."""
        x = x + self.drop(self.dropout(self.attention(self.norm1(x), mask)))
        y: Tensor = x + self.drop(self.dropout(self.dense(self.norm2(x))))
        return y


def check_blocks(
    width: int, depth: int, heads: int, ratio: float, dropout: float, drop_path: float = 0.0
) -> None:
    """Refuses settings of blocks that cannot be.

    Raises:
        BadValue: one is out of range, or the heads do not share the width evenly.
    """
    positive(width=width, depth=depth, heads=heads, ratio=ratio)
    share(dropout=dropout, drop_path=drop_path)
    if width % heads:
        hint = f"width: {width // heads * heads or heads}, or heads that divide {width}"
        message = f"{heads} heads cannot share a width of {width}"
        raise BadValue(message, keys=("heads",), hint=hint)


@torch.no_grad()
def begin_transformer(network: nn.Module, deviation: float = 0.02) -> None:
    """Draws weights as transformers begin: normal, cut off at two deviations; biases are zero."""
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            bound = 2 * deviation
            nn.init.trunc_normal_(module.weight, 0, deviation, -bound, bound)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0

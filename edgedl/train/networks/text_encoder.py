"""A transformer encoder that classifies texts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.networks.attention import (
    Activation,
    TransformerBlock,
    begin_transformer,
    check_blocks,
)
from edgedl.train.networks.inputs import ids, values
from edgedl.train.shapes import TensorShape

PADDING = 0


def text_encoder(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    vocabulary: int = 0,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    ratio: float = 4.0,
    activation: Activation = "gelu",
    dropout: float = 0.1,
) -> nn.Module:
    """A transformer encoder (Vaswani et al., 2017), the mean of whose tokens is classified.

    Token ids int64 [batch, tokens], padded with 0, to logits [batch, outputs]. Padding is neither
    attended to nor counted; a second input, where the data has one, says in ones and zeros which
    tokens count, and else the ids do.

    Args:
        inputs: a row of ids, and perhaps their mask.
        outputs: classes or values.
        vocabulary: different ids; as the data says where 0.
        width: values of a token.
        depth: blocks.
        heads: of attention, which share the width.
        ratio: values between a block's two dense layers, as a multiple of the width.
        activation: between the dense layers; ReLU is faster and rounds better.
        dropout: share of values left out while training.

    Raises:
        BadValue: the inputs are no text, nobody says how large its vocabulary is, or a setting is
            out of range.
    """
    shapes = list(inputs.values())
    fits = all(len(shape.shape) == 1 and shape.shape == shapes[0].shape for shape in shapes)
    if len(shapes) not in (1, 2) or not fits or not shapes[0].whole:
        given = ", ".join(f"`{name}` ({shape})" for name, shape in inputs.items()) or "nothing"
        raise BadValue(
            f"it takes one row of token ids, and perhaps their mask; the data has {given}",
            hint="int64 ids of one length, padded with 0",
        )
    count = ids(inputs, next(iter(inputs)), vocabulary, "vocabulary")
    check_blocks(width, depth, heads, ratio, dropout)
    blocks = [TransformerBlock(width, heads, ratio, dropout, activation) for _ in range(depth)]
    network = TextEncoder(count, shapes[0].shape[0], width, blocks, dropout, values(outputs))
    begin_transformer(network)
    return network


class TextEncoder(nn.Module):
    """Embedded ids, their places added, transformer blocks, the mean of what is no padding, one
    dense layer."""

    first: Tensor

    def __init__(
        self,
        vocabulary: int,
        tokens: int,
        width: int,
        blocks: list[TransformerBlock],
        dropout: float,
        outputs: int,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PADDING)
        self.places = nn.Parameter(torch.zeros(1, tokens, width))
        nn.init.trunc_normal_(self.places, 0, 0.02, -0.04, 0.04)
        # An empty text attends to its first place, since a softmax over nothing is no number.
        self.register_buffer("first", torch.arange(tokens)[None] == 0, persistent=False)
        self.grow = math.sqrt(width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, 1e-6)
        self.head = nn.Linear(width, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits of the texts."""
        real = (input_ids != PADDING) if attention_mask is None else (attention_mask != 0)
        mask = real | self.first
        x = self.dropout(self.embedding(input_ids) * self.grow + self.places)
        attended = mask[:, None, None, :]
        for block in self.blocks:
            x = block(x, attended)
        counted = mask[:, :, None].to(x.dtype)
        mean = (self.norm(x) * counted).sum(1) / counted.sum(1)
        logits: Tensor = self.head(self.dropout(mean))
        return logits

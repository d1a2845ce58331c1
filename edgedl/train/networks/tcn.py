"""A temporal convolutional network, which sees no step before it comes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import positive, series, share, values
from edgedl.train.networks.layers import begin_convolutions
from edgedl.train.shapes import TensorShape


def tcn(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 64,
    kernel: int = 3,
    levels: int = 0,
    pool: Literal["last", "mean", "each"] = "last",
    dropout: float = 0.1,
) -> nn.Module:
    """TCN (Bai et al., An Empirical Evaluation of Generic Convolutional and Recurrent Networks for
    Sequence Modeling, 2018), with batch normalisation, which folds, for its weight normalisation.

    Series float32 [batch, channels, time] to logits of classes, or the values that come next,
    [batch, outputs]; an answer a step, [batch, time, outputs], where `pool` is each.

    Args:
        inputs: one series.
        outputs: classes or values.
        width: channels of each block.
        kernel: steps that a convolution sees, 2 or more.
        levels: blocks, each of which looks twice as far back; as many as see the whole series where
            0.
        pool: what is answered from: the last step, the mean of all steps, or each step by itself.
        dropout: share of channels left out while training.

    Raises:
        BadValue: the input is no series, or a setting is out of range.
    """
    channels, steps = series(inputs)
    positive(width=width)
    share(dropout=dropout)
    if kernel < 2 or levels < 0:
        name = "kernel" if kernel < 2 else "levels"
        raise BadValue(f"`{name}` is too small", keys=(name,), hint="kernel: 3, levels: 4")
    network = TCN(channels, values(outputs), width, kernel, levels or _levels(steps, kernel),
                  pool, dropout)  # fmt: skip
    begin_convolutions(network)
    return network


class TCN(nn.Module):
    """Residual blocks of causal convolutions, each looking twice as far back, and a dense layer.

    `sees` is how many steps the last one's answer is made of.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        width: int,
        kernel: int,
        levels: int,
        pool: Literal["last", "mean", "each"],
        dropout: float,
    ) -> None:
        super().__init__()
        self.sees = 1 + 2 * (kernel - 1) * (2**levels - 1)
        self.pool = pool
        self.blocks = nn.Sequential()
        inside = channels
        for level in range(levels):
            self.blocks.append(Block(inside, width, kernel, 2**level, dropout))
            inside = width
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Answers of the series."""
        if x.dim() == 4:
            x = x.squeeze(1)
        x = self.blocks(x)
        if self.pool == "each":
            x = x.transpose(1, 2)
        else:
            x = x.mean(2) if self.pool == "mean" else x[:, :, -1]
        answers: Tensor = self.head(x)
        return answers


class Causal(nn.Module):
    """A dilated convolution that sees only what came before, normalised, and ReLU."""

    def __init__(self, inside: int, out: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.before = (kernel - 1) * dilation
        self.conv = nn.Conv1d(inside, out, kernel, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm1d(out)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same length."""
        x = functional.pad(x, (self.before, 0))
        y: Tensor = self.dropout(self.relu(self.norm(self.conv(x))))
        return y


class Block(nn.Module):
    """relu(shortcut(x) + f(x)), where f is two causal convolutions."""

    def __init__(self, inside: int, out: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.first = Causal(inside, out, kernel, dilation, dropout)
        self.second = Causal(out, out, kernel, dilation, dropout)
        self.shortcut = nn.Identity() if inside == out else nn.Conv1d(inside, out, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y: Tensor = self.relu(self.shortcut(x) + self.second(self.first(x)))
        return y


def _levels(steps: int, kernel: int) -> int:
    """The fewest blocks whose last step sees the first one."""
    return max(1, math.ceil(math.log2((steps - 1) / (2 * (kernel - 1)) + 1)))

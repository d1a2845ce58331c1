"""A fully connected network, for tables and anything small."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from edgedl.train.networks.inputs import numbers, positive, share, values
from edgedl.train.networks.layers import begin_dense
from edgedl.train.shapes import TensorShape


def mlp(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    hidden: tuple[int, ...] = (128, 64),
    norm: Literal["batch", "none"] = "batch",
    dropout: float = 0.0,
) -> nn.Module:
    """Fully connected layers with ReLU, and batch normalisation (Ioffe and Szegedy, 2015), which
    folds into them.

    One input, float32 of any shape, to logits [batch, outputs].

    Args:
        inputs: numbers.
        outputs: classes or values.
        hidden: values of each layer between; none makes it a linear model.
        norm: what stands behind each layer.
        dropout: share of values left out behind each layer while training.

    Raises:
        BadValue: the input holds ids, or there are several, or a setting is out of range.
    """
    inside = math.prod(numbers(inputs))
    share(dropout=dropout)
    for wide in hidden:
        positive(hidden=wide)
    network = MLP(inside, values(outputs), hidden, norm == "batch", dropout)
    begin_dense(network)
    return network


class MLP(nn.Module):
    """Dense layers, one after another."""

    def __init__(
        self, inside: int, outputs: int, hidden: tuple[int, ...], norm: bool, dropout: float
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for wide in hidden:
            self.layers.extend(dense(inside, wide, norm))
            if dropout:
                self.layers.append(nn.Dropout(dropout))
            inside = wide
        self.head = nn.Linear(inside, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the rows."""
        x = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
        logits: Tensor = self.head(self.layers(x))
        return logits


def dense(inside: int, out: int, norm: bool) -> list[nn.Module]:
    """A fully connected layer, its normalisation, and ReLU."""
    between: list[nn.Module] = [nn.BatchNorm1d(out)] if norm else []
    return [nn.Linear(inside, out), *between, nn.ReLU()]

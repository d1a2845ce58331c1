"""A fully connected autoencoder: what it cannot give back is unusual."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.networks.inputs import numbers, positive
from edgedl.train.networks.layers import begin_dense
from edgedl.train.networks.mlp import dense
from edgedl.train.shapes import TensorShape


def autoencoder(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    hidden: tuple[int, ...] = (128, 128, 128, 128),
    bottleneck: int = 8,
) -> nn.Module:
    """MLPerf Tiny's network for anomaly detection (Banbury et al., 2021), the baseline of DCASE
    2020, task 2 (Koizumi et al., 2020).

    One input, float32 of any shape, to its reconstruction of the same shape. For rows of 640 it has
    the reference's 269,992 weights, biases and statistics.

    Args:
        inputs: numbers.
        outputs: 0.
        hidden: values of each layer before the bottleneck; behind it they come in reverse.
        bottleneck: values in the middle.

    Raises:
        BadValue: there are several inputs, or labels, or a setting is out of range.
    """
    shape = numbers(inputs)
    if outputs:
        message = f"it gives its input back, and this data wants {outputs} answers"
        raise BadValue(message, hint="for classes and values there is `mlp`")
    positive(bottleneck=bottleneck)
    for wide in hidden:
        positive(hidden=wide)
    network = Autoencoder(shape, hidden, bottleneck)
    begin_dense(network)
    return network


class Autoencoder(nn.Module):
    """Dense layers with normalisation and ReLU to the bottleneck and back, and a last one without.

    `encoder` and `decoder` are its halves: the bottleneck's values stand between them.
    """

    def __init__(self, shape: tuple[int, ...], hidden: tuple[int, ...], bottleneck: int) -> None:
        super().__init__()
        self.shape = (-1, *shape)
        self.encoder, self.decoder = nn.Sequential(), nn.Sequential()
        inside = size = math.prod(shape)
        for wide in (*hidden, bottleneck):
            self.encoder.extend(dense(inside, wide, norm=True))
            inside = wide
        for wide in reversed(hidden):
            self.decoder.extend(dense(inside, wide, norm=True))
            inside = wide
        self.decoder.append(nn.Linear(inside, size))

    def forward(self, x: Tensor) -> Tensor:
        """The input as far as the bottleneck keeps it."""
        flat = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
        y: Tensor = self.decoder(self.encoder(flat))
        return y.reshape(self.shape)

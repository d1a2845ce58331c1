"""MobileNetV1: depthwise-separable convolutions."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from edgedl.train.networks.inputs import image, positive, share, values
from edgedl.train.networks.layers import (
    GlobalPool,
    Stem,
    begin_convolutions,
    convolution,
    divisible,
    is_small,
)
from edgedl.train.shapes import TensorShape

# Channels and stride of each block (Howard et al., 2017, table 1).
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def mobilenetv1(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    alpha: float = 1.0,
    stem: Stem = "auto",
    bias: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """MobileNetV1 (Howard et al., MobileNets, 2017).

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. MLPerf Tiny's network
    for visual wake words is `alpha` 0.25 with `bias`, on 3 x 96 x 96 and 2 classes: 210,850 weights
    and biases.

    Args:
        inputs: one image.
        outputs: classes or values.
        alpha: how wide, as a share of the paper's channels.
        stem: `large` as in the paper, a 32nd of the size at the end; `small` an eighth; `auto`,
            small for images of 64 pixels or fewer.
        bias: whether convolutions have biases before their normalisation, as MLPerf Tiny's.
        dropout: share of features left out before the last layer while training.

    Raises:
        BadValue: the input is no image, or a setting is out of range.
    """
    channels, height, width = image(inputs)
    positive(alpha=alpha)
    share(dropout=dropout)
    small = is_small(stem, height, width)
    network = MobileNetV1(channels, values(outputs), alpha, small, bias, dropout)
    begin_convolutions(network)
    return network


class MobileNetV1(nn.Module):
    """A 3x3 convolution, 13 separable ones, the mean of each channel, one dense layer."""

    def __init__(
        self, channels: int, outputs: int, alpha: float, small: bool, bias: bool, dropout: float
    ) -> None:
        super().__init__()
        inside = divisible(32 * alpha)
        layers = [convolution(channels, inside, 3, 1 if small else 2, bias=bias)]
        for index, (wide, stride) in enumerate(BLOCKS):
            out = divisible(wide * alpha)
            step = 1 if small and index == 1 else stride
            layers.append(convolution(inside, inside, 3, step, groups=inside, bias=bias))
            layers.append(convolution(inside, out, 1, bias=bias))
            inside = out
        self.features = nn.Sequential(*layers)
        self.pool = GlobalPool()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(inside, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        logits: Tensor = self.head(self.dropout(self.pool(self.features(x))))
        return logits

"""MobileNetV2: inverted residuals with linear bottlenecks."""

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

# Expansion, channels, blocks and first stride of each stage (Sandler et al., 2018, table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenetv2(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    alpha: float = 1.0,
    stem: Stem = "auto",
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV2 (Sandler et al., Inverted Residuals and Linear Bottlenecks, 2018).

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. Parameters are named
    as in torchvision.

    Args:
        inputs: one image.
        outputs: classes or values.
        alpha: how wide, as a share of the paper's channels.
        stem: `large` as in the paper, a 32nd of the size at the end; `small` an eighth; `auto`,
            small for images of 64 pixels or fewer.
        dropout: share of features left out before the last layer while training.

    Raises:
        BadValue: the input is no image, or a setting is out of range.
    """
    channels, height, width = image(inputs)
    positive(alpha=alpha)
    share(dropout=dropout)
    small = is_small(stem, height, width)
    network = MobileNetV2(channels, values(outputs), alpha, small, dropout)
    begin_convolutions(network)
    return network


class MobileNetV2(nn.Module):
    """A 3x3 convolution, 17 inverted residuals, a 1x1 convolution, the mean of each channel, one
    dense layer."""

    def __init__(
        self, channels: int, outputs: int, alpha: float, small: bool, dropout: float
    ) -> None:
        super().__init__()
        inside = divisible(32 * alpha)
        wide = divisible(1280 * max(1.0, alpha))
        layers: list[nn.Module] = [
            convolution(channels, inside, 3, 1 if small else 2, activation=nn.ReLU6)
        ]
        for stage, (expansion, channels_, blocks, stride) in enumerate(STAGES):
            out = divisible(channels_ * alpha)
            for index in range(blocks):
                step = 1 if index or (small and stage == 1) else stride
                layers.append(Inverted(inside, out, step, expansion))
                inside = out
        layers.append(convolution(inside, wide, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.pool = GlobalPool()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(wide, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)))
        return logits


class Inverted(nn.Module):
    """1x1 to wider, 3x3 depthwise, 1x1 to narrow without an activation; beside a shortcut where
    shapes agree."""

    def __init__(self, inside: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.skip = stride == 1 and inside == out
        self.conv = nn.Sequential(
            *([convolution(inside, wide, 1, activation=nn.ReLU6)] if expansion > 1 else []),
            convolution(wide, wide, 3, stride, groups=wide, activation=nn.ReLU6),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y: Tensor = self.conv(x)
        return x + y if self.skip else y

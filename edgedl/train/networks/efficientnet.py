"""EfficientNet-Lite: EfficientNet without what integer arithmetic does badly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from edgedl.train.networks.inputs import image, share, values
from edgedl.train.networks.layers import (
    DropPath,
    GlobalPool,
    Stem,
    begin_convolutions,
    convolution,
    divisible,
    is_small,
)
from edgedl.train.shapes import TensorShape

# Kernel, stride, expansion, channels and blocks of each stage (Tan and Le, 2019, table 1).
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# How wide and deep each is, as shares of the table.
SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
normalised = partial(convolution, eps=1e-3, momentum=0.01)


def efficientnet_lite0(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    stem: Stem = "auto",
    dropout: float = 0.2,
    drop_path: float = 0.0,
) -> nn.Module:
    """EfficientNet-Lite0 (Tan and Le, EfficientNet, 2019; its Lite form by Liu, 2020: ReLU6 for
    swish, no squeeze-and-excitation, stem and head of fixed width); best at 224 pixels.

    Image float32 [batch, channels, height, width] to logits [batch, outputs].

    Args:
        inputs: one image.
        outputs: classes or values.
        stem: `large` as in the paper, a 32nd of the size at the end; `small` an eighth; `auto`,
            small for images of 64 pixels or fewer.
        dropout: share of features left out before the last layer while training.
        drop_path: share of samples for which the last block is left out while training; blocks
            before it less, in proportion to their depth. The paper takes 0.2 for long training.

    Raises:
        BadValue: the input is no image, or a setting is out of range.
    """
    return _network(inputs, outputs, 0, stem, dropout, drop_path)


def efficientnet_lite1(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    stem: Stem = "auto",
    dropout: float = 0.2,
    drop_path: float = 0.0,
) -> nn.Module:
    """EfficientNet-Lite1, best at 240 pixels. Args and errors are those of `efficientnet_lite0`."""
    return _network(inputs, outputs, 1, stem, dropout, drop_path)


def efficientnet_lite2(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    stem: Stem = "auto",
    dropout: float = 0.3,
    drop_path: float = 0.0,
) -> nn.Module:
    """EfficientNet-Lite2, best at 260 pixels. Args and errors are those of `efficientnet_lite0`."""
    return _network(inputs, outputs, 2, stem, dropout, drop_path)


def efficientnet_lite3(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    stem: Stem = "auto",
    dropout: float = 0.3,
    drop_path: float = 0.0,
) -> nn.Module:
    """EfficientNet-Lite3, best at 280 pixels. Args and errors are those of `efficientnet_lite0`."""
    return _network(inputs, outputs, 3, stem, dropout, drop_path)


def efficientnet_lite4(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    stem: Stem = "auto",
    dropout: float = 0.3,
    drop_path: float = 0.0,
) -> nn.Module:
    """EfficientNet-Lite4, best at 300 pixels. Args and errors are those of `efficientnet_lite0`."""
    return _network(inputs, outputs, 4, stem, dropout, drop_path)


class EfficientNetLite(nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, the mean of each channel, one dense
    layer."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        variant: int,
        small: bool,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        wider, deeper = SCALES[variant]
        # Neither the first nor the last stage is made deeper.
        depths = [
            row[-1] if stage in (0, len(STAGES) - 1) else math.ceil(row[-1] * deeper)
            for stage, row in enumerate(STAGES)
        ]
        inside, done = 32, 0
        layers: list[nn.Module] = [
            normalised(channels, inside, 3, 1 if small else 2, activation=nn.ReLU6)
        ]
        for stage, (kernel, stride, expansion, wide, _) in enumerate(STAGES):
            out = divisible(wide * wider)
            for index in range(depths[stage]):
                step = 1 if index or (small and stage == 1) else stride
                rate = drop_path * done / sum(depths)
                layers.append(Block(inside, kernel, step, expansion, out, rate))
                inside, done = out, done + 1
        layers.append(normalised(inside, 1280, 1, activation=nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.pool = GlobalPool()
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)))
        return logits


class Block(nn.Module):
    """1x1 to wider, depthwise, 1x1 to narrow; beside a shortcut where shapes agree."""

    def __init__(
        self, inside: int, kernel: int, stride: int, expansion: int, out: int, rate: float
    ) -> None:
        super().__init__()
        wide = inside * expansion
        self.skip = stride == 1 and inside == out
        self.block = nn.Sequential(
            *([normalised(inside, wide, 1, activation=nn.ReLU6)] if expansion > 1 else []),
            normalised(wide, wide, kernel, stride, groups=wide, activation=nn.ReLU6),
            normalised(wide, out, 1, activation=None),
        )
        self.drop = DropPath(rate)

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y: Tensor = self.block(x)
        return x + self.drop(y) if self.skip else y


def _network(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    variant: int,
    stem: Stem,
    dropout: float,
    drop_path: float,
) -> nn.Module:
    channels, height, width = image(inputs)
    share(dropout=dropout, drop_path=drop_path)
    small = is_small(stem, height, width)
    network = EfficientNetLite(channels, values(outputs), variant, small, dropout, drop_path)
    begin_convolutions(network)
    return network

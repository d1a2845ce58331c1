"""MobileNetV3: inverted residuals with squeeze-and-excitation and hard swish."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

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

# Kernel, expanded channels, channels, whether they are squeezed, the activation, the stride of each
# block (Howard et al., 2019, tables 1 and 2).
Row = tuple[int, int, int, bool, str, int]
LARGE: tuple[Row, ...] = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "swish", 2),
    (3, 200, 80, False, "swish", 1),
    (3, 184, 80, False, "swish", 1),
    (3, 184, 80, False, "swish", 1),
    (3, 480, 112, True, "swish", 1),
    (3, 672, 112, True, "swish", 1),
    (5, 672, 160, True, "swish", 2),
    (5, 960, 160, True, "swish", 1),
    (5, 960, 160, True, "swish", 1),
)
SMALL: tuple[Row, ...] = (
    (3, 16, 16, True, "relu", 2),
    (3, 72, 24, False, "relu", 2),
    (3, 88, 24, False, "relu", 1),
    (5, 96, 40, True, "swish", 2),
    (5, 240, 40, True, "swish", 1),
    (5, 240, 40, True, "swish", 1),
    (5, 120, 48, True, "swish", 1),
    (5, 144, 48, True, "swish", 1),
    (5, 288, 96, True, "swish", 2),
    (5, 576, 96, True, "swish", 1),
    (5, 576, 96, True, "swish", 1),
)
ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "swish": nn.Hardswish}
# The paper's batch normalisation.
normalised = partial(convolution, eps=1e-3, momentum=0.01)


def mobilenetv3_small(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    alpha: float = 1.0,
    stem: Stem = "auto",
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV3-Small (Howard et al., Searching for MobileNetV3, 2019).

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
    return _network(inputs, outputs, SMALL, 1024, alpha, stem, dropout)


def mobilenetv3_large(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    alpha: float = 1.0,
    stem: Stem = "auto",
    dropout: float = 0.2,
) -> nn.Module:
    """MobileNetV3-Large (Howard et al., Searching for MobileNetV3, 2019).

    Args and errors are those of `mobilenetv3_small`.
    """
    return _network(inputs, outputs, LARGE, 1280, alpha, stem, dropout)


class MobileNetV3(nn.Module):
    """A 3x3 convolution, inverted residuals, a 1x1 convolution, the mean of each channel, two dense
    layers."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        rows: Sequence[Row],
        last: int,
        alpha: float,
        small: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        inside = divisible(16 * alpha)
        layers: list[nn.Module] = [
            normalised(channels, inside, 3, 1 if small else 2, activation=nn.Hardswish)
        ]
        keep = small
        for kernel, expanded, out, squeezed, activation, stride in rows:
            step = 1 if keep else stride
            keep = keep and stride == 1
            wide, narrow = divisible(expanded * alpha), divisible(out * alpha)
            layers.append(Block(inside, kernel, wide, narrow, squeezed, activation, step))
            inside = narrow
        layers.append(normalised(inside, 6 * inside, 1, activation=nn.Hardswish))
        self.features = nn.Sequential(*layers)
        self.pool = GlobalPool()
        self.classifier = nn.Sequential(
            nn.Linear(6 * inside, last),
            nn.Hardswish(),
            nn.Dropout(dropout),
            nn.Linear(last, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        logits: Tensor = self.classifier(self.pool(self.features(x)))
        return logits


class Block(nn.Module):
    """1x1 to wider, depthwise, squeezed and excited, 1x1 to narrow; beside a shortcut where shapes
    agree."""

    def __init__(
        self,
        inside: int,
        kernel: int,
        wide: int,
        out: int,
        squeezed: bool,
        activation: str,
        stride: int,
    ) -> None:
        super().__init__()
        make = ACTIVATIONS[activation]
        self.skip = stride == 1 and inside == out
        self.block = nn.Sequential(
            *([normalised(inside, wide, 1, activation=make)] if wide != inside else []),
            normalised(wide, wide, kernel, stride, groups=wide, activation=make),
            *([Excite(wide, divisible(wide // 4))] if squeezed else []),
            normalised(wide, out, 1, activation=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y: Tensor = self.block(x)
        return x + y if self.skip else y


class Excite(nn.Module):
    """Channels weighed by what all of them show in the mean (Hu et al., Squeeze-and-Excitation
    Networks, 2018), with a hard sigmoid."""

    def __init__(self, channels: int, narrow: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, narrow, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(narrow, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """The features, each channel times its weight from 0 to 1."""
        weights: Tensor = self.gate(self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return x * weights


def _network(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    rows: Sequence[Row],
    last: int,
    alpha: float,
    stem: Stem,
    dropout: float,
) -> nn.Module:
    channels, height, width = image(inputs)
    positive(alpha=alpha)
    share(dropout=dropout)
    small = is_small(stem, height, width)
    last = divisible(last * alpha)
    network = MobileNetV3(channels, values(outputs), rows, last, alpha, small, dropout)
    begin_convolutions(network)
    return network

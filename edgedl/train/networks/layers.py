"""Parts that many convolutional networks are built of, and how their weights begin."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

Stem = Literal["auto", "small", "large"]
SMALL = 64


def is_small(stem: Stem, height: int, width: int) -> bool:
    """Whether the first layers keep an image's size: as `stem` says, or for images whose shorter
    side is 64 pixels at most."""
    return stem == "small" or (stem == "auto" and min(height, width) <= SMALL)


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple, and never a tenth less than asked (Sandler et al., 2018)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def convolution(
    inside: int,
    out: int,
    kernel: int,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
    activation: Callable[[], nn.Module] | None = nn.ReLU,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> nn.Sequential:
    """Convolution, batch normalisation and an activation; the size is kept at stride 1."""
    layers: list[nn.Module] = [
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=bias),
        nn.BatchNorm2d(out, eps, momentum),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


class GlobalPool(nn.Module):
    """The mean over height and width: [batch, channels, height, width] to [batch, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean of each channel."""
        return x.mean((2, 3))


class DropPath(nn.Module):
    """Leaves a block out for a random share of the samples while training (Huang et al., Deep
    Networks with Stochastic Depth, 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The block's answers, some of them zero and the others larger, so that the mean stays."""
        if not self.training or self.rate == 0:
            return x
        kept = torch.rand(x.shape[0], *(1,) * (x.dim() - 1), device=x.device) >= self.rate
        return x * (kept / (1 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """The rate."""
        return f"rate={self.rate}"


@torch.no_grad()
def begin_convolutions(network: nn.Module, linear: float = 0.01) -> None:
    """Draws weights as convolutional networks begin.

    Convolutions are normal with variance 2 / fan-out (He et al., Delving Deep into Rectifiers,
    2015), in which a depthwise one counts only its own channel; biases are zero, scales of
    normalisations one, and fully connected layers normal with deviation `linear`.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d)):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, linear)
        elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def begin_dense(network: nn.Module) -> None:
    """Draws fully connected layers normal with variance 2 / fan-in (He et al., 2015), their biases
    zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

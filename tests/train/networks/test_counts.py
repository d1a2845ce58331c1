"""Sizes are those that the papers' authors and MLPerf Tiny publish."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgedl.train.networks import build
from edgedl.train.networks.trial import example
from edgedl.train.shapes import TensorShape

TINY: dict[str, Any] = {
    "resnet8": ((3, 32, 32), 10, {}),
    "ds_cnn": ((10, 49), 12, {}),
    "mobilenetv1": ((3, 96, 96), 2, {"alpha": 0.25, "bias": True}),
    "autoencoder": ((640,), 0, {}),
}


def network_of(
    name: str, shape: tuple[int, ...], outputs: int, settings: dict[str, Any]
) -> nn.Module:
    return build(name, {"input": TensorShape(shape)}, outputs, settings)


def trained(network: nn.Module) -> int:
    """As torch counts: all that learns."""
    return sum(one.numel() for one in network.parameters())


def with_statistics(network: nn.Module) -> int:
    """As Keras counts: means and variances, too."""
    floats = [one for one in network.buffers() if one.is_floating_point()]
    return trained(network) + sum(one.numel() for one in floats)


def folded(network: nn.Module) -> int:
    """What is left when normalisations are folded: convolutions and dense layers with biases."""
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return sum(m.weight.numel() + m.weight.shape[0] for m in layers)


def multiplied(network: nn.Module, inputs: dict[str, TensorShape]) -> int:
    """Multiplications of convolutions and dense layers for one sample."""
    found = []

    def count(module: Any, _: Any, answer: Tensor) -> None:
        found.append(answer[0].numel() * math.prod(module.weight.shape[1:]))

    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(count)
    with torch.no_grad():
        network.eval()(*example(inputs, 1))
    return sum(found)


# MLPerf Tiny's reference networks: folded, with statistics, multiplications.
@pytest.mark.parametrize(
    ("name", "parameters", "statistics", "macs"),
    [
        ("resnet8", 77_706, 78_666, 12_501_632),
        ("ds_cnn", 22_604, 22_604 + 2_304, 2_656_768),
        ("mobilenetv1", 210_850, 210_850 + 10_944, 7_489_664),
        ("autoencoder", 265_864, 269_992, 264_192),
    ],
)
def test_mlperf_tiny(name: str, parameters: int, statistics: int, macs: int) -> None:
    shape, outputs, settings = TINY[name]
    network = network_of(name, shape, outputs, settings)
    assert folded(network) == parameters
    assert with_statistics(network) == statistics
    assert multiplied(network, {"input": TensorShape(shape)}) == macs


@pytest.mark.parametrize(("width", "statistics"), [(26, 205_306), (40, 482_730)])
def test_the_reference_has_16_channels_and_not_its_scripts_default(
    width: int, statistics: int
) -> None:
    # The script's default is 26, whose count is not the reference's; the benchmark's larger
    # network, of about 482.7 thousand, has 40.
    network = network_of("resnet8", (3, 32, 32), 10, {"width": width})
    assert with_statistics(network) == statistics


@pytest.mark.parametrize(
    ("name", "settings", "size", "parameters"),
    [
        ("resnet18", {}, 224, 11_689_512),
        ("resnet50", {}, 224, 25_557_032),
        ("mobilenetv1", {}, 224, 4_231_976),
        ("mobilenetv2", {}, 224, 3_504_872),
        ("mobilenetv3_small", {}, 224, 2_542_856),
        ("mobilenetv3_large", {}, 224, 5_483_032),
        ("efficientnet_lite0", {}, 224, 4_652_008),
        ("efficientnet_lite1", {}, 240, 5_416_680),
        ("efficientnet_lite2", {}, 260, 6_092_072),
        ("efficientnet_lite3", {}, 280, 8_197_096),
        ("efficientnet_lite4", {}, 300, 13_006_568),
        # DeiT-Tiny
        ("vit", {"patch": 16, "depth": 12, "pool": "class"}, 224, 5_717_416),
    ],
)
def test_imagenet(name: str, settings: dict[str, Any], size: int, parameters: int) -> None:
    network = network_of(name, (3, size, size), 1000, settings)
    assert trained(network) == parameters


def test_small_images_have_a_small_stem() -> None:
    # ResNet-18 for CIFAR-10: a 3x3 stem in place of the 7x7.
    assert trained(network_of("resnet18", (3, 32, 32), 10, {})) == 11_173_962
    assert trained(network_of("resnet18", (3, 65, 65), 10, {})) == 11_181_642
    large = network_of("resnet18", (3, 32, 32), 10, {"stem": "large"})
    assert trained(large) == 11_181_642


@pytest.mark.parametrize(
    "name", ["mobilenetv1", "mobilenetv2", "mobilenetv3_small", "mobilenetv3_large",
             "efficientnet_lite0"],
)  # fmt: skip
@pytest.mark.parametrize(("stem", "size", "left"), [("auto", 64, 8), ("large", 64, 2)])
def test_mobile_networks_keep_small_images_larger(
    name: str, stem: str, size: int, left: int
) -> None:
    network = network_of(name, (1, size, size), 2, {"stem": stem}).eval()
    assert isinstance(network.features, nn.Module)
    with torch.no_grad():
        assert network.features(torch.zeros(1, 1, size, size)).shape[2:] == (left, left)


def test_lstm_and_gru_have_four_and_three_gates() -> None:
    inputs = {"x": TensorShape((6, 50))}
    # gates x hidden x (inputs + hidden + 2 biases), in two directions, and the last layer.
    for name, gates in (("lstm", 4), ("gru", 3)):
        one = build(name, inputs, 5, {"hidden": 8})
        assert trained(one) == gates * 8 * (6 + 8 + 2) + 8 * 5 + 5
        both = build(name, inputs, 5, {"hidden": 8, "bidirectional": True, "layers": 2})
        assert trained(both) == 2 * gates * 8 * ((6 + 8 + 2) + (16 + 8 + 2)) + 16 * 5 + 5

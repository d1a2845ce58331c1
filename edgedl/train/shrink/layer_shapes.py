"""The shapes of a network's layers, as one sample meets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.layers import LayerShape
from edgedl.train.batches import open_data
from edgedl.train.shrink.step import Ground

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def shapes_of(
    network: nn.Module, ground: Ground, layers: Mapping[str, nn.Module]
) -> dict[str, LayerShape]:
    """The shapes of those that are dense layers and convolutions, as one sample meets them; of what
    the network does not call, none."""
    found: dict[str, LayerShape] = {}
    device = next(network.parameters()).device
    batch = open_data(ground.train.take([0]), device).batch(np.zeros(1, np.int64))
    hooks = []
    for name, layer in layers.items():

        def look(one: Any, inputs: Any, _: Any, name: str = name) -> None:
            found.setdefault(name, _shape(one, inputs[0]))

        if isinstance(layer, KINDS):
            hooks.append(layer.register_forward_hook(look))
    was = network.training
    try:
        with torch.no_grad():
            network.eval()(*batch.inputs)
    finally:
        network.train(was)
        for hook in hooks:
            hook.remove()
    return {name: found[name] for name in layers if name in found}


def _shape(layer: Any, given: Tensor) -> LayerShape:
    if isinstance(layer, nn.Linear):
        rows = given.numel() // given.shape[-1]
        return LayerShape("linear", layer.in_features, layer.out_features, (rows,))
    before, after = _padding(layer)
    return LayerShape(
        "conv", layer.in_channels, layer.out_channels, tuple(given.shape[2:]), layer.kernel_size,
        layer.stride, (*before, *after), layer.dilation, layer.groups,
    )  # fmt: skip


def _padding(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Before and behind each axis."""
    if layer.padding == "valid":
        return (0,) * len(layer.kernel_size), (0,) * len(layer.kernel_size)
    if layer.padding == "same":
        both = zip(layer.dilation, layer.kernel_size, strict=True)
        total = [d * (k - 1) for d, k in both]
        return tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)
    return tuple(layer.padding), tuple(layer.padding)

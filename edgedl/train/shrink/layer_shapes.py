"""The shapes of a network's layers, as one sample meets them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from edgedl.core.layers import GATES, Kind, LayerShape
from edgedl.train.batches import open_data
from edgedl.train.shrink.ground import device_of
from edgedl.train.shrink.step import Ground
from edgedl.train.shrink.weights import RECURRENT, TRANSPOSED

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)


def called_shapes(
    network: nn.Module, ground: Ground, layers: Mapping[str, nn.Module]
) -> dict[str, LayerShape]:
    """The shapes of those that are dense layers and convolutions, as one sample meets them; of what
    the network does not call, none."""
    found: dict[str, LayerShape] = {}
    batch = open_data(ground.train.take([0]), device_of(network)).batch(np.zeros(1, np.int64))
    hooks = []
    for name, layer in layers.items():

        def look(one: Any, inputs: Any, _: Any, name: str = name) -> None:
            found.setdefault(name, shape_of(one, inputs[0].shape))

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


def shape_of(module: Any, given: Sequence[int]) -> LayerShape:
    """The shape of a layer for one sample, whose first input has this shape, a batch axis first."""
    if isinstance(module, RECURRENT):
        steps = given[1 if module.batch_first else 0] if len(given) == 3 else 1
        kind = cast("Kind", type(module).__name__.lower())
        assert kind in GATES
        return LayerShape(
            kind, module.input_size, module.hidden_size, (steps,),
            directions=1 + module.bidirectional,
        )  # fmt: skip
    if isinstance(module, nn.Linear):
        rows = math.prod(given[1:-1])
        return LayerShape("linear", module.in_features, module.out_features, (rows,))
    axes = len(module.kernel_size)
    turned = isinstance(module, TRANSPOSED)
    if isinstance(module.padding, str):
        spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        same = module.padding == "same"
        begins = [span // 2 * same for span in spans]
        ends = [(span - span // 2) * same for span in spans]
    else:
        begins = ends = list(module.padding)
    if turned:
        ends = [end - more for end, more in zip(ends, module.output_padding, strict=True)]
    return LayerShape(
        "conv_transpose" if turned else "conv", module.in_channels, module.out_channels,
        tuple(given[-axes:]), tuple(module.kernel_size), tuple(module.stride),
        (*begins, *ends), tuple(module.dilation), module.groups,
    )  # fmt: skip

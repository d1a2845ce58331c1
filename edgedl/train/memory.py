"""What a network leaves in memory while it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from edgedl.core.samples import Samples


def saved_bytes(network: nn.Module, samples: Samples) -> int:
    """The bytes that a forward pass of one sample keeps for its gradients, parameters not
    counted."""
    feed = samples.feed(0)
    pair = [torch.cat(2 * [torch.from_numpy(array)]) for array in feed.values()]
    return kept_bytes(network, lambda: network(*pair)) // 2


def kept_bytes(network: nn.Module, forward: Callable[[], Any]) -> int:
    """The bytes that a forward pass keeps for its gradients, the network's parameters not
    counted."""
    sizes = {parameter.data_ptr(): 0 for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        sizes.setdefault(tensor.data_ptr(), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(sizes.values())

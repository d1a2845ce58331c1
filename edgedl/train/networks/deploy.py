"""Networks that ship in another form than they are trained in, by the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from edgedl.train.shapes import TensorShape


@runtime_checkable
class Deployable(Protocol):
    """A network that is exported in another form: a step and its state in place of a whole series,
    or boxes in place of offsets."""

    def deployed(self) -> tuple[nn.Module, Mapping[str, TensorShape]]:
        """What is exported, which shares the network's weights, and its inputs."""


def deployed(
    network: nn.Module, inputs: Mapping[str, TensorShape]
) -> tuple[nn.Module, Mapping[str, TensorShape]]:
    """What is exported of a network trained on these inputs, and its inputs: the network itself,
    or what its own `deployed` says."""
    return network.deployed() if isinstance(network, Deployable) else (network, inputs)

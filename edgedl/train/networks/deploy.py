"""Networks that ship in another form than they are trained in, by the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from edgedl.runtime.process.boxes import Boxes
from edgedl.train.shapes import TensorShape

# What a network of several outputs calls its answer.
OUTPUT = "output"


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


def boxes_of(network: nn.Module) -> Boxes | None:
    """How a network's answers hold boxes, by its own `boxes`; None where they hold none."""
    found = getattr(network, "boxes", None)
    return found if isinstance(found, Boxes) else None


class InUnits(nn.Module):
    """A network that learned standardized values, and answers in the data's own units."""

    def __init__(self, network: nn.Module, mean: float, deviation: float) -> None:
        super().__init__()
        self.network, self.mean, self.deviation = network, mean, deviation

    def forward(self, *inputs: Tensor) -> Any:
        """What the network gives, its `output`, or else the first of several, times the deviation
        plus the mean."""
        given = self.network(*inputs)
        if isinstance(given, Mapping):
            name = OUTPUT if OUTPUT in given else next(iter(given))
            return {**given, name: given[name] * self.deviation + self.mean}
        if isinstance(given, (tuple, list)):
            return (given[0] * self.deviation + self.mean, *given[1:])
        return given * self.deviation + self.mean

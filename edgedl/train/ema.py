"""An average of a network's weights over its steps, the later ones counting more."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from edgedl.train.sharded import part_of


class Average:
    """The exponential moving average of a network's weights and running statistics.

    Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992. In the first
    steps n, no more than (1 + n) / (10 + n) of it stays, so that it does not lag behind.

    Attributes:
        network: a copy that holds the average.
    """

    def __init__(self, network: nn.Module, decay: float, copied: nn.Module | None = None) -> None:
        """Begins with the network's weights.

        Args:
            copied: a copy of it to hold the average, divided as it is; None: one is made.
        """
        made = copy.deepcopy(network) if copied is None else copied
        self.network = made.requires_grad_(False).eval()
        self.decay, self.steps = decay, 0
        ours = self.network.state_dict(keep_vars=True)
        theirs = network.state_dict(keep_vars=True)
        # by address: weights that two layers share are averaged once
        pairs = {part_of(ours[name]).data_ptr(): (ours[name], theirs[name]) for name in ours}
        self._pairs = list(pairs.values())
        self._real = [pair for pair in self._pairs if pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take the network's weights in, after a step."""
        self.steps += 1
        stays = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[Tensor] = [part_of(ours) for ours, _ in self._real]
        torch._foreach_lerp_(averages, [part_of(theirs) for _, theirs in self._real], 1 - stays)

    @torch.no_grad()
    def settled(self) -> nn.Module:
        """The network of the average; what is no real number, as counts, is the latest."""
        for ours, theirs in self._pairs:
            if not ours.is_floating_point():
                ours.copy_(theirs)
        return self.network

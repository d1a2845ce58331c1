"""How far a model's answers are from float's, as a loss without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgedl.core.stats import probabilities

SUM_ERROR, TINY = 1e-2, 1e-8


@dataclass(frozen=True)
class Part:
    """What the loss counts of one output.

    Attributes:
        channels: along `axis`, those that are counted; all where None.
        power: the mean square of float's values, 1 where they are zeros.
        adds_up: whether its rows are probabilities that add up to 1: their divergence counts
            (Kullback and Leibler, On Information and Sufficiency, 1951), since their differences
            say nothing until a class is nearly lost.
    """

    output: str
    axis: int
    channels: Tensor | None
    power: float
    adds_up: bool

    def loss(self, made: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        """How far outputs by name are from float's, one number."""
        ours, theirs = self._counted(made), self._counted(wanted)
        if self.adds_up:
            rows = theirs * (theirs.clamp_min(TINY).log() - ours.clamp_min(TINY).log())
            return rows.sum(dim=-1).mean()
        return (ours - theirs).square().mean() / self.power

    def _counted(self, outputs: Mapping[str, Tensor]) -> Tensor:
        whole = outputs[self.output]
        return whole if self.channels is None else whole.index_select(self.axis, self.channels)


def parts_of(wanted: Sequence[Mapping[str, Tensor]]) -> list[Part]:
    """Real outputs, and those channels that are probabilities within one beside coordinates."""
    found: list[Part] = []
    for name, first in wanted[0].items():
        if not first.is_floating_point():
            continue
        power = _mean_square([one[name] for one in wanted])
        found.append(Part(name, 0, None, power, all(_adds_up(one[name]) for one in wanted)))
        if (part := probabilities(first.numpy())) is not None:
            axis, channels = part[0], torch.from_numpy(part[1])
            power = _mean_square([one[name].index_select(axis, channels) for one in wanted])
            found.append(Part(name, axis, channels, power, adds_up=False))
    return found


def _mean_square(outputs: Sequence[Tensor]) -> float:
    return float(torch.stack([one.square().mean() for one in outputs]).mean()) or 1.0


def _adds_up(output: Tensor) -> bool:
    if output.ndim < 2 or output.shape[-1] < 2 or float(output.min()) < 0:
        return False
    return bool(((output.sum(dim=-1) - 1).abs() < SUM_ERROR).all())


def loss_of(
    made: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parts: Sequence[Part]
) -> Tensor:
    """The mean of what the parts count, one number."""
    return torch.stack([part.loss(made, wanted) for part in parts]).mean()

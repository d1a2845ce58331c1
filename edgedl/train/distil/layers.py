"""What layers give while a network answers, and adapters that make it comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import BadValue, nearest
from edgedl.train.distil.losses import alike, angles, attention, distances, squares
from edgedl.train.distil.settings import Distillation, Match, Relations
from edgedl.train.losses import first_of


def heard(
    module: nn.Module, layers: Sequence[str], inputs: tuple[Tensor, ...], who: str
) -> tuple[Any, dict[str, Tensor]]:
    """A network's outputs for inputs, and what each of these layers gave, the last time it ran; of
    several tensors the first.

    Args:
        layers: dotted names.
        who: the network, for errors.

    Raises:
        BadValue: it has no such layer, or did not run it.
    """
    if not layers:
        return module(*inputs), {}
    known = {name: one for name, one in module.named_modules() if name}
    given: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, _inputs: Any, outputs: Any) -> None:
        given[name] = first_of(outputs)

    hooks = []
    try:
        for name in layers:
            if name not in known:
                raise BadValue(f"{who} has no layer `{name}`", hint=nearest(name, known))
            hooks.append(known[name].register_forward_hook(partial(keep, name)))
        outputs = module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if name not in given:
            raise BadValue(f"{who} does not run its layer `{name}`", hint="name another layer")
    return outputs, given


def axis_of(match: Match, ours: torch.Size, theirs: torch.Size) -> int:
    """The axis that channels lie along, as `Match` says it."""
    if match.axis is not None:
        return match.axis
    if len(ours) != 3 or len(theirs) != 3:
        return 1
    unlike = [axis for axis in (1, 2) if ours[axis] != theirs[axis]]
    return 1 if unlike in ([1], [1, 2]) else 2


def check_match(match: Match, ours: torch.Size, theirs: torch.Size, places: bool) -> int:
    """Check that what two layers give for a batch can be compared; the axis of channels.

    Args:
        places: whether there must be some beside the channels.

    Raises:
        BadValue: it cannot.
    """
    axis = axis_of(match, ours, theirs)
    least = 3 if places else 2
    if len(ours) == len(theirs) >= max(least, axis + 1):
        rest = [(a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True))
                if i not in (0, axis)]  # fmt: skip
        larger, smaller = (all(a >= b for a, b in rest), all(a <= b for a, b in rest))
        if (larger and smaller) or ((larger or smaller) and len(rest) <= 2):
            return axis
    what = "channels and places" if places else "channels"
    raise BadValue(
        f"`{match.student}` gives {_shape(ours)}, the teacher's `{match.theirs}` {_shape(theirs)}",
        hint=f"layers with as many axes, of {what}; `axis` says which holds channels",
    )


class Adapter(nn.Module):
    """A linear map of channels at each place, as a convolution of 1 x 1 is; the identity at first
    where both have as many."""

    def __init__(self, axis: int, ours: int, theirs: int, seed: int) -> None:
        super().__init__()
        self.axis = axis
        random = np.random.default_rng([seed, ours, theirs])
        first = np.eye(ours) if ours == theirs else random.normal(0, ours**-0.5, (theirs, ours))
        self.weight = nn.Parameter(torch.from_numpy(first.astype(np.float32)))
        self.bias = nn.Parameter(torch.zeros(theirs))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, ...] to the same with the teacher's channels, and these at axis 1."""
        return functional.linear(x.movedim(self.axis, -1), self.weight, self.bias).movedim(-1, 1)


class Learner(nn.Module):
    """A network, what some of its layers give, and what adapters make of that.

    Attributes:
        network: that learns.
        adapters: one for each layer whose features are compared, learned along.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: Distillation,
        few: tuple[Tensor, ...],
        given: Mapping[str, Tensor],
        seed: int,
    ) -> None:
        """Looks at what layers give for a `few` samples, and at what the teacher's did.

        Raises:
            BadValue: there is no such layer, or two cannot be compared.
        """
        super().__init__()
        self.network, self._settings = network, settings
        self._layers = tuple(dict.fromkeys(match.student for match in settings.layers))
        with torch.no_grad():
            _, ours = heard(network.eval(), self._layers, few, "the network")
        self.adapters, self._channels = nn.ModuleList(), list[int]()
        for i, match in enumerate(settings.features):
            one, other = ours[match.student], given[match.theirs]
            axis = check_match(match, one.shape, other.shape, places=False)
            made = Adapter(axis, one.shape[axis], other.shape[axis], seed + i)
            self.adapters.append(made.to(one.device))
            self._channels.append(axis)
        self._axes = [
            check_match(m, ours[m.student].shape, given[m.theirs].shape, places=True)
            for m in settings.attention
        ]

    def forward(self, *inputs: Tensor) -> tuple[Any, Mapping[str, Tensor], list[Tensor]]:
        """The outputs, what layers gave by name, and the adapted features, channels at axis 1."""
        outputs, given = heard(self.network, self._layers, inputs, "the network")
        pairs = zip(self.adapters, self._settings.features, strict=True)
        return outputs, given, [adapter(given[match.student]) for adapter, match in pairs]

    def losses(
        self,
        given: Mapping[str, Tensor],
        adapted: Sequence[Tensor],
        theirs: Mapping[str, Tensor],
    ) -> list[Tensor]:
        """What the layers lack to the teacher's, weighted, [batch] each."""
        found = []
        for match, one, axis in zip(self._settings.features, adapted, self._channels, strict=True):
            wanted = theirs[match.theirs].movedim(axis, 1)
            found.append(match.weight * squares(*alike(one, wanted)))
        for match, axis in zip(self._settings.attention, self._axes, strict=True):
            two = given[match.student], theirs[match.theirs]
            found.append(match.weight * attention(*two, axis))
        said = self._settings.relations
        if said is not None and said.student is not None:
            found += related(said, given[said.student], theirs[said.teacher or said.student])
        return found


def related(settings: Relations, features: Tensor, wanted: Tensor) -> list[Tensor]:
    """What relations of samples lack to the teacher's, weighted, [batch] each."""
    found = []
    if settings.distance:
        found.append(settings.distance * distances(features, wanted))
    if settings.angle:
        found.append(settings.angle * angles(features, wanted))
    return found


def _shape(size: torch.Size) -> str:
    return f"shape {tuple(size[1:])}"

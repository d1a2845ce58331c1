"""A network's outputs and the teacher's that each is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgedl.core.errors import BadValue, nearest
from edgedl.train.distil.losses import soft_classes, soft_flags, squares
from edgedl.train.distil.settings import Distillation, Kind, Match
from edgedl.train.settings import Bce, CrossEntropy, Ctc, Focal, Loss, Mse
from edgedl.train.validate import named

# How far from 1 probabilities may add up, and what stands for none of it.
SUM_ERROR, TINY = 1e-3, 1e-7


@dataclass(frozen=True)
class Pair:
    """One output of the network and one of the teacher.

    Attributes:
        student, teacher: their names.
        weight: as its share in the mean over pairs.
        shape: of one answer of the network.
        kind, axis: what answers are, and the axis that classes lie along.
        ours, theirs: whether they are probabilities already.
    """

    student: str
    teacher: str
    weight: float
    shape: tuple[int, ...]
    kind: Kind
    axis: int
    ours: bool
    theirs: bool

    @property
    def size(self) -> int:
        """Numbers in an answer."""
        return math.prod(self.shape)

    def loss(self, ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
        """What the network's answers lack to the teacher's, [batch]."""
        if self.kind == "values":
            return squares(ours, theirs)
        if self.kind == "flags":
            wanted = torch.logit(theirs.float(), eps=TINY) if self.theirs else theirs
            return soft_flags(ours, wanted, temperature)
        ours = ours.float().clamp_min(TINY).log() if self.ours else ours
        theirs = theirs.float().clamp_min(TINY).log() if self.theirs else theirs
        return soft_classes(ours, theirs, temperature, self.axis)


def pairs_of(
    settings: Distillation,
    outputs: Any,
    answers: Mapping[str, Tensor],
    loss: Loss | None,
    wanted: Tensor | None,
) -> tuple[Pair, ...]:
    """The pairs, by name.

    Args:
        outputs: the network's, of a few samples.
        answers: the teacher's, of some samples.
        loss: that labels have; None where there are none.
        wanted: a label, where there are labels.

    Raises:
        BadValue: names or shapes do not fit.
    """
    ours = dict(named(outputs))
    found = []
    for i, match in enumerate(_matches(settings, ours, answers)):
        one, other = ours[match.student], answers[match.theirs]
        if _plain(one.shape) != _plain(other.shape) or not other.is_floating_point():
            raise _unlike(match, one, other)
        told = loss if i == 0 else None
        axis = match.axis or _axis(one, told)
        even = _adds_up(one, axis), _adds_up(other.reshape(-1, *one.shape[1:]), axis)
        kind = settings.answers or _kind(told, any(even), one, wanted)
        if kind == "classes" and (one.ndim <= axis or one.shape[axis] < 2):
            raise BadValue(
                f"`{match.student}` does not answer with several classes, a sample's shape is"
                f" {tuple(one.shape[1:])}",
                keys=("answers",),
                hint="answers: values, or flags",
            )
        if kind == "flags":
            even = False, bool(((other >= 0) & (other <= 1)).all())
        weight = match.weight
        found.append(Pair(match.student, match.theirs, weight, tuple(one.shape[1:]), kind, axis,
                          *even))  # fmt: skip
    return tuple(found)


def packed(pairs: Sequence[Pair], answers: Mapping[str, Tensor]) -> Tensor:
    """The teacher's answers to the pairs' outputs, side by side: [batch, numbers]."""
    found = (answers[pair.teacher].float() for pair in pairs)
    return torch.cat([one.reshape(len(one), -1) for one in found], dim=1)


def unpacked(pairs: Sequence[Pair], rows: Tensor) -> list[Tensor]:
    """The same, one by one in the network's shapes."""
    parts = torch.split(rows, [pair.size for pair in pairs], dim=1)
    return [part.reshape(-1, *pair.shape) for part, pair in zip(parts, pairs, strict=True)]


def soft(pairs: Sequence[Pair], outputs: Any, rows: Tensor, temperature: float) -> Tensor:
    """The mean of what the outputs lack to packed answers, [batch]."""
    ours = dict(named(outputs))
    total = sum(pair.weight for pair in pairs)
    losses = [
        pair.weight / total * pair.loss(ours[pair.student], theirs, temperature)
        for pair, theirs in zip(pairs, unpacked(pairs, rows), strict=True)
    ]
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)


def _matches(
    settings: Distillation, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[Match, ...]:
    for i, match in enumerate(settings.outputs):
        for name, known, who, key in (
            (match.student, ours, "the network", "student"),
            (match.theirs, theirs, "the teacher", "teacher"),
        ):
            if name not in known:
                raise BadValue(
                    f"{who} has no output `{name}`",
                    keys=("outputs", i, key),
                    hint=nearest(name, known),
                )
    if settings.outputs:
        return settings.outputs
    reals = [name for name, one in ours.items() if one.is_floating_point()]
    if len(ours) == len(theirs) == len(reals) == 1:
        return (Match(student=reals[0], teacher=next(iter(theirs))),)
    if not reals or any(name not in theirs for name in reals):
        raise BadValue(
            f"the network's outputs are {_listed(ours)}, the teacher's {_listed(theirs)}",
            keys=("outputs",),
            hint=f"outputs: [{{student: {next(iter(ours))}, teacher: {next(iter(theirs))}}}]",
        )
    return tuple(Match(student=name) for name in reals)


def _kind(loss: Loss | None, even: bool, output: Tensor, wanted: Tensor | None) -> Kind:
    if isinstance(loss, Focal):
        return "flags" if wanted is not None and wanted.numel() == output[0].numel() else "classes"
    if isinstance(loss, (CrossEntropy, Ctc)):
        return "classes"
    if isinstance(loss, Bce):
        return "flags"
    return "classes" if even and not isinstance(loss, Mse) else "values"


def _axis(output: Tensor, loss: Loss | None) -> int:
    """Where the loss looks for classes; without one, the last axis of three, else that of
    channels."""
    if isinstance(loss, Ctc):
        return output.ndim - 1
    return 2 if output.ndim == 3 and not isinstance(loss, (CrossEntropy, Focal)) else 1


def _adds_up(output: Tensor, axis: int) -> bool:
    if output.ndim <= axis or output.shape[axis] < 2 or not output.is_floating_point():
        return False
    sums = output.float().sum(dim=axis)
    return bool((output >= 0).all()) and bool(((sums - 1).abs() < SUM_ERROR).all())


def _plain(shape: torch.Size) -> tuple[int, ...]:
    """One answer's shape without axes of length 1, which tell nothing."""
    return tuple(length for length in shape[1:] if length != 1)


def _unlike(match: Match, ours: Tensor, theirs: Tensor) -> BadValue:
    shapes = [f"{str(one.dtype).removeprefix('torch.')} of shape {tuple(one.shape[1:])}"
              for one in (ours, theirs)]  # fmt: skip
    return BadValue(
        f"the network's `{match.student}` is {shapes[0]}, the teacher's `{match.theirs}`"
        f" {shapes[1]}",
        keys=("teacher",),
        hint="a teacher of the same classes; or `weight: 0`, and `features` of layers",
    )


def _listed(names: Mapping[str, Tensor]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"

"""A rounded graph as a network that `fit` trains."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.program import CodedTensor, CodedWeight, Coding, Constants, Program
from edgedl.train.coded import (
    Coded,
    round_tensor,
    round_weight,
    scale_of_weight,
)
from edgedl.train.losses import PerSample
from edgedl.train.operators_base import tensor_of

TINY = 1e-8
SUM_ERROR = 1e-2
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Shares of a channel's largest weight that its scale may begin with.
SHARES = tuple(0.3 + 0.02 * i for i in range(36))


class LearnedCoded(Coded):
    """A rounded graph whose parameters are counted in sizes of their own, so that one rate suits
    all: a weight in mean magnitudes of its channel.

    Attributes:
        learned: whether scales of tensors have gradients; else they follow what batches hold.
        frozen: whether ranges stay as they are.
        clips: logarithms of the shares that scales of weights are of what follows from the largest
            of each channel; none where they follow.
    """

    seen: Tensor
    first: Tensor

    def __init__(
        self, program: Program, coding: Coding, *, learned: bool = True, momentum: float = 0.99
    ) -> None:
        super().__init__(program, coding, also=_of_products(program))
        self.learned, self.momentum, self.frozen, self.watches = learned, momentum, False, False
        self.logarithms.requires_grad_(learned)
        self.clips = nn.ParameterList()
        self._clip: dict[str, int] = {}
        self._alike = self._rounded_alike()
        for i, one in enumerate(self._units()):
            self.register_buffer(f"unit_{i}", one, persistent=False)
            with torch.no_grad():
                self.values[i].div_(one)
        count = len(self.groups)
        self.register_buffer("seen", torch.zeros(count))
        self.register_buffer("first", torch.zeros(count))
        self._largest: dict[int, Tensor] = {}
        # By the square root of how many codes there are, as learned step sizes have it.
        self._shares = [0.0] * count
        for tensor in coding.tensors.values():
            codes = max(tensor.highest - tensor.zero_point, tensor.zero_point - tensor.lowest, 1)
            self._shares[self._group[tensor.group]] = codes**-0.5

    def _units(self) -> list[Tensor]:
        """What one of each parameter counts: the mean magnitude of its channel, or of the tensor's
        where it has no channels; biases grow and shrink with their channels' weights."""
        axes: dict[str, tuple[int | None, str]] = {}
        for operation in self.program.operations:
            weight = self.coding.weights.get(operation.name)
            if weight is not None:
                name = operation.inputs[weight.position]
                bias = operation.inputs[2] if len(operation.inputs) > 2 else ""
                axes[name] = (weight.axis, "")
                axes.setdefault(bias, (None, name))
        found: dict[str, Tensor] = {}
        for name in self.moved:
            value = tensor_of(self.program.constants[name])
            mean = value.abs().mean().clamp_min(TINY)
            axis, above = axes.get(name, (None, ""))
            unit = mean
            if axis is not None and value.dim() > 1:
                others = [i for i in range(value.dim()) if i != axis]
                unit = value.abs().mean(dim=others, keepdim=True)
                unit = torch.where(unit > TINY * mean, unit, mean)
            elif above in found and found[above].numel() == value.numel():
                sizes = found[above].reshape(value.shape)
                unit = mean * sizes / sizes.mean()
            found[name] = unit
        return list(found.values())

    def _unit(self, place: int) -> Tensor:
        unit: Tensor = getattr(self, f"unit_{place}")
        return unit

    def _constant(self, name: str) -> Tensor:
        place = self._place.get(name)
        return super()._constant(name) if place is None else self.values[place] * self._unit(place)

    def begin_with(self, constants: Mapping[str, np.ndarray]) -> None:
        with torch.no_grad():
            for name, array in constants.items():
                if (place := self._place.get(name)) is not None:
                    device = self.values[place].device
                    self.values[place].copy_(tensor_of(array).to(device) / self._unit(place))

    @torch.no_grad()
    def learn_scales(self) -> None:
        """Let weights' scales be learned, from where their rounding errors are least on."""
        for name, coded in self._alike.items():
            self._clip[name] = len(self.clips)
            clip = _least_error(self._constant(name), coded).log()
            self.clips.append(nn.Parameter(clip))

    def _weight(self, name: str, coded: CodedWeight) -> Tensor:
        value = self._constant(name)
        scale = scale_of_weight(value, coded)
        if name not in self._clip:
            return round_weight(value, scale)
        clip = self.clips[self._clip[name]]
        clip = (clip.detach() if self.frozen else clip).clamp(max=0)
        rounded: Tensor = _Clipped.apply(value, clip, scale, coded.largest)  # type: ignore[no-untyped-call]
        return rounded

    def _round(self, value: Tensor, coded: CodedTensor) -> Tensor:
        place = self._group[coded.group]
        if self.watches:
            self._watch(value, place, coded)
        logarithm = self.logarithms[place]
        if self.frozen or not self.learned:
            logarithm = logarithm.detach()
        share = self._shares[place] * value.numel() ** -0.5
        return round_tensor(value, logarithm, self._steps[place], coded, share)

    @torch.no_grad()
    def _watch(self, value: Tensor, place: int, coded: CodedTensor) -> None:
        """The least scale of a group that holds all that this batch has."""
        low, high = coded.lowest - coded.zero_point, coded.highest - coded.zero_point
        least, most = value.aminmax()
        scale = torch.maximum(most / high if high else most * 0, least / low if low else least * 0)
        known = self._largest.get(place)
        self._largest[place] = scale if known is None else torch.maximum(known, scale)

    @torch.no_grad()
    def follow(self) -> None:
        """Move ranges as the batch that was just seen says."""
        for place, largest in self._largest.items():
            self.seen[place] = torch.lerp(largest, self.seen[place], self.momentum)
            if float(self.first[place]) > 0 and float(self.seen[place]) > 0:
                self.logarithms[place].copy_((self.seen[place] / self.first[place]).log())
        self._largest = {}

    @torch.no_grad()
    def remember(self, batches: int) -> None:
        """Add what the batch that was just seen holds to what ranges are at first."""
        for place, largest in self._largest.items():
            self.first[place] += (largest - self.first[place]) / (batches + 1)
            self.seen[place] = self.first[place]
        self._largest = {}

    @torch.no_grad()
    def constants(self) -> dict[str, np.ndarray]:
        """The parameters that are constants of the program, by name: rounded where all that read
        them round them alike, so that whoever rounds them again finds the same codes."""
        found = {}
        for name in self.moved:
            coded = self._alike.get(name)
            value = self._constant(name) if coded is None else self._weight(name, coded)
            array = np.ascontiguousarray(value.detach().cpu().numpy())
            found[name] = array.astype(self.program.constants[name].dtype)
        return found

    def _rounded_alike(self) -> dict[str, CodedWeight]:
        """Parameters that all of their readers round alike, and how."""
        ways: dict[str, set[CodedWeight | None]] = {}
        for operation in self.program.operations:
            coded = self.coding.weights.get(operation.name)
            for position, name in enumerate(operation.inputs):
                own = coded if coded is not None and coded.position == position else None
                ways.setdefault(name, set()).add(own)
        found = {}
        for name in self.moved:
            [way, *others] = ways[name]
            if way is not None and not others:
                found[name] = way
        return found


def _of_products(program: Program) -> list[str]:
    """Constant weights and biases of products, also of those that compute in float."""
    return [
        name
        for operation in program.operations
        if operation.kind in PRODUCTS and not operation.domain
        for name in operation.inputs[1:3]
        if name in program.constants
    ]


def _least_error(value: Tensor, coded: CodedWeight) -> Tensor:
    """The share of each channel's largest weight whose grid is nearest to the weights."""
    scale = scale_of_weight(value, coded)
    others = [i for i in range(value.dim()) if i != coded.axis] if coded.axis is not None else None
    best = least = None
    for share in SHARES:
        grid = scale * share
        error = (
            (value / grid).round().clamp(-coded.largest, coded.largest) * grid - value
        ).square()
        lost = error.sum() if others is None else error.sum(dim=others, keepdim=True)
        lost = lost.reshape(scale.shape)
        if least is None or best is None:
            least, best = lost, torch.full_like(scale, share)
        else:
            best = torch.where(lost <= least, share, best)
            least = torch.minimum(lost, least)
    assert best is not None
    return best


class _Clipped(torch.autograd.Function):
    """Weights on a grid whose end is a share of the largest, with a gradient for its logarithm."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, clip: Tensor, scale: Tensor, largest: int) -> Tensor:
        grid = scale * clip.exp()
        codes = weight / grid
        rounded = codes.round().clamp_(-largest, largest).mul_(grid)
        ctx.save_for_backward(weight, rounded, codes.abs_() <= largest + 0.5)
        ctx.shape, ctx.share = clip.shape, (weight.numel() / clip.numel() * largest) ** -0.5
        return rounded

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weight, rounded, inside = ctx.saved_tensors
        passed = gradient * inside
        whole = (gradient * rounded - passed * weight).sum_to_size(ctx.shape)
        return passed, whole * ctx.share, None, None


class _Answers(dict[str, Tensor]):
    """The float model's answers to the last batch, which a network shares with the average of its
    weights: the loss is one's, whichever of them answered."""

    def __deepcopy__(self, memo: object) -> _Answers:
        return self


Task = Callable[[torch.device], PerSample]


class Learner(nn.Module):
    """A rounded graph that takes its inputs in order, each with a batch axis of any size, and gives
    a tensor, or a dict of them where there are several; its loss is of labels, of the float
    model's answers, or of both.

    Args:
        task: the loss of labels, made for a device; None where there are none.
        distil: the share of the loss that is of the float model's answers.
        names: of the inputs, in the order that they come in.
        classes: whether the first output is scores of classes.
        squares: whether the loss of labels is a mean square: it counts by the power of the float
            model's answers then, as theirs does.
        samples_until_frozen: how many are learned from until ranges stay.
        memo: what else makes this run another than others.
    """

    learned_from: Tensor

    def __init__(
        self,
        program: Program,
        coding: Coding,
        start: Mapping[str, np.ndarray],
        *,
        task: Task | None,
        distil: float,
        names: Sequence[str] = (),
        classes: bool = False,
        squares: bool = False,
        learned: bool = True,
        momentum: float = 0.99,
        samples_until_frozen: float = float("inf"),
        memo: str = "",
    ) -> None:
        super().__init__()
        self.coded = LearnedCoded(program, coding, learned=learned, momentum=momentum)
        self.teacher = Coded(program, Coding({}, {})).requires_grad_(False) if distil else None
        self.coded.begin_with(start)
        self.distil, self.classes, self.until = distil, classes, samples_until_frozen
        self._task, self._task_loss = task, cast("PerSample | None", None)
        self._names = list(names) or [tensor.name for tensor in program.signature.inputs]
        self.squares = squares
        self._wanted = _Answers()
        self._powers: dict[str, Tensor] = {}
        self._adds_up: dict[str, bool] = {}
        self._batches = 0
        self.register_buffer("learned_from", torch.zeros((), dtype=torch.int64))
        told = [
            Constants(program.constants).to_json(),
            Constants(start).to_json(),
            repr(coding),
            memo,
        ]
        self._digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()

    def extra_repr(self) -> str:
        """What tells this graph, plan and way to learn from others."""
        return self._digest

    def forward(self, *inputs: Tensor) -> Tensor | dict[str, Tensor]:
        feed = dict(zip(self._names, inputs, strict=True))
        if self.training:
            self.coded.frozen = int(self.learned_from) >= self.until
            self.learned_from += len(inputs[0])
        if self.teacher is not None:
            with torch.no_grad():
                self._wanted.update(self.teacher(feed, rounded=False))
        self.coded.watches = self.training and not (self.coded.learned or self.coded.frozen)
        outputs: dict[str, Tensor] = self.coded(feed)
        if self.coded.watches:
            self.coded.follow()
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    @torch.no_grad()
    def look(self, inputs: tuple[Tensor, ...]) -> None:
        """What a batch is like before training: the float model's answers, and ranges."""
        feed = dict(zip(self._names, inputs, strict=True))
        for name, answer in (
            self.teacher(feed, rounded=False) if self.teacher is not None else {}
        ).items():
            if answer.is_floating_point():
                power = answer.square().mean()
                known = self._powers.get(name, power)
                self._powers[name] = known + (power - known) / (self._batches + 1)
                self._adds_up[name] = self._adds_up.get(name, True) and _adds_up(answer)
        if not self.coded.learned:
            self.coded.watches = True
            self.coded(feed)
            self.coded.remember(self._batches)
        self._batches += 1

    def looked(self) -> None:
        """No more batches are looked at."""
        self._powers = {name: power.clamp_min(TINY) for name, power in self._powers.items()}

    def loss(self, outputs: Tensor | Mapping[str, Tensor], targets: Tensor) -> Tensor:
        """One figure a sample."""
        by_labels: Tensor | None = None
        if self._task is not None and self.distil < 1:
            first = outputs if isinstance(outputs, Tensor) else next(iter(outputs.values()))
            task = self._task_loss = self._task_loss or self._task(first.device)
            by_labels = task(outputs, targets)
            if self.squares and self._powers:
                by_labels = by_labels / next(iter(self._powers.values()))
        if not self._wanted:
            assert by_labels is not None
            return by_labels
        made = dict.fromkeys(self._wanted, outputs) if isinstance(outputs, Tensor) else outputs
        parts = [self._noise(name, made[name]) for name in self._powers]
        by_float = torch.stack(parts).mean(dim=0)
        return by_float if by_labels is None else by_labels.lerp(by_float, self.distil)

    def _noise(self, name: str, made: Tensor) -> Tensor:
        """How far answers are from float's: the divergence of probabilities, or the noise's power
        over that of the answers."""
        wanted = self._wanted[name]
        if self.classes and wanted.dim() > 1 and name == next(iter(self._powers)):
            gap = functional.kl_div(
                made.log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True
            )
            return gap.sum(1).reshape(len(gap), -1).mean(1)
        if self._adds_up[name]:
            rows = wanted * (wanted.clamp_min(TINY).log() - made.clamp_min(TINY).log())
            return rows.sum(-1).reshape(len(rows), -1).mean(1)
        noise = (made - wanted).square().reshape(len(made), -1).mean(1)
        return noise / self._powers[name]


def _adds_up(output: Tensor) -> bool:
    """Whether its rows are probabilities."""
    if output.dim() < 2 or output.shape[-1] < 2 or float(output.min()) < 0:
        return False
    return bool(((output.sum(dim=-1) - 1).abs() < SUM_ERROR).all())

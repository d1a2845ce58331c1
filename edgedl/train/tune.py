"""Weights and scales of a quantized model, moved until its answers are nearer to float's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import Unsupported
from edgedl.core.memory import available_bytes, usable_cores
from edgedl.core.program import Coding, Program
from edgedl.core.progress import Progress, silent
from edgedl.core.stats import probabilities
from edgedl.train.network import Coded

Arrays = Mapping[str, np.ndarray]
Feed = dict[str, Tensor]
Clock = Callable[[], float]

LARGEST_BATCH = 16
MEMORY_SHARE = 0.25
LEAST_STEPS = 8
WARM_STEPS = 5
ALIKE = 1e-3


@dataclass(frozen=True)
class Settings:
    """How long and how far.

    Attributes:
        visits: how many samples are looked at in all, each as often as comes to that.
        seconds: the most time; fewer visits where that would be exceeded.
        rate: by which share of its size a value moves in a step, at most.
        seed: of the order of samples.
    """

    visits: int = 1000
    seconds: float = 90.0
    rate: float = 1e-3
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "visits": self.visits, "seconds": self.seconds, "rate": self.rate, "seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tuned:
    """What training found.

    Attributes:
        constants: new values, by name.
        scales: of tensors, by name.
        steps: how many were made.
    """

    constants: dict[str, np.ndarray]
    scales: dict[str, float]
    steps: int


def tune(
    program: Program,
    coding: Coding,
    start: Arrays,
    feeds: Sequence[Arrays],
    check: tuple[Arrays, Arrays],
    settings: Settings,
    progress: Progress = silent,
    clock: Clock = time.monotonic,
) -> Tuned:
    """Move the rounded model's weights, biases and scales until its outputs are nearer to those of
    the float model, on samples without labels.

    The whole network is reconstructed at once, as Li et al. do with its blocks (BRECQ, ICLR 2021),
    from all of its quantizers as they are; Adam (Kingma and Ba, ICLR 2015), the rate falling by a
    cosine. The loss is the noise in the outputs by their power, each output's alike, and so are
    probabilities that stand beside coordinates.

    Args:
        start: constants that training begins with where they are not the float model's, by name.
        feeds: inputs to learn from, as the model takes them.
        check: inputs, and the answers that an engine gave to them: what torch computes must agree.

    Raises:
        Unsupported: torch cannot carry the program out, or computes something else, or the seconds
            do not suffice for a few steps.
    """
    torch.set_num_threads(usable_cores())
    network = Coded(program, coding)
    _check_same(network, *check)
    with torch.no_grad():
        wanted = [network(_feed(feed), rounded=False) for feed in feeds]
    parts = _parts(wanted)
    batch = _batch_size(network, [_feed(feed) for feed in feeds[:2]], wanted)
    network.begin_with(start)
    optimizer = torch.optim.Adam(
        [
            {"params": [one], "share": float(one.detach().abs().mean()) or 1.0}
            for one in network.values
        ]
        + [{"params": list(network.logarithms), "share": 1.0}],
        betas=(0.9, 0.99),
    )
    order = torch.Generator().manual_seed(settings.seed)
    steps = max(LEAST_STEPS, settings.visits // LARGEST_BATCH)
    began, step = clock(), 0
    queue: list[int] = []
    while step < steps:
        for group in optimizer.param_groups:
            rising = min(1.0, (step + 1) / WARM_STEPS)
            falling = 0.5 * (1 + math.cos(math.pi * step / steps))
            group["lr"] = settings.rate * group["share"] * rising * falling
        optimizer.zero_grad()
        if len(queue) < LARGEST_BATCH:
            queue += torch.randperm(len(feeds), generator=order).tolist()
        chosen, queue = queue[:LARGEST_BATCH], queue[LARGEST_BATCH:]
        for first in range(0, len(chosen), batch):
            some = chosen[first : first + batch]
            made = network(_stacked([_feed(feeds[i]) for i in some]))
            loss = _loss(made, _stacked([wanted[i] for i in some]), parts)
            (loss * (len(some) / len(chosen))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        taken = (clock() - began) / step
        if step == WARM_STEPS:
            steps = min(steps, int(settings.seconds / taken))
            if steps < LEAST_STEPS:
                raise Unsupported(
                    f"a step of training takes {taken:.0f} s here",
                    hint="`--effort max` allows more time",
                )
        progress("tuning weights and scales", step, steps)
    return Tuned(network.constants(), network.scales(), step)


def _feed(arrays: Arrays) -> Feed:
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def _check_same(network: Coded, feed: Arrays, answers: Arrays) -> None:
    with torch.no_grad():
        made = network(_feed(feed), rounded=False)
    for name, answer in _feed(answers).items():
        if made[name].shape == answer.shape and _alike(made[name], answer):
            continue
        raise Unsupported(
            f"torch computes `{name}` otherwise than the engine does",
            hint="weights and scales stay as they were found without it",
        )


# An output, the axis of its channels, and those that count as an output of their own.
Part = tuple[str, int, Tensor | None, float]


def _parts(wanted: Sequence[Mapping[str, Tensor]]) -> list[Part]:
    """What the loss counts: real outputs, those that are probabilities within one too, each with
    its mean power."""
    found: list[Part] = []
    for name, first in wanted[0].items():
        if not first.is_floating_point():
            continue
        kinds: list[tuple[int, Tensor | None]] = [(0, None)]
        if (part := probabilities(first.numpy())) is not None:
            kinds.append((part[0], torch.from_numpy(part[1])))
        for axis, channels in kinds:
            powers = [_chosen(one[name], axis, channels).square().mean() for one in wanted]
            found.append((name, axis, channels, float(torch.stack(powers).mean()) or 1.0))
    return found


def _chosen(output: Tensor, axis: int, channels: Tensor | None) -> Tensor:
    return output if channels is None else output.index_select(axis, channels)


def _loss(
    made: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parts: Sequence[Part]
) -> Tensor:
    losses = [
        (_chosen(made[name], axis, channels) - _chosen(wanted[name], axis, channels))
        .square()
        .mean()
        / power
        for name, axis, channels, power in parts
    ]
    return torch.stack(losses).mean()


def _stacked(feeds: Sequence[Mapping[str, Tensor]]) -> Feed:
    return {name: torch.cat([one[name] for one in feeds]) for name in feeds[0]}


def _batch_size(network: Coded, two: Sequence[Feed], wanted: Sequence[Feed]) -> int:
    """How many samples go through the network at once: one where two together are not answered as
    they are apart, and no more than memory has room for."""
    if len(two) < 2:
        return 1
    try:
        with torch.no_grad():
            made = network(_stacked(two), rounded=False)
    except (RuntimeError, IndexError, ValueError):
        return 1
    apart = _stacked(wanted[:2])
    for name, both in made.items():
        if both.shape != apart[name].shape or not _alike(both, apart[name]):
            return 1
    free = available_bytes()
    if free is None:
        return LARGEST_BATCH
    return max(1, min(LARGEST_BATCH, int(MEMORY_SHARE * free) // _kept_bytes(network, two[0])))


def _alike(made: Tensor, wanted: Tensor) -> bool:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return not wanted.numel() or float((made - wanted).abs().max()) <= ALIKE * (size or 1.0)


def _kept_bytes(network: Coded, feed: Feed) -> int:
    """What one sample leaves in memory for its gradients."""
    sizes = {parameter.data_ptr(): 0 for parameter in network.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        sizes.setdefault(tensor.data_ptr(), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(feed)
    return max(1, sum(sizes.values()))

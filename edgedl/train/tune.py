"""Weights and scales of a quantized model, moved until its answers are nearer to float's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import EdgeError, Unsupported, first_line
from edgedl.core.memory import available_bytes, usable_cores
from edgedl.core.program import Coding, Program
from edgedl.core.progress import Progress, silent
from edgedl.core.stats import probabilities
from edgedl.core.units import format_bytes
from edgedl.train.coded import Coded

Arrays = Mapping[str, np.ndarray]
Feed = dict[str, Tensor]
Clock = Callable[[], float]

LARGEST_BATCH = 16
MEMORY_SHARE = 0.25
LEAST_STEPS = 8
WARM_STEPS = 5
# How often samples are looked at that are not learned from, and how many.
LOOKS, MOST_HELD = 6, 16
THIRD, SLOWER = 3, 4.0
ALIKE = 1e-3
# So many forward passes take as long as one with its way back, and so many answers tell it.
BACKWARD, FIRST = 3, 4
# Weights, their gradients, Adam's two moments, what is gone back to, and the rounded ones.
COPIES = 7
UNTRAINED = "weights and scales stay as they were found without it"
SUM_ERROR, TINY = 1e-2, 1e-8


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
        before, after: the loss on samples that were not learned from, an eighth; on all where
            there are fewer than eight.
    """

    constants: dict[str, np.ndarray]
    scales: dict[str, float]
    steps: int
    before: float
    after: float


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
    cosine. The loss is the noise in each output by its power, or the divergence of probabilities;
    those that stand beside coordinates count as an output of their own. Some of the samples are not
    learned from: what is nearest on these is given, and where nothing was nearer after a third of
    the steps, the rest begins anew, more slowly.

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
    try:
        _check_same(network, *check)
        return _trained(network, start, [_feed(feed) for feed in feeds], settings, progress, clock)
    except EdgeError:
        raise
    except Exception as error:
        said = first_line(error, 200)
        raise Unsupported(f"torch failed on this graph ({said})", hint=UNTRAINED) from error


def _trained(
    network: Coded,
    start: Arrays,
    feeds: Sequence[Feed],
    settings: Settings,
    progress: Progress,
    clock: Clock,
) -> Tuned:
    order = torch.Generator().manual_seed(settings.seed)
    feeds = [feeds[i] for i in torch.randperm(len(feeds), generator=order).tolist()]
    wanted = _answers(network, feeds, settings.seconds, progress, clock)
    parts = _parts(wanted)
    if not parts:
        raise Unsupported("no output of the model has real values", hint=UNTRAINED)
    batch = _batch_size(network, feeds, wanted)
    held = min(MOST_HELD, len(feeds) // 8)
    pairs = list(zip(feeds, wanted, strict=True))
    unseen, seen = pairs[:held], pairs[held:]
    looked_at = unseen or seen

    def lost() -> float:
        with torch.no_grad():
            losses = [
                float(_loss(network(_stacked(f)), _stacked(w), parts)) * len(f)
                for f, w in _batches(looked_at, batch)
            ]
        return sum(losses) / len(looked_at)

    network.begin_with(start)
    first = best = lost()
    if not math.isfinite(first):
        raise Unsupported("the rounded model's outputs are not finite in torch", hint=UNTRAINED)
    found = network.state()
    rate, began, step, since = settings.rate, clock(), 0, 0
    steps = max(LEAST_STEPS, settings.visits // LARGEST_BATCH)
    optimizer = _optimizer(network)
    queue: list[int] = []
    while step < steps:
        rising = min(1.0, (step - since + 1) / WARM_STEPS)
        falling = 0.5 * (1 + math.cos(math.pi * (step - since) / (steps - since)))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"] * rising * falling
        optimizer.zero_grad()
        if len(queue) < LARGEST_BATCH:
            queue += torch.randperm(len(seen), generator=order).tolist()
        chosen, queue = queue[:LARGEST_BATCH], queue[LARGEST_BATCH:]
        for some, answers in _batches([seen[i] for i in chosen], batch):
            loss = _loss(network(_stacked(some)), _stacked(answers), parts)
            (loss * (len(some) / len(chosen))).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        step += 1
        if step == WARM_STEPS:
            taken = (clock() - began) / step
            steps = min(steps, int(settings.seconds / taken))
            if steps < LEAST_STEPS:
                raise _too_slow(taken)
        progress("tuning weights and scales", step, steps)
        if step in {since + (steps - since) * i // LOOKS for i in range(1, LOOKS + 1)}:
            now = lost()
            if now < best:
                best, found = now, network.state()
            elif best == first and step - since >= (steps - since) // THIRD:
                network.go_back(found)
                optimizer, rate, since = _optimizer(network), rate / SLOWER, step
    network.go_back(found)
    return Tuned(network.constants(), network.scales(), step, first, best)


def _answers(
    network: Coded, feeds: Sequence[Feed], seconds: float, progress: Progress, clock: Clock
) -> list[Feed]:
    """What the float model answers.

    Raises:
        Unsupported: by the time that the first take, a few steps would take longer than allowed.
    """
    began = clock()
    found: list[Feed] = []
    for feed in feeds:
        with torch.no_grad():
            found.append(network(feed, rounded=False))
        progress("float's answers in torch", len(found), len(feeds))
        if len(found) == FIRST:
            step = (clock() - began) / FIRST * BACKWARD * LARGEST_BATCH
            if step * LEAST_STEPS > seconds:
                raise _too_slow(step)
    return found


def _too_slow(step_seconds: float) -> Unsupported:
    return Unsupported(
        f"a step of training takes {step_seconds:.0f} s here",
        hint="`--effort max` allows more time",
    )


def _optimizer(network: Coded) -> torch.optim.Adam:
    """Each constant moves by shares of its mean magnitude, scales by shares of themselves."""
    groups = [
        {"params": [one], "share": float(one.detach().abs().mean()) or 1.0}
        for one in network.values
    ]
    groups += [{"params": [one], "share": 1.0} for one in network.logarithms]
    return torch.optim.Adam(groups, betas=(0.9, 0.99))


def _batches(
    pairs: Sequence[tuple[Feed, Feed]], size: int
) -> Iterator[tuple[list[Feed], list[Feed]]]:
    """Neighbours of the same shapes, no more than so many at once."""
    waiting: list[tuple[Feed, Feed]] = []
    for pair in pairs:
        if waiting and (len(waiting) == size or _shapes(pair) != _shapes(waiting[0])):
            yield [feed for feed, _ in waiting], [answer for _, answer in waiting]
            waiting = []
        waiting.append(pair)
    if waiting:
        yield [feed for feed, _ in waiting], [answer for _, answer in waiting]


def _shapes(pair: tuple[Feed, Feed]) -> list[torch.Size]:
    return [value.shape for part in pair for value in part.values()]


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
            hint=UNTRAINED,
        )


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
        ours, theirs = self._counted(made), self._counted(wanted)
        if self.adds_up:
            rows = theirs * (theirs.clamp_min(TINY).log() - ours.clamp_min(TINY).log())
            return rows.sum(dim=-1).mean()
        return (ours - theirs).square().mean() / self.power

    def _counted(self, outputs: Mapping[str, Tensor]) -> Tensor:
        whole = outputs[self.output]
        return whole if self.channels is None else whole.index_select(self.axis, self.channels)


def _parts(wanted: Sequence[Mapping[str, Tensor]]) -> list[Part]:
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


def _loss(
    made: Mapping[str, Tensor], wanted: Mapping[str, Tensor], parts: Sequence[Part]
) -> Tensor:
    return torch.stack([part.loss(made, wanted) for part in parts]).mean()


def _stacked(feeds: Sequence[Mapping[str, Tensor]]) -> Feed:
    if len(feeds) == 1:
        return dict(feeds[0])
    return {name: torch.cat([one[name] for one in feeds]) for name in feeds[0]}


def _batch_size(network: Coded, feeds: Sequence[Feed], wanted: Sequence[Feed]) -> int:
    """How many samples go through the network at once: one where two together are not answered as
    they are apart, and no more than memory has room for.

    Raises:
        Unsupported: it has no room for one.
    """
    free = available_bytes()
    largest = max(feeds, key=lambda feed: sum(value.numel() for value in feed.values()))
    one = _kept_bytes(network, largest)
    fixed = COPIES * sum(parameter.nbytes for parameter in network.parameters())
    if free is not None and fixed + one > free:
        raise Unsupported(
            f"training takes about {format_bytes(fixed + one)} of memory, and"
            f" {format_bytes(free)} are free",
            hint=UNTRAINED,
        )
    most = LARGEST_BATCH if free is None else int(MEMORY_SHARE * free) // one
    pairs = list(zip(feeds, wanted, strict=True))
    two = next((some for some in _batches(pairs, 2) if len(some[0]) > 1), None)
    if two is None:
        return 1
    try:
        with torch.no_grad():
            made = network(_stacked(two[0]), rounded=False)
        apart = _stacked(two[1])
    except (RuntimeError, IndexError, ValueError):
        return 1
    for name, both in made.items():
        if both.shape != apart[name].shape or not _alike(both, apart[name]):
            return 1
    return max(1, min(LARGEST_BATCH, most))


def _alike(made: Tensor, wanted: Tensor) -> bool:
    if not wanted.is_floating_point():
        return torch.equal(made, wanted)
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

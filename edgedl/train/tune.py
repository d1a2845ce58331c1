"""Weights and scales of a quantized model, moved until its answers are nearer to float's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import EdgeError, Unsupported, first_line
from edgedl.core.memory import available_bytes, usable_cores
from edgedl.core.program import Coding, Program
from edgedl.core.progress import Progress, silent
from edgedl.core.units import format_bytes
from edgedl.train.coded import Coded
from edgedl.train.memory import kept_bytes
from edgedl.train.nearness import Part, loss_of, parts_of

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
    parts = parts_of(wanted)
    if not parts:
        raise Unsupported("no output of the model has real values", hint=UNTRAINED)
    batch = _batch_size(network, feeds, wanted)
    held = min(MOST_HELD, len(feeds) // 8)
    pairs = list(zip(feeds, wanted, strict=True))
    unseen, seen = pairs[:held], pairs[held:]
    lost = partial(_mean_loss, network, unseen or seen, batch, parts)
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
        _set_rates(optimizer, rate, step - since, steps - since)
        if len(queue) < LARGEST_BATCH:
            queue += torch.randperm(len(seen), generator=order).tolist()
        chosen, queue = queue[:LARGEST_BATCH], queue[LARGEST_BATCH:]
        _learn(network, optimizer, [seen[i] for i in chosen], batch, parts)
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


def _mean_loss(
    network: Coded, pairs: Sequence[tuple[Feed, Feed]], batch: int, parts: Sequence[Part]
) -> float:
    with torch.no_grad():
        losses = [
            float(loss_of(network(_stacked(some)), _stacked(answers), parts)) * len(some)
            for some, answers in _batches(pairs, batch)
        ]
    return sum(losses) / len(pairs)


def _set_rates(optimizer: torch.optim.Adam, rate: float, step: int, steps: int) -> None:
    """Each group's share of a rate that rises for a few steps, and falls by half a cosine."""
    rising = min(1.0, (step + 1) / WARM_STEPS)
    falling = 0.5 * (1 + math.cos(math.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"] * rising * falling


def _learn(
    network: Coded,
    optimizer: torch.optim.Adam,
    pairs: Sequence[tuple[Feed, Feed]],
    batch: int,
    parts: Sequence[Part],
) -> None:
    """One step, on as many samples at once as memory holds."""
    optimizer.zero_grad()
    for some, answers in _batches(pairs, batch):
        loss = loss_of(network(_stacked(some)), _stacked(answers), parts)
        (loss * (len(some) / len(pairs))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


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
    one = max(1, kept_bytes(network, partial(network, largest)))
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

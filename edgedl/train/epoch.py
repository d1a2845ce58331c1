"""The batches of an epoch: which samples each holds, and what chance changes in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from edgedl.core.errors import BadValue
from edgedl.train.augment import Batch, augmented
from edgedl.train.batches import Data, groups_of, order_of
from edgedl.train.processes import Processes
from edgedl.train.settings import Fit


def groups_in(
    data: Data, labels: np.ndarray | None, settings: Fit, seed: int, epoch: int, processes: int
) -> list[np.ndarray]:
    """The places of each step's samples, of all processes together: int64 of shape [batch] each.

    Raises:
        BadValue: there is not one for each process, or classes to balance are not there.
    """
    if min(settings.batch, len(data)) < processes:
        raise BadValue(
            f"a batch of {min(settings.batch, len(data))} for {processes} processes",
            keys=("batch",),
            hint="at least one sample for each process",
        )
    if not settings.balance:
        return groups_of(order_of(len(data), seed, epoch), settings.batch, whole=True)
    if labels is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadValue(
            "`balance` needs one class index a sample", keys=("balance",), hint="balance: false"
        )
    return groups_of(order_of(len(data), seed, epoch, labels), settings.batch, whole=True)


def stream(
    data: Data,
    settings: Fit,
    seed: int,
    has_boxes: bool,
    turn: int,
    processes: Processes,
    prepare: Callable[[Batch], Batch],
    parts: Sequence[np.ndarray],
    first: int,
) -> Iterator[Batch]:
    """This process's batches of an epoch from one on, changed by chance as epoch `turn` has it.

    Args:
        has_boxes: whether labels are boxes, which move as their images do.
        parts: the places of this process's samples, of each step.
        first: the step to begin at.
    """
    for step, batch in enumerate(data.stream(parts[first:]), first):
        if settings.augment:
            dice = _dice(processes.device, seed, turn, step, processes.rank)
            batch = augmented(settings.augment, batch, dice, data.names[0], has_boxes=has_boxes)
        batch = prepare(batch)
        yield batch
        del batch  # its memory serves the next one


def prepared(batch: Batch, *, channels_last: bool) -> Batch:
    """The batch, its images in memory as the network's weights are."""
    return batch.channels_last() if channels_last else batch


def suspects(data: Data, groups: list[np.ndarray], step: int) -> str:
    """What in a step's batch is not finite, as a hint; empty where all of it is."""
    for place in groups[step]:
        batch = data.batch(np.array([place]))
        reals = [t for t in (*batch.inputs, batch.targets) if t.is_floating_point()]
        if not all(bool(torch.isfinite(one).all()) for one in reals):
            return f"sample {data.samples.rows[place]} or its label is not finite: remove it"
    return ""


def _dice(device: torch.device, seed: int, epoch: int, step: int, rank: int) -> torch.Generator:
    """What augments one batch: the same again, whoever comes to it and when."""
    drawn = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(drawn[0] >> np.uint64(1)))

"""What a step decides on, made of what training has."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.layers import Price
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.augment import Batch
from edgedl.train.batches import groups_of, open_data, order_of
from edgedl.train.distil.settings import Distillation
from edgedl.train.losses import chosen, loss_of
from edgedl.train.settings import Fit
from edgedl.train.shrink.drawn import drawn_loss
from edgedl.train.shrink.step import Ground


def ground_of(
    network: nn.Module,
    train: Samples,
    settings: Fit,
    *,
    distil: Distillation | None = None,
    price: Price | None = None,
    seed: int = 0,
    keeps_zeros: bool = False,
    progress: Progress = silent,
) -> Ground:
    """The ground of a network that is trained so.

    Args:
        keeps_zeros: see `Ground`.
        distil: how a teacher teaches; where it does so alone, the loss is against what the network
            itself answers, see `drawn_loss`.

    Raises:
        BadOption: the user's own loss cannot be loaded.
    """
    labels = None if settings.target == "input" else train.chosen_labels
    alone = all(one is None for one in (settings.loss, settings.target, labels))
    if distil is not None and alone:
        drawn_by = drawn_loss(distil.answers, seed)
        return Ground(train, drawn_by, price, "answers", seed, progress, keeps_zeros)
    wanted = chosen(settings.loss, network, labels)
    each = loss_of(wanted, labels, device_of(network), network)

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return each(outputs, targets).mean()

    return Ground(train, loss, price, settings.target, seed, progress, keeps_zeros)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters lie."""
    return next((one.device for one in network.parameters()), torch.device("cpu"))


def drawn(network: nn.Module, ground: Ground, count: int, size: int) -> list[Batch]:
    """Some of the training samples, drawn by the seed, in batches on the network's device."""
    device = device_of(network)
    rows = np.sort(order_of(len(ground.train), ground.seed, 0)[:count])
    # where a teacher alone teaches, the loss draws targets of its own
    target = None if ground.target == "answers" else ground.target
    data = open_data(ground.train.take(rows), device, target=target, progress=ground.progress)
    return list(data.stream(groups_of(np.arange(len(rows)), size, whole=False)))

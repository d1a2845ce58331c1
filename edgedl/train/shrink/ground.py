"""What a step decides on, made of what training has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedl.core.layers import Price
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.distil.settings import Distillation
from edgedl.train.losses import chosen, loss_of
from edgedl.train.settings import Fit
from edgedl.train.shrink.drawn import drawn_loss
from edgedl.train.shrink.step import Ground


def ground_of(
    network: nn.Module,
    train: Samples,
    validation: Samples,
    settings: Fit,
    *,
    folder: Path,
    price: Price | None = None,
    distil: Distillation | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Ground:
    """The ground of a network that is trained so.

    Args:
        distil: how the network is taught, where the teacher alone teaches: then its loss is
            against what its own answers say, see `drawn_loss`.

    Raises:
        BadOption: the user's own loss cannot be loaded.
    """
    if distil is not None:
        drawn = drawn_loss(distil.answers, seed)
        return Ground(train, validation, drawn, price, folder, seed, progress)
    labels = None if settings.target == "input" else train.chosen_labels
    wanted = chosen(settings.loss, network, labels)
    each = loss_of(wanted, labels, torch.device("cpu"), network)

    def loss(outputs: Any, targets: Tensor) -> Tensor:
        return each(outputs, targets).mean()

    return Ground(train, validation, loss, price, folder, seed, progress)

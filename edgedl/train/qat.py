"""Quantization-aware training: the model that ships, its weights and scales trained as it rounds.

What is trained is the exported graph, which has its batch norms folded into the weights before
them: there are no statistics any more that could move, and training sees the biases that ship.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from edgedl.core.errors import BadValue
from edgedl.core.program import Coding, Program
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.batched import batched
from edgedl.train.batches import Data, open_data
from edgedl.train.bounds import above, least, within
from edgedl.train.fit import Fitted, fit
from edgedl.train.learner import Learner
from edgedl.train.losses import chosen, loss_of
from edgedl.train.processes import Processes
from edgedl.train.processes import joined as processes_of
from edgedl.train.settings import (
    Adam,
    Cosine,
    CrossEntropy,
    Fit,
    Focal,
    Mse,
    Optimizer,
    Schedule,
)
from edgedl.train.validate import Figure, Score, rehearse, validate

LEAST_BITS, MOST_BITS = 2, 8
LEARNING_RATE = 1e-3
# Batches that the running ranges are first taken from.
LOOKED_AT = 8


@dataclass(frozen=True, kw_only=True)
class Qat:
    """How the int8 model is trained: what stands under `qat:`. All else is as under `train:`, but
    that it computes in float32 and stops no earlier.

    Attributes:
        epochs: how many.
        lr: of Adam, where no optimizer is named: by which share of its channel's mean magnitude a
            weight moves in a step, and a scale by which share of itself; 0.001 where None.
        optimizer: another one; its rates are such shares, too.
        schedule: of the rate.
        batch: samples that make one step; None: as under `train:`.
        ranges: of activations: `learned` as in Esser et al., Learned Step Size Quantization (ICLR
            2020), or `running`: the plan's, moving as the largest values of batches do (as in Jacob
            et al., CVPR 2018).
        momentum: how much of a running range stays in a step.
        weight_scales: `follow` the largest magnitude of each channel, or `learned`: a share of it,
            beyond which weights are clipped.
        freeze: the share of training after which ranges and learned scales stay.
        distil: the share of the loss that the float model's answers make, from 0 to 1; 1 where
            there is nothing else to learn from.
        weight_bits: of weights in int8, where they are to have fewer than the plan gives them;
            they are stored in int8 tensors.
    """

    epochs: int = 3
    lr: float | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule = field(default=Cosine())
    batch: int | None = None
    ranges: Literal["learned", "running"] = "learned"
    momentum: float = 0.99
    weight_scales: Literal["follow", "learned"] = "follow"
    freeze: float = 0.75
    distil: float = 0.5
    weight_bits: int = MOST_BITS

    def __post_init__(self) -> None:
        least(self, 1, "epochs")
        within(self, 0, 1, "freeze", "distil", "momentum")
        within(self, LEAST_BITS, MOST_BITS, "weight_bits")
        for name in ("lr", "batch"):
            if getattr(self, name) is not None:
                above(self, 0, name)
        if self.lr is not None and self.optimizer is not None:
            raise BadValue(
                "`lr` is that of Adam, and another optimizer is named",
                keys=("lr",),
                hint="say `lr` within `optimizer`",
            )

    def over(self, wanted: Fit) -> Fit:
        """The settings of its training, beside those of the float network's."""
        return replace(
            wanted,
            epochs=self.epochs,
            batch=self.batch or wanted.batch,
            optimizer=self.optimizer or Adam(lr=self.lr or LEARNING_RATE),
            schedule=self.schedule,
            precision="float32",
            compile=False,
            patience=None,
            loss=None,
        )


@dataclass(frozen=True, eq=False)
class Learnt:
    """What training found.

    Attributes:
        constants: values of constants by name; weights that are rounded are on their grid.
        scales: of tensors, by name.
        metric: what the figures are of.
        before, after: the figure in validation of the model as planned, and of the best epoch.
        better: whether that is better.
        fitted: what `fit` gave.
    """

    constants: dict[str, np.ndarray]
    scales: dict[str, float]
    metric: str
    before: float
    after: float
    better: bool
    fitted: Fitted


def qat(
    program: Program,
    coding: Coding,
    start: Mapping[str, np.ndarray],
    train: Samples,
    validation: Samples,
    wanted: Fit,
    settings: Qat,
    *,
    folder: Path,
    by_labels: bool = True,
    seed: int = 0,
    score: Score | Figure | None = None,
    device: str = "auto",
    progress: Progress = silent,
    clock: Callable[[], float] = time.monotonic,
) -> Learnt:
    """Train a float model's weights and a plan's scales, values rounded as the plan rounds them.

    Killed and called again, it goes on as `fit` does.

    Args:
        program: the float model, its constants those of the float answers that `distil` is about.
        start: constants that training begins with where they are others, by name.
        train, validation: samples as the model takes them, with labels where there are any.
        wanted: how the float network was trained; `settings.over` says what of it counts.
        by_labels: whether labels, or the input where it is the target, can be learned from; the
            float model's answers alone are, where not.
        score: see `fit`.

    Raises:
        Unsupported: an operator cannot be trained through, or does not take samples together; it is
            named. BadSamples, BadCheckpoint, Diverged, EdgeError: as `fit` has them.
    """
    fitted_by = settings.over(wanted)
    first, second = (_tensors(train.feed(i)) for i in (0, len(train) - 1))
    program = batched(program, first, second)
    labels = train.chosen_labels if wanted.target != "input" else None
    by_labels = by_labels and (labels is not None or wanted.target == "input")
    loss = chosen(wanted.loss, torch.nn.Identity(), labels)
    step = min(fitted_by.batch, len(train))
    learner = Learner(
        program,
        coding,
        start,
        task=None if not by_labels else lambda where: loss_of(loss, labels, where),
        distil=settings.distil if by_labels else 1.0,
        names=tuple(first),
        classes=by_labels and isinstance(loss, (CrossEntropy, Focal)),
        squares=isinstance(loss, Mse),
        learned=settings.ranges == "learned",
        momentum=settings.momentum,
        samples_until_frozen=settings.freeze * settings.epochs * (len(train) // step * step),
        memo=f"{settings} {loss}",
    )
    processes = processes_of(device)
    learner.to(processes.device)
    opened = _opened(train, fitted_by, processes, progress)
    _look(learner, opened, fitted_by.batch)
    before = _judged(learner, validation, fitted_by, score, processes, progress)
    if settings.weight_scales == "learned":
        learner.coded.learn_scales()
    fitted = fit(
        learner, train, validation, fitted_by,
        folder=folder, seed=seed, score=score, device=device, progress=progress, clock=clock,
    )  # fmt: skip
    best = max(fitted.history, key=lambda epoch: (epoch.better, -epoch.number))
    return Learnt(
        learner.coded.constants(),
        learner.coded.scales(),
        fitted.metric,
        before[0],
        fitted.best,
        best.better > before[1],
        fitted,
    )


def _tensors(feed: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in feed.items()}


def _opened(samples: Samples, settings: Fit, processes: Processes, progress: Progress) -> Data:
    return open_data(
        samples, processes.device, target=settings.target, memory=settings.memory,
        threads=settings.threads, progress=progress,
    )  # fmt: skip


@torch.no_grad()
def _look(learner: Learner, data: Data, size: int) -> None:
    """What the float model's answers, and the ranges of the rounded one, are like at first."""
    count = min(len(data), LOOKED_AT * size)
    rows = np.linspace(0, len(data) - 1, count).astype(np.int64)
    for i in range(0, count, size):
        learner.look(data.batch(rows[i : i + size]).inputs)
    learner.looked()


def _judged(
    learner: Learner,
    validation: Samples,
    settings: Fit,
    score: Score | Figure | None,
    processes: Processes,
    progress: Progress,
) -> tuple[float, float]:
    """The figure, and the same turned so that more is better, before training."""
    data = _opened(validation, settings, processes, progress)
    rehearse(learner, data, score, lambda batch: batch)
    found = validate(
        learner, data, learner.loss, score, processes, lambda batch: batch, settings.batch
    )
    return found[1], found[2]

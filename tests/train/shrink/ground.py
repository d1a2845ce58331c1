"""What steps decide on, small enough for a blink, and their training, killed and not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from edgedl.core.samples import Samples, from_arrays
from edgedl.train.fit import fit
from edgedl.train.shrink.step import Change, Ground, Price, Step
from tests.train.small import images, settings

PLANS: dict[str, dict[str, Any]] = {
    "adamw": {"ema": 0.9, "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
    "sgd": {
        "channels_last": False,
        "optimizer": {"name": "sgd", "lr": 0.02, "weight_decay": 0.01, "nesterov": True},
    },
}


def ground(train: Samples | None = None, price: Price | None = None) -> Ground:
    return Ground(train or images(64), functional.cross_entropy, price)


def series(count: int, seed: int = 0) -> Samples:
    """The images as series of 16 channels, 8 steps."""
    found = images(count, seed)
    array = found.source.arrays["x"].reshape(count, 16, 8)  # type: ignore[attr-defined]
    return from_arrays({"x": array, "labels": found.labels})


def plain(change: Change) -> Change:
    """As it is once it was written down and read again."""
    read: Change = json.loads(json.dumps(change, allow_nan=False))
    return read


class Stopped(Exception):
    """What stands for a kill."""


def train(network: nn.Module, folder: Path, kind: str, *, stop: int = 0, **given: Samples) -> None:
    """One epoch of 8 steps, a checkpoint at each; ended at one of them."""

    def progress(label: str, done: int, total: int) -> None:
        if label.startswith("epoch") and done == stop:
            raise Stopped

    ticks = itertools.count()
    plan = settings(epochs=1, batch=8, checkpoint_seconds=0.5, **PLANS[kind])
    data = {"train": images(64), "validation": images(20, seed=1), **given}
    fit(
        network, **data, settings=plan, folder=folder, progress=progress,
        clock=lambda: next(ticks),
    )  # fmt: skip


def answers(network: nn.Module, samples: Samples) -> torch.Tensor:
    with torch.no_grad():
        given = torch.from_numpy(samples.source.arrays["x"])  # type: ignore[attr-defined]
        made: torch.Tensor = network.eval()(given)
    return made


def changed(step: Step, network: nn.Module, ground: Ground) -> Change:
    """A step's first round, decided, written down and applied."""
    change = plain(step.decide(network, ground, 0))
    step.apply(network, change)
    return change

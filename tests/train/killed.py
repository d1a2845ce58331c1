"""A run that is killed again and again: `python -m tests.train.killed FOLDER KIND`.

Each try is a process of its own, forked off after the slow imports, that kills itself by SIGKILL at
a call of some Python function, drawn by chance: in a step, in a half-written checkpoint, between a
file and its renaming. It prints which epoch and step the checkpoint was at after each.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.progress import Progress, silent
from edgedl.train.checkpoint import read
from edgedl.train.fit import fit
from tests.train.small import images, rows_of, settings

COMMON: dict[str, Any] = {"epochs": 3, "batch": 8, "clip": 1.0, "checkpoint_seconds": 2.0}
KINDS: dict[str, dict[str, Any]] = {
    "adamw": {
        "ema": 0.95,
        "augment": ["flip", {"name": "crop", "padding": 1}, "noise", "mixup"],
        "schedule": {"name": "cosine", "warmup_epochs": 0.5},
    },
    "sgd": {
        "optimizer": {"name": "sgd", "lr": 0.05, "nesterov": True, "weight_decay": 1e-4},
        "precision": "float16",
        "accumulate": 2,
        "balance": True,
        "memory": 0.0,
        "threads": 1,
    },
}
KILLS = 20


class Chancy(nn.Module):
    """Draws from every generator that there is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.drop, self.last = nn.Dropout(0.3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu().mean(dim=(2, 3))
        if self.training:
            x = x * random.uniform(0.9, 1.1) + np.random.normal() + random.gauss(0, 0.1)
        return self.last(self.drop(x))  # type: ignore[no-any-return]


def train(folder: Path, kind: str, progress: Progress = silent) -> None:
    """With a clock that each look moves on by a second: a checkpoint every few steps."""
    train_on, judged_by = images(60), images(20, seed=1)
    if kind == "sgd":
        train_on = rows_of(train_on)
    ticks = itertools.count()
    plan = settings(**COMMON | KINDS[kind])
    fit(
        Chancy(), train_on, judged_by, plan, folder=folder, seed=4, progress=progress,
        clock=lambda: next(ticks),
    )  # fmt: skip


class Calls:
    """Counts calls of Python functions from the first step on, and kills the process at one."""

    def __init__(self, last: int = -1) -> None:
        self.count, self.last = 0, last

    def __call__(self, label: str, done: int, total: int) -> None:
        if label.startswith("epoch"):
            sys.setprofile(self.see)

    def see(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event == "call"
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, kind: str) -> None:
    torch.set_num_threads(1)
    train(folder / "first", kind)  # what is imported late is imported now
    whole = Calls()
    train(folder / "whole", kind, whole)
    sys.setprofile(None)
    draw = random.Random(7)
    places: list[tuple[int, int]] = []
    while True:
        moment = draw.randint(1, whole.count // 8)
        child = os.fork()
        if not child:
            train(folder / "killed", kind, Calls(moment if len(places) < KILLS else -1))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        last = folder / "killed" / "last.safetensors"
        document = read(last)[1] if last.exists() else {"history": [], "step": 0}
        places.append((len(document["history"]), document["step"]))
    print(json.dumps({"places": places, "status": status}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""What each of two processes does, under torchrun: `-m tests.train.apart FOLDER`."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import EdgeError
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.distil.guide import Guide
from edgedl.train.distil.teacher import module_teacher
from edgedl.train.fit import fit
from edgedl.train.networks.mlp import mlp
from edgedl.train.networks.text_encoder import text_encoder
from edgedl.train.processes import joined
from edgedl.train.shapes import TensorShape
from edgedl.train.sharded import divided, is_divided, part_of
from tests.train.distil.taught import large, told
from tests.train.small import convolutional, images, settings

ADAM = {"name": "adamw", "lr": 3e-3}
# Each of the ways to train that could go another way once weights are divided.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"optimizer": "sgd", "accumulate": 3, "clip": 0.2}),
    "text": ("text", {"optimizer": ADAM, "clip": 0.5, "ema": 0.9}),
    "text_bf16": ("text", {"optimizer": ADAM, "precision": "bf16"}),
    "text_float16": ("text", {"optimizer": ADAM, "precision": "float16", "clip": 0.5}),
    "images": ("images", {"optimizer": {"name": "sgd", "lr": 0.1, "nesterov": True}}),
    "taught": ("images", {"optimizer": "sgd"}),
}
# Among several, the clock is looked at in each 16th step: these epochs have 18.
CHANCY = {"optimizer": ADAM, "ema": 0.9, "checkpoint_seconds": 3.0, "batch": 8}


class Stopped(Exception):
    pass


class Reader(nn.Module):
    """Reads a layer's weights without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(128, 128)])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.layers[0].weight)  # type: ignore[arg-type]


class Scalar(nn.Linear):
    """Has a weight of no axes."""

    def __init__(self) -> None:
        super().__init__(128, 4)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x.flatten(1))


def texts(count: int, seed: int) -> Samples:
    """Rows of 12 ids below 50, in 3 classes, told by an id that all of a class hold."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    ids = random.integers(4, 50, (count, 12))
    ids[:, 9:] = 0
    ids[np.arange(count), random.integers(0, 9, count)] = labels + 1
    return from_arrays({"ids": ids, "labels": labels})


def made(kind: str, seed: int = 1, dropout: float = 0.0) -> tuple[nn.Module, Samples, Samples]:
    """A network, and its samples."""
    torch.manual_seed(seed)
    if kind == "text":
        shape = {"ids": TensorShape((12,), "int64", 50)}
        network = text_encoder(shape, 3, width=33, heads=3, depth=2, dropout=dropout)
        return network, texts(144, 0), texts(31, 1)
    if kind == "mlp":
        network = mlp({"x": TensorShape((2, 8, 8))}, 4, hidden=(128, 96))
        return network, images(144), images(31, seed=1)
    return convolutional(seed, dropout=dropout), images(144), images(31, seed=1)


def run(
    kind: str, folder: Path, divide: str, given: dict[str, Any], *, last: int = -1, **more: Any
) -> None:
    """Train; stop when the clock is looked at for the `last` time."""
    first = os.environ.get("RANK", "0") == "0"
    # unlike first weights: they learn from those of the first process
    network, train, validation = made(kind, 1 if first else 2, more.pop("dropout", 0.0))
    ticks = itertools.count()

    def looked_at() -> float:
        now = next(ticks)
        if now == last:
            raise Stopped
        return float(now)

    plan = settings(**{"epochs": 2, "batch": 48, **given}, divide=divide)
    try:
        found = fit(network, train, validation, plan, folder=folder, clock=looked_at, **more)
    except Stopped:
        return
    rows = [[one.loss, one.validation_loss] for one in found.history]
    kept = {name: tensor.double().sum().item() for name, tensor in network.state_dict().items()}
    rank = os.environ.get("RANK", "0")
    (folder / f"told-{rank}.json").write_text(json.dumps([rows, kept]))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank = os.environ["RANK"]
    for name, (kind, given) in WAYS.items():
        for divide in ("samples", "weights"):
            guide = Guide(told(), module_teacher(large()), folder / "answers")
            more = {"guide": guide} if name == "taught" else {}
            run(kind, folder / f"{name}-{divide}", divide, given, **more)

    for name, stops in (("whole", ()), ("stopped", (20, 25))):
        for last in (*stops, -1):
            run("text", folder / name, "weights", CHANCY, last=last, dropout=0.1)
    # begun here by two, to be gone on with by one; begun by one, gone on with here by two
    run("text", folder / "left", "weights", CHANCY, last=20)
    run("text", folder / "taken", "weights", CHANCY)

    said = []
    for network in (Reader(), Scalar()):
        try:
            plan = settings(divide="weights")
            fit(network, images(64), images(8), plan, folder=folder / type(network).__name__)
        except EdgeError as error:
            said.append(str(error))
    try:
        guide = Guide(told(features={"student": "2"}), module_teacher(large()), folder / "answers")
        run("images", folder / "layers", "weights", {}, guide=guide)
    except EdgeError as error:
        said.append(str(error))
    (folder / f"said-{rank}.json").write_text(json.dumps(said))

    network = made("text")[0]
    parts = [part_of(one).numel() for one in divided(network, joined("cpu")).parameters()]
    assert all(map(is_divided, divided(network, joined("cpu")).parameters()))
    whole = sum(one.numel() for one in network.parameters())
    (folder / f"held-{rank}.json").write_text(json.dumps([sum(parts), whole]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

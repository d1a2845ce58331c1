"""Networks and samples small enough to be trained in a blink."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.fields import from_plain
from edgedl.core.model import Signature
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.settings import Fit


class Row:
    """A source of samples that do not lie in memory."""

    origin = None

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def bind(self, signature: Signature, rows: np.ndarray) -> Row:
        return self

    def load(self, row: int) -> np.ndarray:
        return self.images[row : row + 1]

    def prepare(self, raw: np.ndarray) -> dict[str, np.ndarray]:
        return {"x": raw.astype(np.float32)}

    def digest(self, rows: np.ndarray) -> str:
        return str(float(self.images[rows].sum()))


def images(count: int, seed: int = 0) -> Samples:
    """Images of 2 x 8 x 8, in 4 classes, told by where they are bright."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    found = 0.5 * random.normal(size=(count, 2, 8, 8)).astype(np.float32)
    for label in range(4):
        start = 4 * (label % 2)
        found[labels == label, label // 2, start : start + 4] += 0.6
    return from_arrays({"x": found, "labels": labels})


def rows_of(samples: Samples) -> Samples:
    """The same, out of a source that is asked for each."""
    return Samples(Row(samples.source.arrays["x"]), samples.labels, samples.rows)  # type: ignore[attr-defined]


def convolutional(seed: int = 1, *, dropout: float = 0.2, norm: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def settings(**given: Any) -> Fit:
    """As YAML would give them."""
    return from_plain(Fit, {"epochs": 2, "batch": 32, **given})


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether all are equal, bit for bit."""
    return first.keys() == second.keys() and all(
        one.numpy().tobytes() == second[name].numpy().tobytes() for name, one in first.items()
    )


def bytes_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())

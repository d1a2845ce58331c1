"""Teachers small enough to be trained in a blink, and guides that look at what they do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.fields import from_plain
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.augment import Batch
from edgedl.train.checkpoint import load_weights
from edgedl.train.distil.guide import Guide
from edgedl.train.distil.lesson import Lesson
from edgedl.train.distil.pairs import packed
from edgedl.train.distil.settings import Distillation
from edgedl.train.distil.teacher import ModuleTeacher, SessionTeacher, module_teacher
from edgedl.train.fit import fit
from tests.train.small import images, settings

CHANCES = ["flip", {"name": "crop", "padding": 1}, "noise", "cutout", "mixup"]


def large(seed: int = 7, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(256, classes),
    )


@lru_cache
def _weights() -> dict[str, Tensor]:
    network = large()
    with TemporaryDirectory() as folder:
        plan = settings(epochs=6, optimizer={"name": "adam", "lr": 0.01})
        found = fit(network, images(600, seed=5), images(60, seed=6), plan, folder=Path(folder))
        load_weights(network, found.weights)
    return network.state_dict()


def knowing() -> ModuleTeacher:
    """One that has learned from more samples than its pupils have."""
    network = large()
    network.load_state_dict(_weights())
    return module_teacher(network)


def answering(module: nn.Module, *, single: bool = False, name: str = "logits") -> SessionTeacher:
    """A teacher that stands behind arrays, as an engine does."""

    @torch.no_grad()
    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        [x] = arrays.values()
        if single and len(x) != 1:
            raise ValueError(f"a batch of {len(x)}")
        return {name: module.eval()(torch.from_numpy(x)).numpy()}

    return SessionTeacher("a model's digest", run, ("pixels",))


def told(**given: Any) -> Distillation:
    """As YAML would give it."""
    return from_plain(Distillation, {"teacher": "itself", **given})


def unlabelled(samples: Samples) -> Samples:
    return from_arrays({"x": samples.source.arrays["x"]})  # type: ignore[attr-defined]


@dataclass(frozen=True, eq=False)
class Watching(Guide):
    """A guide that compares kept answers, as handed out, with what the teacher answers now."""

    seen: list[tuple[Tensor, float]] = field(default_factory=list)

    def begin(self, *given: Any) -> Lesson:
        lesson = super().begin(*given)
        lesson.losses = partial(self._watched, lesson, lesson.losses)  # type: ignore[method-assign]
        return lesson

    def _watched(
        self, lesson: Lesson, losses: Callable[..., Tensor], hard: Any, outputs: Any, batch: Batch
    ) -> Tensor:
        if lesson.told.views:
            now = packed(lesson.pairs, lesson.ask(batch.inputs)[0])
            assert batch.answers is not None
            self.seen.append((batch.inputs[0].clone(), float((now - batch.answers).abs().max())))
        return losses(hard, outputs, batch)

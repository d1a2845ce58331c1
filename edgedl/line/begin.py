"""How a recipe begins: its data loaded, its network made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.core.errors import BadOption, BadValue
from edgedl.core.progress import Progress
from edgedl.core.registry import load
from edgedl.core.store import default_store
from edgedl.recipe import Recipe
from edgedl.report.made import Stage
from edgedl.runtime.boxes import Boxes
from edgedl.train.data.load import load as load_data
from edgedl.train.data.settings import seen_from
from edgedl.train.settings import Fit

if TYPE_CHECKING:
    from torch import nn

    from edgedl.benchmark.metrics.metric import Metric
    from edgedl.train.data.dataset import Dataset

STAGES = ("train", "export", "compress", "bench")
# What a task is judged by where the recipe does not say; None: the loss.
USUAL: Mapping[str, str | None] = {
    "classification": "top1",
    "regression": "mse",
    "reconstruction": None,
}


@dataclass(eq=False)
class Line:
    """A recipe on its way: what was made of it so far."""

    recipe: Recipe
    dataset: Dataset
    progress: Progress
    stages: list[Stage] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def metric(self, boxes: Boxes | None) -> Metric | None:
        """What a network is judged by while it learns; None where that is the loss.

        Args:
            boxes: how its outputs hold boxes, where they do.
        """
        name = self.recipe.train.metric or USUAL[self.dataset.task]
        return None if name is None else metric_of(name, boxes)

    @property
    def settings(self) -> Fit:
        """How the network is trained; where the input itself is the target, labels are not."""
        wanted = self.recipe.train
        if self.dataset.task == "reconstruction" and wanted.target is None:
            return replace(wanted, target="input")
        return wanted

    @property
    def judged_by(self) -> str | None:
        """The metric of what ships, by name; None: what the labels suggest."""
        asked = self.recipe.compress
        return (None if asked is None else asked.metric) or self.recipe.train.metric

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """A stage under way: what is put into the list is told of it; `kept` first where its result
        was there already."""
        told: list[str] = []
        began = perf_counter()
        yield told
        kept = told[:1] == ["kept"]
        self.stages.append(Stage(name, told[-1], perf_counter() - began, kept))


def begun(recipe: Recipe, progress: Progress) -> Line:
    """The recipe with its data loaded, split and checked."""
    _check_names(recipe)
    progress("loading data", 0, 1)
    began = perf_counter()
    above = Path() if recipe.where is None else recipe.where.parent
    dataset = load_data(
        seen_from(recipe.data, above),
        seed=recipe.seed,
        cache=default_store().root / "data",
        progress=progress,
    )
    line = Line(recipe, dataset, progress)
    groups = (dataset.train, dataset.validation, dataset.test)
    words = ("to train on", "to validate", "to test")
    sizes = [f"{len(group):,} {word}" for group, word in zip(groups, words, strict=True)]
    line.stages.append(Stage("data", ", ".join(sizes), perf_counter() - began, kept=False))
    line.doubts += dataset.doubts
    return line


def _check_names(recipe: Recipe) -> None:
    """Look names up that would else be looked up once the data is loaded.

    Raises:
        BadValue: there is no such network or metric; the error has the line.
    """
    factory_of: Callable[[str], object] = load("edgedl.train.networks:factory_of", "training")
    try:
        factory_of(recipe.network.name)
    except BadValue as error:
        raise recipe.located(error, "network") from error
    try:
        metric_of(recipe.train.metric or "top1")
    except BadOption as error:
        # What the settings of a known metric lack, a network may say: how it holds boxes.
        if (recipe.train.metric or "") not in METRICS:
            raise recipe.located(error, "train", "metric") from error


def network_of(line: Line) -> nn.Module:
    """The recipe's network with first weights by its seed."""
    recipe, dataset = line.recipe, line.dataset
    build: Callable[..., nn.Module] = load("edgedl.train.networks:build", "training")
    load("torch:manual_seed", "training")(recipe.seed)
    try:
        return build(recipe.network.name, dataset.inputs, dataset.outputs, recipe.network.settings)
    except BadValue as error:
        raise recipe.located(error, "network") from error


def last_stage(recipe: Recipe, until: str) -> str:
    """The last stage: that which was asked for, or the one before what the recipe leaves out."""
    able = [
        stage
        for stage in STAGES
        if not (stage == "compress" and recipe.compress is None)
        and not (stage == "bench" and None in (recipe.compress, recipe.bench))
    ]
    wanted = STAGES.index(until)
    return [stage for stage in able if STAGES.index(stage) <= wanted][-1]

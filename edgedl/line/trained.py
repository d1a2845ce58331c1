"""Training as a stage of the line: kept under all that decides it, by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgedl
from edgedl.core.errors import (
    BadOption,
    BadSamples,
    BadValue,
    Diverged,
    EdgeError,
    Unsupported,
)
from edgedl.core.fields import to_plain
from edgedl.core.own import shown
from edgedl.core.registry import load, version
from edgedl.core.runs import alone, run_folder, tidy_runs
from edgedl.core.store import atomic_write, default_store, key_of
from edgedl.core.units import plural
from edgedl.line.begin import Line, code_of, users_code
from edgedl.line.form import try_export
from edgedl.line.keep import TOLD
from edgedl.train.settings import Fit

if TYPE_CHECKING:
    from torch import nn

    from edgedl.benchmark.metrics.metric import Metric
    from edgedl.train.distil.guide import Guide
    from edgedl.train.validate import Figure

# Settings of training that may change while it goes on: nothing that comes out is another.
FREE = ("checkpoint_seconds", "track", "memory", "threads", "divide")
LOG = "log.jsonl"


def trained(
    line: Line, network: nn.Module, guide: Guide | None, exports: bool = False
) -> tuple[str, Path | None]:
    """The key of the trained weights, and their file; the network has them.

    Args:
        guide: who teaches beside the labels.
        exports: whether it will be exported, and is to be trained only where it can be.

    Returns:
        No file where the recipe says `epochs: 0`: the network is taken as it is made.
    """
    key = _key(line, guide)
    name = shown(line.recipe.network.name)
    if exports and line.settings.epochs and not (run_folder(default_store(), key) / TOLD).exists():
        with users_code(line.recipe):
            try_export(line, network)
    try:
        return key, fitted(line, network, key, line.settings, guide, "train", name)
    except (BadValue, BadOption, BadSamples, Unsupported) as error:
        raise located(line, guide, error, "train") from error
    except Diverged as error:
        raise line.recipe.instead(error, "train") from error


def located(line: Line, guide: Guide | None, error: EdgeError, *keys: str | int) -> EdgeError:
    """What went wrong in training, with the recipe's line: what `distil:` says where it is about
    the teacher, else what stands under these keys."""
    first = error.keys[:1] if isinstance(error, BadValue) else ()
    if guide is not None and first and first[0] in to_plain(guide.settings):
        return line.recipe.located(error, "distil")
    return line.recipe.located(error, *keys)


def _key(line: Line, guide: Guide | None) -> str:
    recipe, dataset = line.recipe, line.dataset
    return key_of(
        stage="train",
        train=dataset.train.digest,
        validation=dataset.validation.digest,
        inputs={name: to_plain(shape) for name, shape in dataset.inputs.items()},
        outputs=[dataset.task, dataset.outputs],
        network=[recipe.network.name, dict(recipe.network.settings)],
        settings=deciding(line.settings),
        code=code_of(recipe),
        seed=recipe.seed,
        versions={"edgedl": edgedl.__version__, "torch": version("torch")},
        **key_of_guide(guide),
    )


def key_of_guide(guide: Guide | None) -> dict[str, Any]:
    """What of a key a teacher makes; nothing without one."""
    if guide is None:
        return {}
    told = {key: value for key, value in to_plain(guide.settings).items() if key != "teacher"}
    return {"distil": told, "teacher": guide.teacher.key}


def deciding(settings: Fit) -> Mapping[str, Any]:
    """Settings of training that decide what comes out, as plain data."""
    return {key: value for key, value in to_plain(settings).items() if key not in FREE}


def fitted(
    line: Line,
    network: nn.Module,
    key: str,
    settings: Fit,
    guide: Guide | None,
    stage: str,
    about: str,
) -> Path | None:
    """Train a network, which then has the weights of its best epoch, in the store's run `key`.

    Args:
        stage: the name of the stage.
        about: what is trained, in words.

    Returns:
        The file of the weights; None where there are no epochs to train.
    """
    count = load("edgedl.train.shrink.weights:parameter_count", "training")(network)
    if not settings.epochs:
        with line.stage(stage) as told:
            told.append(f"{about}, {count:,} parameters, not trained")
        return None
    store = default_store()
    folder = run_folder(store, key)
    fit = load("edgedl.train.fit:fit", "training")
    boxes = load("edgedl.train.networks.deploy:boxes_of", "training")(network)
    metric: Metric | Figure | None = line.metric(boxes)
    if guide is not None and metric is None and line.dataset.task == "unlabelled":
        metric = _agreement(line, network, settings, guide)
    with line.stage(stage) as told, alone(folder, store), users_code(line.recipe):
        done = folder / TOLD
        before = done.exists()
        found = fit(
            network, line.dataset.train, line.dataset.validation, settings,
            folder=folder, seed=line.recipe.seed, score=metric, guide=guide, progress=line.progress,
        )  # fmt: skip
        with atomic_write(done) as there:
            there.write_text(json.dumps({"recipe": line.recipe.name}), encoding="utf-8")
        told += ["kept"] * before
        told.append(
            f"{about}, {count:,} parameters, {plural(found.epochs, 'epoch')},"
            f" {found.metric} {found.best:.4g} in validation{_scale(line)}"
        )
    if leads():
        tidy_runs(store)
    return Path(found.weights)


def leads() -> bool:
    """Whether this process goes on behind training, and speaks: of several that `torchrun` started,
    the first."""
    return int(os.environ.get("RANK", "0")) == 0


def _scale(line: Line) -> str:
    """In words, that a figure is of values in deviations from their mean."""
    standard = line.dataset.standard
    return "" if standard is None else f", of values over their deviation {standard.deviation:.4g}"


def _agreement(line: Line, network: nn.Module, settings: Fit, guide: Guide) -> Figure | None:
    """How often the network answers as its teacher does; None where it does not tell classes."""
    agreement = load("edgedl.train.distil.agreement:agreement", "distilling")
    try:
        found: Figure = agreement(
            guide, network, line.dataset.validation, settings, progress=line.progress
        )
    except Unsupported:
        return None
    return found

"""What of a recipe is wrong, whatever its data holds: told before that is loaded."""

from __future__ import annotations

import os
from collections.abc import Callable

from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.core.errors import BadOption, BadValue, Unsupported
from edgedl.core.registry import load
from edgedl.recipe import Recipe
from edgedl.train.settings import OwnLoss


def check_names(recipe: Recipe) -> None:
    """Look names up that would else be looked up once the data is loaded.

    Raises:
        BadValue: there is no such network, loss or metric; the error has the line.
    """
    factory_of: Callable[[str], object] = load("edgedl.train.networks:factory_of", "training")
    try:
        factory_of(recipe.network.name)
    except BadValue as error:
        raise recipe.located(error, "network") from error
    if isinstance(recipe.train.loss, OwnLoss):
        own_loss: Callable[[str], object] = load("edgedl.train.losses:own_loss", "training")
        try:
            own_loss(recipe.train.loss.name)
        except BadOption as error:
            raise recipe.located(error, "train", "loss") from error
    asked = {"train": recipe.train.metric}
    if recipe.compress is not None:
        asked["compress"] = recipe.compress.metric
    for stage, name in asked.items():
        try:
            metric_of(name or "top1")
        except BadOption as error:
            # What the settings of a known metric lack, a network may say: how it holds boxes.
            if (name or "") not in METRICS:
                raise recipe.located(error, stage, "metric") from error


def check_keys(recipe: Recipe) -> None:
    """Check what keys of a recipe need of one another.

    Raises:
        BadValue: one is missing; the error has the line.
    """
    for place, step in enumerate(recipe.shrink):
        if step.needs_guide and recipe.distil is None:
            error = BadValue("nobody is named who teaches", hint="distil: {teacher: large.yaml}")
            raise recipe.located(error, "shrink", place)
        training = [one.name for one in recipe.shrink[place + 1 :] if one.epochs != 0]
        if step.undone_by_training and training:
            error = BadValue(
                f"`{training[0]}` behind `{step.name}` would train {step.undone_by_training} away",
                hint=f"`{step.name}` last, or `epochs: 0` for what stands behind it",
            )
            raise recipe.located(error, "shrink", place)
    if recipe.distil is not None and recipe.distil.origin == "itself" and not recipe.shrink:
        error = BadValue(
            "`itself` teaches what stands behind training, and nothing does",
            keys=("teacher",),
            hint="a step under `shrink:`, or another teacher; for int8, `qat: {distil: 0.5}`",
        )
        raise recipe.located(error, "distil")
    if recipe.qat is not None and recipe.compress is None:
        error = BadValue(
            "`qat` trains what `compress` makes, and there is none", hint="compress: {}"
        )
        raise recipe.located(error, "qat")


def check_together(recipe: Recipe, until: str) -> None:
    """Check that processes which train together do nothing else.

    Raises:
        Unsupported: the recipe goes on with what is the work of one; the error has the line.
    """
    if until == "train" or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return
    for key in ("shrink", "qat"):
        if getattr(recipe, key):
            error = Unsupported(
                f"`{key}` is the work of one process",
                hint="`--until train` with torchrun, then `edgedl make` without it goes on",
            )
            raise recipe.instead(error, key)

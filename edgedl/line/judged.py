"""What a network is judged by where its recipe does not say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from edgedl.train.settings import Bce, CrossEntropy, Focal

if TYPE_CHECKING:
    from edgedl.recipe import Recipe
    from edgedl.train.data.dataset import Dataset

# Where the recipe does not say; None: the loss.
USUAL: Mapping[str, str | None] = {
    "classification": "top1",
    "regression": "mse",
    "detection": "detection",
    "segmentation": "segmentation",
    "reconstruction": None,
    "unlabelled": None,
}
# A sigmoid is above one half where its logit is above 0.
SIDES = "binary:threshold=0"


def learned_by(recipe: Recipe, dataset: Dataset) -> str | None:
    """The metric of validation samples, by name; None: the loss."""
    if recipe.train.metric is not None:
        return recipe.train.metric
    return SIDES if _tells_sides(recipe, dataset) else USUAL[dataset.task]


def shipped_by(recipe: Recipe, dataset: Dataset) -> str | None:
    """The metric of what ships, by name; None: what the labels suggest, and where the input itself
    is answered, nothing."""
    asked = recipe.compress
    named = (None if asked is None else asked.metric) or recipe.train.metric
    if named is not None:
        return named
    if dataset.normal_only:
        return "anomaly" if _kinds(dataset.test.chosen_labels) == {0, 1} else None
    return SIDES if _tells_sides(recipe, dataset) else None


def takes_logits(recipe: Recipe) -> bool:
    """Whether the loss takes answers for logits, and labels for classes or probabilities, which are
    no values to standardize."""
    return isinstance(recipe.train.loss, (Bce, CrossEntropy, Focal))


def _tells_sides(recipe: Recipe, dataset: Dataset) -> bool:
    """Whether each answer is the logit of a yes or a no."""
    if not isinstance(recipe.train.loss, (Bce, Focal)) or dataset.task != "regression":
        return False
    groups = (dataset.train, dataset.validation, dataset.test)
    return all(_kinds(one.chosen_labels) <= {0, 1} for one in groups)


def _kinds(labels: np.ndarray | None) -> set[float]:
    return set() if labels is None else set(np.unique(labels).tolist())

"""Data by its settings: found, split, prepared from the training rows alone, and checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.registry import load as load_name
from edgedl.core.registry import resolve
from edgedl.core.samples import Samples
from edgedl.train.data.dataset import Dataset, Found, Standard
from edgedl.train.data.leaks import (
    all_of,
    imbalance,
    looked_through,
    said_of,
    said_of_damage,
    torn,
)
from edgedl.train.data.masks import pixel_doubts
from edgedl.train.data.rows import as_samples
from edgedl.train.data.sets import SETS
from edgedl.train.data.settings import PLACES, Data
from edgedl.train.data.split import Parts, draw, split, split_in_time

FEW_SHARED = 0.05
LOADERS = {
    "folder": "edgedl.train.data.folder:find",
    "masks": "edgedl.train.data.mask_files:find",
    "table": "edgedl.train.data.table:find",
    "arrays": "edgedl.train.data.arrays:find",
    "text": "edgedl.train.data.texts:find",
    "series": "edgedl.train.data.series:find",
}


def load(settings: Data, *, seed: int, cache: Path, progress: Progress = silent) -> Dataset:
    """What a recipe trains on.

    Args:
        seed: of the split.
        cache: the folder that keeps downloads of known sets.

    Raises:
        BadSamples: the data is not there, damaged, or not what the settings say. BadOption: there
            is no such set. Missing: a package is not installed.
    """
    if settings.set is not None:
        find = resolve(SETS, settings.set, kind="data set", group="edgedl.sets")
        found: Found = find(settings, cache=cache, progress=progress)
    else:
        # masks stand beside a folder of pictures, and say what it is
        places = ("masks", *PLACES)
        place = next(name for name in places if getattr(settings, name) is not None)
        found = load_name(LOADERS[place], f"reading `{place}` data")(settings, progress=progress)
    return assemble(found, settings, seed=seed, progress=progress)


def assemble(found: Found, settings: Data, *, seed: int, progress: Progress = silent) -> Dataset:
    """What a loader found, split, prepared and checked.

    Raises:
        BadSamples: it cannot be split, has one class, or a sample is damaged.
    """
    _check_classes(found)
    parts = _limited(_parts(found, settings, seed), found, settings, seed)
    made = found.prepare(parts.train)
    labels, standard = _standardized(found, settings, parts.train)
    every = as_samples(made, labels, found.classes, found.where)
    groups = {
        "training": every.take(parts.train),
        "validation": every.take(parts.validation),
        "test": every.take(parts.test),
    }
    doubts = [*found.doubts, *made.doubts, *_class_doubts(found, parts)]
    if found.groups is not None:
        doubts += torn(found.groups, {name: samples.rows for name, samples in groups.items()})
    if settings.check:
        groups, shared = _apart(
            groups, found.test is not None, settings.damaged == "drop", progress
        )
        doubts += shared
    train, validation, test = groups.values()
    return Dataset(
        train, validation, test, made.inputs, found.outputs, found.task, made.processing,
        tuple(doubts), standard, found.normal_only,
    )  # fmt: skip


def _apart(
    groups: dict[str, Samples], official: bool, drop: bool, progress: Progress
) -> tuple[dict[str, Samples], list[str]]:
    """The groups without damaged samples, and without those that a group before holds, too.

    An official test split keeps its copies, and so does a part where they are many: there they
    are what the data is like.
    """
    looked = looked_through(groups, progress)
    total = sum(map(len, groups.values()))
    if any(looked.damaged.values()) and not drop:
        raise all_of(looked.damaged, total)
    left: dict[str, np.ndarray] = {name: np.ones(len(one), bool) for name, one in groups.items()}
    for name, places in looked.damaged.items():
        left[name][list(places)] = False
        if places and not left[name].any():
            raise all_of({name: places}, len(groups[name]))
    said = [*said_of_damage(looked.damaged, total)]
    for shared in looked.shared:
        count = len(groups[shared.part])
        few = len(shared.places) <= FEW_SHARED * count and len(shared.places) < count
        dropped = few and not (official and shared.part == "test")
        if dropped:
            left[shared.part][shared.places] = False
        said.append(said_of(shared, groups, dropped))
    kept = {name: one.take(np.flatnonzero(left[name])) for name, one in groups.items()}
    return kept, said


def _standardized(
    found: Found, settings: Data, train: np.ndarray
) -> tuple[np.ndarray | None, Standard | None]:
    """The labels, values to regress as (value - mean) / deviation of the training rows."""
    labels = found.labels
    if labels is None or found.task != "regression":
        return labels, None
    if not (found.standardize and settings.standardize):
        return labels, None
    values = labels[train].astype(np.float64)
    mean, std = float(values.mean()), float(values.std()) or 1.0
    # one pair for all outputs, so that an error is of the same unit in each
    return ((labels - mean) / std).astype(np.float32), Standard(mean, std)


def _parts(found: Found, settings: Data, seed: int) -> Parts:
    if found.spans is not None:
        parts = split_in_time(found.spans, settings.validation, settings.holdout, found.where)
        return _normal_only(parts, found)
    parts = split(
        found.count,
        labels=found.labels,
        groups=found.groups,
        test=found.test,
        validation=settings.validation,
        holdout=settings.holdout,
        seed=seed,
        where=found.where,
    )
    return _normal_only(parts, found)


def _normal_only(parts: Parts, found: Found) -> Parts:
    """Without the rows in training and validation that are not normal, where it is asked for."""
    if not found.normal_only:
        return parts
    assert found.labels is not None
    normal = found.labels == 0
    kept = replace(
        parts,
        train=parts.train[normal[parts.train]],
        validation=parts.validation[normal[parts.validation]],
    )
    if not len(kept.train) or not len(kept.validation):
        message = f"too few rows of `{found.classes[0]}` to train on"
        raise BadSamples(message, where=found.where, hint="give more of them")
    return kept


def _limited(parts: Parts, found: Found, settings: Data, seed: int) -> Parts:
    if settings.limit is None:
        return parts
    named = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    total = sum(map(len, named.values()))
    share = min(1.0, settings.limit / total)
    return Parts(
        **{
            name: draw(rows, found.labels, max(1, round(len(rows) * share)), seed)
            for name, rows in named.items()
        }
    )


def _check_classes(found: Found) -> None:
    if found.task == "classification" and (found.outputs or 0) < 2:
        name = f", `{found.classes[0]}`" if found.classes else ""
        raise BadSamples(
            f"there is one class{name}",
            where=found.where,
            hint="two or more, or `task: reconstruction`, which learns from good examples alone",
        )


def _class_doubts(found: Found, parts: Parts) -> tuple[str, ...]:
    if found.labels is not None and found.task == "segmentation":
        return pixel_doubts(found.labels, parts.train, found.classes)
    if found.task != "classification" or found.labels is None:
        return ()
    names = found.classes or tuple(map(str, range(found.outputs or 0)))
    counts = np.bincount(found.labels[parts.train], minlength=found.outputs or 0)
    doubts = [f"class `{names[i]}` has no training row" for i in np.flatnonzero(counts == 0)[:5]]
    return (*doubts, *imbalance(found.labels[parts.train], names))

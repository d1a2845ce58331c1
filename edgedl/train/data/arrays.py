"""Numpy archives: inputs and labels as arrays, in one group or in two named train and test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from edgedl.core.errors import BadSamples, nearest
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import LABELS, Arrays, from_arrays, map_npz
from edgedl.runtime.process.image import Image
from edgedl.train.data.dataset import Found, Prepared, Task
from edgedl.train.data.labels import (
    FEW_VALUES,
    anomalies,
    check_range,
    group_numbers,
    is_regression,
    true_boxes,
)
from edgedl.train.data.masks import archived
from edgedl.train.data.pixels import normal_image
from edgedl.train.data.rows import prepared
from edgedl.train.data.settings import Data
from edgedl.train.shapes import TensorShape

TRAIN, TEST = "train_", "test_"
MASKS = "masks"
HINT = "np.savez('data.npz', input=x, labels=y), or train_input, train_labels, test_input, ..."
MASKS_HINT = "np.savez('data.npz', images=x, masks=y), y of a class number for each pixel"
KINDS = {"float64": "float32", "float16": "float32", "int32": "int64"}


def find(settings: Data, *, progress: Progress = silent) -> Found:  # noqa: ARG001
    """The archive that the settings name.

    Raises:
        BadSamples: it is damaged, lacks an array, or a label is out of range.
    """
    assert settings.arrays is not None
    where = settings.arrays
    arrays = map_npz(Path(where))
    test = None
    if settings.test is not None:
        tested = {f"{TEST}{name}": array for name, array in map_npz(Path(settings.test)).items()}
        arrays = {**{f"{TRAIN}{name}": array for name, array in arrays.items()}, **tested}
    if any(name.startswith(TEST) for name in arrays):
        arrays, test = _two_groups(arrays, where)
    return from_named(arrays, settings, where, test)


def from_named(
    arrays: Mapping[str, np.ndarray], settings: Data, where: str, test: np.ndarray | None = None
) -> Found:
    """Arrays by name, as the settings say what is what.

    Raises:
        BadSamples: one is not there, or they do not fit together.
    """
    label = settings.label or _usual_label(arrays, settings)
    if settings.label is not None and label not in arrays:
        hint = nearest(label, arrays)
        raise BadSamples(f"there is no array `{label}`", where=where, hint=hint)
    apart = {label, settings.group}
    inputs = {name: array for name, array in arrays.items() if name not in apart}
    if settings.columns:
        for name in settings.columns:
            if name not in inputs:
                hint = nearest(name, inputs)
                raise BadSamples(f"there is no array `{name}`", where=where, hint=hint)
        inputs = {name: inputs[name] for name in settings.columns}
    given = {**inputs, **({LABELS: arrays[label]} if label in arrays else {})}
    count = len(from_arrays(given, where=where))
    labels, task, outputs, classes = _labels(arrays.get(label), inputs, settings, where)
    groups = None
    if settings.group is not None:
        if settings.group not in arrays or arrays[settings.group].shape != (count,):
            hint = f"one entry a row; {nearest(settings.group, arrays)}"
            raise BadSamples(f"there is no array `{settings.group}`", where=where, hint=hint)
        groups = group_numbers(list(arrays[settings.group]))
    return Found(
        count=count,
        prepare=lambda train: _prepared(inputs, settings, where, train),
        labels=labels,
        task=task,
        outputs=outputs,
        where=where,
        classes=classes,
        groups=groups,
        test=test,
        normal_only=settings.normal is not None,
        standardize=settings.task != "detection",
        doubts=_odd_values(labels) if settings.task is None and task == "regression" else (),
    )


def _usual_label(arrays: Mapping[str, np.ndarray], settings: Data) -> str:
    """The name of the array with the labels, where nobody has said it."""
    masks = settings.task == "segmentation" and LABELS not in arrays and MASKS in arrays
    return MASKS if masks else LABELS


def _two_groups(
    arrays: Mapping[str, np.ndarray], where: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    names = [name.removeprefix(TRAIN) for name in arrays if name.startswith(TRAIN)]
    found = {}
    sizes: dict[str, tuple[int, int]] = {}
    for name in names:
        if TEST + name not in arrays:
            message = f"`{TRAIN}{name}` has no `{TEST}{name}` beside it"
            raise BadSamples(message, where=where, hint=HINT)
        train, test = arrays[TRAIN + name], arrays[TEST + name]
        if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
            message = f"`{name}` is unlike for train and test: {train.shape[1:]} {train.dtype},"
            raise BadSamples(f"{message} {test.shape[1:]} {test.dtype}", where=where, hint=HINT)
        sizes[name] = len(train), len(test)
        found[name] = np.concatenate([train, test])
    others = [n for n in arrays if not n.startswith((TRAIN, TEST))]
    others += [n for n in arrays if n.startswith(TEST) and n.removeprefix(TEST) not in names]
    if others or not names:
        name = others[0] if others else next(iter(arrays))
        message = f"array `{name}` is of no pair of groups"
        raise BadSamples(message, where=where, hint=HINT)
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"`{n}` {a} and {b}" for n, (a, b) in sizes.items())
        raise BadSamples(f"arrays of unlike length: {listing}", where=where, hint=HINT)
    train_rows, test_rows = next(iter(sizes.values()))
    return found, np.arange(train_rows + test_rows) >= train_rows


def _labels(
    labels: np.ndarray | None, inputs: Mapping[str, np.ndarray], settings: Data, where: str
) -> tuple[np.ndarray | None, Task, int | None, tuple[str, ...]]:
    if settings.task == "unlabelled":
        return None, "unlabelled", None, ()
    if labels is None:
        if settings.task not in (None, "reconstruction"):
            message = f"there is no array `{settings.label or LABELS}`"
            hint = MASKS_HINT if settings.task == "segmentation" else HINT
            raise BadSamples(message, where=where, hint=hint)
        if settings.normal is not None:
            message = "no array says what is normal"
            raise BadSamples(message, where=where, hint="`label: NAME`")
        return None, "reconstruction", 0, ()
    if settings.task == "detection":
        values, classes = true_boxes(labels, settings.classes, where)
        return values, "detection", len(classes), classes
    if settings.task == "segmentation":
        values, classes = archived(labels, inputs, settings, where)
        return values, "segmentation", len(classes), classes
    whole = labels.dtype.kind in "iub" and labels.ndim == 1
    task: Task = settings.task or ("classification" if whole else "regression")
    if task == "regression":
        if labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
            message = f"labels of type {labels.dtype} are no finite numbers"
            hint = "float32, without NaN"
            if labels.dtype.kind in "US":
                hint = "of names: `classes, labels = np.unique(names, return_inverse=True)`"
            raise BadSamples(message, where=where, hint=hint)
        values = labels.astype(np.float32)
        values = values[:, None] if values.ndim == 1 else values
        return values, task, int(np.prod(values.shape[1:])), ()
    if labels.ndim != 1 or (not whole and is_regression(list(labels[:1000]))):
        message = f"labels of type {labels.dtype} and shape {labels.shape} name no classes"
        raise BadSamples(message, where=where, hint="int64 of shape (rows,), or `task: regression`")
    if labels.dtype.kind not in "iub":
        message = f"labels of type {labels.dtype}"
        raise BadSamples(message, where=where, hint="int64, 0 for the first class")
    numbers = labels.astype(np.int64)
    classes = settings.classes
    count = settings.class_count or len(classes)
    if not count and numbers.size and numbers.max() > len(numbers):
        message = f"label {numbers.max()} among {len(numbers)} rows"
        hint = (
            "labels run from 0 to the number of classes - 1; `class_count` says how many there are"
            " where not all occur; `task: regression` for values"
        )
        raise BadSamples(message, where=where, hint=hint)
    count = count or int(numbers.max()) + 1
    check_range(numbers, count, where)
    if settings.normal is not None:
        names = classes or tuple(map(str, range(count)))
        numbers, classes = anomalies(numbers, names, settings.normal, where)
    return numbers, task, 0 if task == "reconstruction" else count, classes


def _odd_values(values: np.ndarray | None) -> tuple[str, ...]:
    """A sentence where values to regress could be meant for classes."""
    if values is None or values.shape[1:] != (1,):
        return ()
    kinds = np.unique(values)
    if not 2 <= len(kinds) <= FEW_VALUES or (kinds != np.arange(len(kinds))).any():
        return ()
    return (
        f"labels are the whole numbers 0 to {len(kinds) - 1}, saved as floats, and taken for values"
        " to regress; saved as int64 they are classes",
    )


def _prepared(
    inputs: Mapping[str, np.ndarray], settings: Data, where: str, train: np.ndarray
) -> Prepared:
    """Images of bytes as an image's pre-processing takes them; all else as the network's inputs."""
    name, first = next(iter(inputs.items()))
    if len(inputs) == 1 and first.dtype == np.uint8 and first.ndim in (3, 4):
        if first.ndim == 4 and first.shape[1] in (1, 3) and first.shape[3] not in (1, 3):
            first = np.moveaxis(first, 1, 3)
        if settings.image is None and first.ndim == 4 and first.shape[3] not in (1, 3):
            message = f"images of {first.shape[3]} channels"
            raise BadSamples(message, where=where, hint="1 or 3, in the last axis")
        return image_rows(first, name, settings.image, where, train)
    if settings.image is not None:
        message = "`image` goes with one array of images, uint8 of shape (rows, height, width, 3)"
        raise BadSamples(message, where=where, hint="leave it out")
    arrays = {}
    for name, array in inputs.items():
        kind = KINDS.get(array.dtype.name, array.dtype.name)
        if settings.task == "unlabelled" and array.dtype.name == "int32":
            kind = "int32"  # as the model that is to be matched takes it
        if kind not in ("float32", "int64", "int32"):
            message = f"array `{name}` is {array.dtype}"
            raise BadSamples(message, where=where, hint=f"save it with `.astype('{'float32'}')`")
        arrays[name] = array if array.dtype.name == kind else array.astype(kind)
    shapes = {n: TensorShape(tuple(a.shape[1:]), a.dtype.name) for n, a in arrays.items()}
    return Prepared(Arrays(arrays, where), shapes, None)


def image_rows(
    images: np.ndarray, name: str, given: Image | None, where: str, train: np.ndarray
) -> Prepared:
    """Images uint8 of shape [rows, height, width] or with channels behind, of one size."""
    gray = images.ndim == 3 or images.shape[3] == 1
    color: Literal["gray", "rgb"] = "gray" if gray else "rgb"
    sides = int(images.shape[1]), int(images.shape[2])
    if given is None:
        given = normal_image((images[i] for i in train), color, sides)
    elif None in given.shape:
        given = normal_image((), given.color, sides, given)
    return prepared(images, name, given, where)

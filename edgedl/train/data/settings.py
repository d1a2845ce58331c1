"""The recipe's key `data`: where raw input lies, and what becomes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from edgedl.core.errors import BadValue
from edgedl.runtime.process.features import Features
from edgedl.runtime.process.image import Image
from edgedl.runtime.process.sound import Sound
from edgedl.train.data.dataset import Task

SAID_BY_SETS = ("test", "label", "group", "categories", "ids", "classes", "normal")
PLACES = ("set", "folder", "table", "arrays", "text", "series")
# What names a file or a folder.
PATHS = (*PLACES[1:], "test", "masks", "test_masks")
UNLABELLED = ("folder", "table", "arrays")


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer that is trained on the training texts, or a file that holds one.

    Attributes:
        file: a `tokenizer.json`; one is trained where None.
        kind: `words` are split at spaces and punctuation; `bpe` are parts of words.
        size: tokens at most, with `[PAD]` 0 and `[UNK]` 1.
        least: how often a token has to occur.
    """

    file: str | None = None
    kind: Literal["words", "bpe"] = "words"
    size: int = 8192
    least: int = 2
    lowercase: bool = True

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1 << 20:
            raise BadValue(f"`size` is {self.size}", keys=("size",), hint="16 to 1048576")
        if self.least < 1:
            raise BadValue(f"`least` is {self.least}", keys=("least",), hint="1 or more")


@dataclass(frozen=True)
class Data:
    """Where raw input lies, what is what in it, how it is split, and what becomes of it.

    One of the first six says where; beside `set`, `folder` is where the set's files already lie.

    Attributes:
        set: a name of `edgedl.train.data.SETS`.
        folder: of images or WAV files, in one folder a class.
        table: a CSV (`.csv`, `.tsv`, `.tab`) or Parquet file.
        arrays: an `.npz` file of inputs and `labels`, or of `train_...` and `test_...` ones.
        text: a table with a text and a label a row, or a folder of `.txt` files, one folder a
            class.
        series: a CSV, Parquet or `.npz` file of frames in the order of time, or a folder of them.
        masks: where the masks of the pictures in `folder` lie: a folder with masks of their names,
            or a path in which `{name}` stands for a picture's, as `photos/{name}_mask.png`. A
            mask's values are class numbers, or indices into its palette; or 0 and 255 of two
            classes.
        test: the official test split: a file or folder of the same kind.
        test_masks: as `masks`, of the pictures in `test`.
        ignore: the value of pixels of masks that count nowhere; 255 where it is None, but in masks
            of 0 and 255 alone.
        variant: which of a set's variants.
        label: the column, or array, with the labels; of a forecast the channel, all where None.
        group: the column, or array, whose rows never stand on two sides of a split; of pictures
            with masks, a regular expression that finds it in their paths below `folder`.
        columns: those that are taken; all others where empty.
        categories: columns whose texts are categories.
        ids: columns of a table that hold ids, whole numbers from 0 on, each an input of its own; a
            recommender takes a user's and an item's.
        classes: their names in order; what is found, sorted, where empty.
        class_count: how many there are, where labels are their numbers and not all occur.
        task: what is learned; of `unlabelled` inputs what another model, the teacher, answers; in
            `detection`, which goes with `arrays`, labels are boxes: left, top, right, bottom in
            pixels and a class, float of shape [rows, most, 5], where rows of class -1 fill up; in
            `segmentation` they are masks: those of a folder, or an array `masks` or `labels` of
            whole numbers of shape [rows, height, width].
        normal: the class that a reconstruction is trained on; the others are for the test.
        missing: what becomes of a row with a value that is not there.
        damaged: what becomes of samples that cannot be read, or are not finite: an error names them
            all, or they are named and left out.
        unknown: what becomes of a category that no training row has: none of the known, which the
            device tells by a warning with `warn`; or the row is refused.
        standardize: whether values to regress become (value - mean) / deviation.
        validation, holdout: shares of all rows; where there is a test split, `validation` is one
            of the others, and `holdout` is not used.
        limit: rows at most, drawn by class, for a trial.
        check: whether every sample is read once before training, for damage and duplicates.
        image, sound, features: the pre-processing of raw files; found out where it can be.
        length: frames of a window, or tokens of a text.
        hop: frames from one window to the next; where None `length`, and 1 of a forecast.
        horizon: frames behind a window to forecast.
        vocabulary: the tokenizer of texts.
    """

    set: str | None = None
    folder: str | None = None
    table: str | None = None
    arrays: str | None = None
    text: str | None = None
    series: str | None = None
    masks: str | None = None
    test: str | None = None
    test_masks: str | None = None
    ignore: int | None = None
    variant: str | None = None
    label: str | None = None
    group: str | None = None
    columns: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    class_count: int | None = None
    task: Task | None = None
    normal: str | None = None
    missing: Literal["drop", "mean", "error"] = "error"
    damaged: Literal["drop", "error"] = "error"
    unknown: Literal["zeros", "warn", "error"] = "warn"
    standardize: bool = True
    validation: float = 0.1
    holdout: float = 0.2
    limit: int | None = None
    check: bool = True
    image: Image | None = None
    sound: Sound | None = None
    features: Features | None = None
    length: int | None = None
    hop: int | None = None
    horizon: int | None = None
    vocabulary: Vocabulary = Vocabulary()

    def __post_init__(self) -> None:
        given = [name for name in PLACES if getattr(self, name) is not None]
        if len(given) != 1 and given != ["set", "folder"]:
            said = " and ".join(f"`{name}`" for name in given) or "nothing"
            raise BadValue(
                f"{said} says where the data is",
                keys=tuple(given[1:2]),
                hint="give one of " + ", ".join(f"`{name}`" for name in PLACES),
            )
        for name in SAID_BY_SETS if self.set is not None else ():
            if getattr(self, name):
                message = f"`{name}` is what `{self.set}` says itself"
                raise BadValue(message, keys=(name,), hint="leave it out")
        if self.task == "unlabelled" and given[0] not in UNLABELLED:
            message = f"`task: unlabelled` does not go with `{given[0]}`"
            hint = "give " + ", or ".join(f"`{name}`" for name in UNLABELLED)
            raise BadValue(message, keys=("task",), hint=hint)
        if self.task == "detection" and given[0] != "arrays":
            message = f"`task: detection` does not go with `{given[0]}`"
            raise BadValue(message, keys=("task",), hint="give `arrays`")
        _check_masks(self, given[0])
        for name in ("validation", "holdout"):
            if not 0 < getattr(self, name) < 1:
                message = f"`{name}` is {getattr(self, name):g}"
                raise BadValue(message, keys=(name,), hint="a share of all rows, like 0.1")
        if self.validation + self.holdout >= 1:
            message = "`validation` and `holdout` leave nothing to train on"
            raise BadValue(message, keys=("validation",), hint="like 0.1 and 0.2")
        if self.ids:
            others = [name for name in ("columns", "categories") if getattr(self, name)]
            others += ["missing"] if self.missing == "mean" else []
            if given != ["table"] or others:
                wanted = f"without `{others[0]}`" if others else "with `table`"
                message = f"`ids` go {wanted}"
                raise BadValue(message, keys=("ids",), hint="{table: r.csv, ids: [user, item]}")
        if self.damaged == "drop" and not self.check:
            message = "`damaged: drop` wants every sample to be read once"
            raise BadValue(message, keys=("damaged",), hint="leave `check: false` out")
        counted = given == ["arrays"] or self.masks is not None
        if self.class_count is not None and (self.classes or not counted):
            message = "`class_count` is of labels in `arrays`, or of masks, that have no names"
            raise BadValue(message, keys=("class_count",), hint="`classes` names them")
        for name in ("limit", "length", "hop", "horizon", "class_count"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadValue(f"`{name}` is {value}", keys=(name,), hint="1 or more")
        raw = [n for n in ("image", "sound", "features") if getattr(self, n) is not None]
        if len(raw) > 1:
            message = f"`{raw[0]}` and `{raw[1]}` are given"
            raise BadValue(message, keys=(raw[1],), hint="one pre-processing")
        if len(set(self.classes)) != len(self.classes):
            raise BadValue("two classes have one name", keys=("classes",), hint="name them apart")
        if self.normal is not None and self.task != "reconstruction":
            message = "`normal` goes with `task: reconstruction`"
            raise BadValue(message, keys=("normal",), hint="add it, or leave `normal` out")


def _check_masks(settings: Data, place: str) -> None:
    """What says where masks are, and what goes with them.

    Raises:
        BadValue: it does not fit together.
    """
    if settings.masks is not None and (place != "folder" or settings.set is not None):
        hint = "leave it out" if place == "set" else "`folder` says where the pictures are"
        raise BadValue(f"`masks` does not go with `{place}`", keys=("masks",), hint=hint)
    if settings.task == "segmentation" and settings.masks is None and place != "arrays":
        message = "`task: segmentation` needs masks"
        hint = "`folder: photos` with `masks: masks`, or `arrays`"
        raise BadValue(message, keys=("task",), hint=hint)
    if settings.masks is not None and settings.task not in (None, "segmentation"):
        message = f"`task: {settings.task}` does not go with `masks`"
        raise BadValue(message, keys=("task",), hint="leave it out")
    if settings.masks is None or settings.test is None:
        wrong = "test_masks" if settings.test_masks is not None else ""
    else:
        wrong = "test" if settings.test_masks is None else ""
    if wrong:
        message = "`test_masks` goes with `test` and `masks`, and these with it"
        raise BadValue(message, keys=(wrong,), hint="give all three, or `folder` and `masks` alone")
    if settings.ignore is not None:
        if settings.masks is None and settings.task != "segmentation":
            raise BadValue("`ignore` is of masks", keys=("ignore",), hint="leave it out")
        if not 0 <= settings.ignore <= 255:
            raise BadValue(f"`ignore` is {settings.ignore}", keys=("ignore",), hint="0 to 255")
    for name in ("sound", "features") if settings.masks is not None else ():
        if getattr(settings, name) is not None:
            raise BadValue(f"`{name}` has no masks", keys=(name,), hint="`image`")
    if settings.masks is not None and settings.group is not None:
        try:
            re.compile(settings.group)
        except re.error as error:
            message = f"`group` is no regular expression: {error}"
            raise BadValue(message, keys=("group",), hint="like '[^_]+'") from error


def seen_from(settings: Data, folder: Path) -> Data:
    """The same settings with relative paths that begin at a folder."""
    named = {name: getattr(settings, name) for name in PATHS}
    paths: dict[str, Any] = {n: str(folder / word) for n, word in named.items() if word is not None}
    file = settings.vocabulary.file
    if file is not None:
        paths["vocabulary"] = replace(settings.vocabulary, file=str(folder / file))
    return replace(settings, **paths)


def replaced(settings: Data, **changes: object) -> Data:
    """The settings of a set's rows, some of them filled in by the set itself."""
    return replace(settings, set=None, folder=settings.folder or ".", **changes)  # type: ignore[arg-type]

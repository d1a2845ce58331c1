"""Folders of images or recordings, one folder a class; opened as they are used."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.runtime.process import Preprocess, Processing
from edgedl.runtime.process.features import Features
from edgedl.runtime.process.files import Files, open_files
from edgedl.runtime.process.image import Image
from edgedl.runtime.process.scores import Argmax
from edgedl.runtime.process.sound import Sound
from edgedl.train.data.dataset import Found, Prepared, Task
from edgedl.train.data.labels import alike_classes, anomalies
from edgedl.train.data.pixels import MOST_READ, normal_image
from edgedl.train.data.rows import shape_of
from edgedl.train.data.settings import Data

FEW = 256
WINDOW_SECONDS, HOP_SECONDS, MOST_SECONDS = 0.025, 0.01, 10
SOUNDS = (".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".au")
PICTURES = (".heic", ".heif", ".avif", ".jxl", ".svg", ".dng", ".cr2", ".nef", ".arw")
NOT_READ = {
    **dict.fromkeys(SOUNDS, "write them as WAV: ffmpeg -i IN -c:a pcm_s16le OUT.wav"),
    **dict.fromkeys(PICTURES, "write them as PNG or JPEG: magick mogrify -format png FILES"),
}
HINT = "a folder for each class, with its images (.png, .jpg, ...) or recordings (.wav)"


def find(settings: Data, *, progress: Progress = silent) -> Found:
    """The folder that the settings name.

    Raises:
        BadSamples: it is not there, empty, or its files are of no kind that is read. Missing:
            Pillow is not installed.
    """
    assert settings.folder is not None
    folder = Path(settings.folder)
    before = settings.image or settings.features or settings.sound or _guessed(folder)
    samples = _opened(folder, before, settings.classes, settings.check)
    test = None
    if settings.test is not None:
        tested = _opened(Path(settings.test), before, samples.classes, settings.check)
        test = np.arange(len(samples) + len(tested)) >= len(samples)
        samples = _joined(samples, tested)
    task: Task = settings.task or "classification"
    if task == "regression":
        message = "a folder of classes holds no values to regress"
        raise BadSamples(message, where=str(folder), hint="`table:`, or `arrays:`")
    if task == "classification" and samples.labels is None:
        hint = f"{HINT}; or `task: unlabelled`"
        raise BadSamples("there are no folders of classes in it", where=str(folder), hint=hint)
    if task == "unlabelled":
        samples = replace(samples, labels=None, classes=())
    labels, classes = samples.labels, samples.classes
    doubts = (*_unseen(folder, before.suffixes), *_unread(folder), *_empty_classes(samples))
    if labels is not None:
        labels = labels.astype(np.int64)
    if settings.normal is not None:
        numbers = np.zeros(0, np.int64) if labels is None else labels
        labels, classes = anomalies(numbers, classes, settings.normal, str(folder))
    source = samples.source
    assert isinstance(source, Files)
    given = settings.image or settings.features or settings.sound
    fitter = Fitter(source, given, settings.check, progress)
    return Found(
        count=len(samples),
        prepare=fitter.prepare,
        labels=labels,
        task=task,
        outputs={"reconstruction": 0, "unlabelled": None}.get(task, len(classes)),
        where=str(folder),
        classes=classes,
        test=test,
        normal_only=settings.normal is not None,
        doubts=(*doubts, *alike_classes(classes)),
    )


@dataclass(frozen=True, eq=False)
class Fitter:
    """What finds the pre-processing's open values from files to train on."""

    source: Files
    given: Image | Features | Sound | None
    lenient: bool
    progress: Progress

    def prepare(self, train: np.ndarray) -> Prepared:
        before = self._fitted(train)
        name = "image" if isinstance(before, Image) else "sound"
        named = replace(before, input=name)
        processing = Processing(named)
        origin = self.source.origin
        if origin is not None:
            origin = {**origin, "processing": processing.to_json()}
        source = replace(self.source, processing=processing, origin=origin)
        return Prepared(source, {name: shape_of(named)}, processing)

    def _fitted(self, train: np.ndarray) -> Image | Features | Sound:
        given = self.given
        if given is not None and None not in given.shape:
            return given
        before = self.source.processing.preprocess
        if isinstance(before, Image):
            every = np.arange(len(self.source))
            sides = _sides(list(self._contents(every, FEW)), self.source)
            images = () if given is not None else self._contents(train, MOST_READ)
            return normal_image(images, before.color, sides, before if given else None)
        longest, rate = 0.0, 0
        for recording in self._contents(train, FEW):
            rate = rate or recording.rate
            longest = max(longest, len(recording.values) / recording.rate)
        if not rate:
            raise BadSamples("no recording can be read", where=str(self.source.folder), hint=HINT)
        seconds = min(longest, MOST_SECONDS)
        if isinstance(given, (Sound, Features)):
            return replace(given, length=max(1, round(seconds * given.rate)))
        window = round(WINDOW_SECONDS * rate)
        return Features(
            rate, max(window, round(seconds * rate)), window=window, hop=round(HOP_SECONDS * rate)
        )

    def _contents(self, rows: np.ndarray, most: int) -> Iterator[Any]:
        """What some of the files hold, evenly chosen."""
        places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))
        for i, row in enumerate(rows[places]):
            self.progress("looking into files", i + 1, len(places))
            # the check that follows names every damaged file
            with contextlib.suppress(*((BadSamples,) if self.lenient else ())):
                contents = self.source.load(int(row))[1]
                yield contents


def _opened(folder: Path, before: Preprocess, classes: tuple[str, ...], check: bool) -> Samples:
    if not folder.is_dir():
        message = "is no folder" if folder.exists() else "no such folder"
        raise BadSamples(message, where=str(folder), hint=HINT)
    after = Argmax(labels=classes) if classes else None
    # the check that follows names empty files beside those that are damaged otherwise
    return open_files(folder, Processing(before, after), empty="keep" if check else "error")


def _guessed(folder: Path) -> Preprocess:
    """The kind of pre-processing that most of the files are for."""
    if not folder.is_dir():
        raise BadSamples("no such folder", where=str(folder), hint=HINT)
    counts: Counter[str] = Counter()
    for pattern in ("*", "*/*"):
        counts.update(path.suffix.lower() for path in folder.glob(pattern) if path.is_file())
    images = sum(counts[suffix] for suffix in Image.suffixes)
    sounds = sum(counts[suffix] for suffix in Sound.suffixes)
    if not images and not sounds:
        known = next((suffix for suffix, _ in counts.most_common() if suffix in NOT_READ), None)
        if known is not None:
            message = f"`{known}` files are not read, and it holds {counts[known]} of them"
            raise BadSamples(message, where=str(folder), hint=NOT_READ[known])
        what = "is empty" if not counts else "holds no images and no recordings"
        deeper = _deeper(folder, Image.suffixes | Sound.suffixes)
        first = next((name.partition("/")[0] for name, _ in deeper), None)
        hint = HINT if first is None else f"`folder: .../{first}`, where the folders of classes lie"
        what = what if first is None else "its files lie two folders deep"
        raise BadSamples(what, where=str(folder), hint=hint)
    return Image() if images >= sounds else Sound(16_000)


def _deeper(folder: Path, suffixes: frozenset[str]) -> Iterator[tuple[str, int]]:
    """Folders in the folders of classes that hold files of these kinds, and how many."""
    for above in _folders(folder):
        for inner in _folders(above):
            count = sum(1 for one in inner.rglob("*") if one.suffix.lower() in suffixes)
            if count:
                yield f"{above.name}/{inner.name}", count


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        found = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    return [folder / name for name in sorted(found)]


def _unseen(folder: Path, suffixes: frozenset[str]) -> tuple[str, ...]:
    """A sentence where files lie deeper than those that are taken."""
    deeper = list(_deeper(folder, suffixes))
    if not deeper:
        return ()
    total = sum(count for _, count in deeper)
    return (
        f"in folders within those of classes, as `{deeper[0][0]}`, files are not read: {total}",
    )


def _unread(folder: Path) -> tuple[str, ...]:
    """A sentence where files are left out that are images or recordings of other kinds."""
    found = [path for path in sorted(folder.glob("*/*")) if path.suffix.lower() in NOT_READ]
    if not found:
        return ()
    way = NOT_READ[found[0].suffix.lower()]
    name = found[0].relative_to(folder).as_posix()
    return (f"files of kinds that are not read, as `{name}`, are left out: {len(found)}; {way}",)


def _joined(samples: Samples, tested: Samples) -> Samples:
    """Two folders as one source; a joined path to an absolute one is the absolute one."""
    first, second = samples.source, tested.source
    assert isinstance(first, Files)
    assert isinstance(second, Files)
    inside = [str((second.folder / name).resolve()) for name in second.names]
    source = replace(first, names=[*first.names, *inside], origin=None)
    labels = None
    if samples.labels is not None and tested.labels is not None:
        labels = np.concatenate([samples.labels, tested.labels])
    every = np.arange(len(source))
    return Samples(source, labels, every, samples.where, samples.classes)


def _empty_classes(samples: Samples) -> tuple[str, ...]:
    if samples.labels is None:
        return ()
    counts = np.bincount(samples.labels, minlength=len(samples.classes))
    return tuple(
        f"class `{samples.classes[i]}` has no files" for i in np.flatnonzero(counts == 0)[:20]
    )


def _sides(images: list[np.ndarray], source: Files) -> tuple[int, int]:
    """The one height and width of all of them."""
    sizes = {(int(image.shape[0]), int(image.shape[1])) for image in images}
    if len(sizes) != 1:
        listing = " and ".join(f"{h}x{w}" for h, w in sorted(sizes)[:2]) or "no image"
        raise BadSamples(
            f"the images are unlike in size: {listing}" if sizes else "no image can be read",
            where=str(source.folder),
            hint="`image: {resize: {exactly: [HEIGHT, WIDTH]}, scale: 1/255}`",
        )
    return sizes.pop()

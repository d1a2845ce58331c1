"""Raw files as samples: a folder of images or recordings, opened one by one as they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgedl.core.errors import BadSamples, nearest
from edgedl.core.model import Signature, Tensor
from edgedl.core.samples import Samples, open_npz
from edgedl.runtime.process import Processing, could_fit, input_of

BLOCK = 1 << 20
MOST_NAMED = 30
EMPTY = "the file is empty"


@dataclass(frozen=True, eq=False)
class Files:
    """Files of a folder, by their names in it, and what turns them into inputs.

    Memory holds their names, and no contents.
    """

    folder: Path
    names: Sequence[str]
    processing: Processing
    origin: Mapping[str, Any] | None = None
    tensor: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def bind(self, signature: Signature, rows: np.ndarray) -> Files:
        """The files as samples for a model's input; none of them is opened.

        Raises:
            BadSamples: the pre-processing makes no input of the model.
        """
        return replace(self, tensor=input_of(self.processing.preprocess, signature))

    def name_of(self, row: int) -> str:
        """What a sample is called: its file, from the folder on."""
        return f"`{self.names[row]}`"

    def load(self, row: int) -> tuple[Path, Any]:
        """A file's path and contents, decoded.

        Raises:
            BadSamples: the file is missing or damaged.
        """
        path = self.folder / self.names[row]
        try:
            return path, self.processing.preprocess.decode(path)
        except BadSamples as error:
            if path.is_file() and not path.stat().st_size:
                raise _bad(path, EMPTY) from error
            raise

    def prepare(self, raw: tuple[Path, Any]) -> dict[str, np.ndarray]:
        """The model's input.

        Raises:
            BadSamples: the file's contents cannot become one.
        """
        assert self.tensor is not None, "samples are bound before they are fed"
        path, contents = raw
        try:
            array = self.processing.preprocess.apply(contents)
        except BadSamples as error:
            raise BadSamples(error.message, where=str(path), hint=error.hint) from error
        if not could_fit(array.shape, self.tensor):
            shape = "x".join(map(str, array.shape))
            raise BadSamples(
                f"becomes {shape}, the model's input is {self.tensor}",
                where=str(path),
                hint="add `resize` and `crop`, or `length`, to the pre-processing",
            )
        return {self.tensor.name: array}

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of the pre-processing, its library's version, and the files' bytes."""
        preprocess = self.processing.preprocess
        settings = {**replace(self.processing, postprocess=None).to_json(), "input": None}
        digest = hashlib.sha256(json.dumps([settings, preprocess.decoder, len(rows)]).encode())
        for row in rows:
            path = self.folder / self.names[int(row)]
            try:
                with path.open("rb") as file:
                    content = hashlib.sha256()
                    while block := file.read(BLOCK):
                        content.update(block)
            except OSError as error:
                raise _bad(path, f"cannot be read ({error.strerror})") from error
            digest.update(content.digest())
        return digest.hexdigest()


def open_files(
    path: str | Path, processing: Processing, *, empty: Literal["error", "keep"] = "error"
) -> Samples:
    """The raw files in a folder as samples, or the one file at a path.

    Where the folder holds folders, each is a class: their names in sorted order, by code point,
    number the labels, or else their places among the labels of the post-processing. Files then
    stand in an order in which every beginning holds the classes in their proportions. Files of a
    flat folder stand in the order of their names, and have no labels. Hidden files and those of
    other suffixes are left out.

    Args:
        empty: whether a file without contents is an error here, or only when it is read.

    Raises:
        BadSamples: there is no file for this pre-processing, files lie beside the folders of the
            classes, a file is empty, or a class is none of the labels.
    """
    path = Path(path)
    origin = {"files": str(path.resolve()), "processing": processing.to_json()}
    if not path.is_dir():
        return _samples(path.parent, [path.name], None, (), processing, origin, str(path))
    suffixes = processing.preprocess.suffixes
    loose, folders = _listed(path, suffixes, empty)
    if not folders:
        return _samples(path, loose, None, (), processing, origin, str(path))
    names: list[str] = []
    sizes = []
    for folder in folders:
        inside, _ = _listed(path / folder, suffixes, empty)
        names += [f"{folder}/{name}" for name in inside]
        sizes.append(len(inside))
    if not names:
        return _samples(path, loose, None, (), processing, origin, str(path))
    if loose:
        raise BadSamples(
            f"`{loose[0]}` lies beside the folders of the classes",
            where=str(path),
            hint="a folder per class, or all files in one folder",
        )
    numbers = np.repeat(_class_numbers(path, folders, processing), sizes)
    places = np.concatenate([(np.arange(size) + 0.5) / size for size in sizes if size])
    order = np.argsort(places, kind="stable")
    after = processing.postprocess
    classes = (after.labels if after is not None else ()) or tuple(folders)
    ordered = [names[i] for i in order]
    return _samples(path, ordered, numbers[order], classes, processing, origin, str(path))


def reopen(origin: Mapping[str, Any]) -> Samples:
    """The samples that `Samples.origin` describes, in another process."""
    if "npz" in origin:
        return open_npz(origin["npz"]).take(origin["rows"])
    processing = Processing.from_json(origin["processing"])
    # they have been read before, and the damaged ones are not among the rows
    return open_files(origin["files"], processing, empty="keep").take(origin["rows"])


def _listed(
    folder: Path, suffixes: frozenset[str], empty: Literal["error", "keep"]
) -> tuple[list[str], list[str]]:
    """The names of the files with these suffixes, and of the folders, each sorted."""
    files, folders = [], []
    name = ""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(name)
                elif f".{name.rpartition('.')[2].lower()}" in suffixes:
                    files.append(name)
                    if empty == "error" and not entry.stat().st_size:
                        raise _bad(folder / name, EMPTY)
    except OSError as error:
        raise _bad(folder / name, f"cannot be read ({error.strerror})") from error
    return sorted(files), sorted(folders)


def _samples(
    folder: Path,
    names: Sequence[str],
    labels: np.ndarray | None,
    classes: tuple[str, ...],
    processing: Processing,
    origin: Mapping[str, Any],
    where: str,
) -> Samples:
    if not names:
        suffixes = ", ".join(sorted(processing.preprocess.suffixes))
        raise BadSamples(
            f"no files for pre-processing of kind `{processing.preprocess.kind}`",
            where=where,
            hint=f"files that end in {suffixes}, in the folder or in one folder per class",
        )
    source = Files(folder, names, processing, origin)
    return Samples(source, labels, np.arange(len(names)), where, classes)


def _class_numbers(path: Path, folders: Sequence[str], processing: Processing) -> np.ndarray:
    """The label of each folder's files."""
    known = () if processing.postprocess is None else processing.postprocess.labels
    if not known:
        return np.arange(len(folders))
    places = {label: i for i, label in enumerate(known)}
    for folder in folders:
        if folder not in places:
            raise BadSamples(
                f"the folder `{folder}` is none of the {len(known)} labels of the post-processing",
                where=str(path),
                hint=nearest(folder, known) if len(known) <= MOST_NAMED else "rename it",
            )
    return np.asarray([places[folder] for folder in folders])


def _bad(path: Path, reason: str) -> BadSamples:
    return BadSamples(reason, where=str(path), hint="remove it, or put a sound one")

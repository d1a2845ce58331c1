"""Pictures in a folder, and the mask of each: files of class numbers, or with a palette."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.runtime.process import Processing
from edgedl.runtime.process.files import Files
from edgedl.runtime.process.image import Image
from edgedl.runtime.process.pillow import ORIENTATION, pillow
from edgedl.train.data.dataset import Found
from edgedl.train.data.folder import Fitter
from edgedl.train.data.labels import group_numbers
from edgedl.train.data.masks import OUTSIDE, coded, coding_of, counted
from edgedl.train.data.settings import Data

NAME = "{name}"
# Formats that keep each value; the first that is there is taken.
SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
# What Pillow multiplies values of few bits by.
WIDENED = {"L;2": 85, "L;4": 17}
TURNED = (5, 6, 7, 8)
HINT = "a mask for each picture, of its name, as `masks/a.png` of `photos/a.jpg`"


@dataclass(frozen=True)
class Rule:
    """Where the mask of a picture lies: a path in which `{name}` stands for the picture's own, its
    suffix and the folder above left out."""

    template: str

    @property
    def root(self) -> Path:
        """The folder that all masks lie in."""
        return Path(self.template.partition(NAME)[0] + "x").parent

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What masks end in behind the rule itself; nothing where it ends in a suffix."""
        return ("",) if self.template.lower().endswith(SUFFIXES) else SUFFIXES

    def place(self, name: str) -> str:
        """Where the mask of a picture of this name is looked for."""
        return self.template.replace(NAME, name) + self.suffixes[0]

    def found(self) -> dict[str, Path]:
        """All files that are masks by the rule, by the name of the picture that they belong to."""
        before, *behind = (re.escape(_posix(one)) for one in self.template.split(NAME))
        named = before + "(.+)" + r"\1".join(behind)
        found: dict[str, Path] = {}
        paths = list(_files(self.root))
        for suffix in self.suffixes:
            pattern = re.compile(named + re.escape(suffix), re.IGNORECASE)
            for path in paths:
                if match := pattern.fullmatch(_posix(str(path))):
                    found.setdefault(match[1], path)
        return found


def rule_of(masks: str) -> Rule:
    """The rule that a recipe's `masks` is: a folder, or a path with `{name}` in it.

    Raises:
        BadSamples: the folder is not there.
    """
    rule = Rule(masks if NAME in masks else str(Path(masks) / NAME))
    where = rule.root if NAME in masks else Path(masks)
    if not where.is_dir():
        message = "is no folder" if where.exists() else "no such folder"
        raise BadSamples(message, where=str(where), hint=HINT)
    return rule


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures of a folder, by their paths in it, the mask of each, and sentences for the user."""

    folder: Path
    names: Sequence[str]
    masks: Sequence[Path]
    doubts: tuple[str, ...] = ()


def find(settings: Data, *, progress: Progress = silent) -> Found:
    """The pictures and masks that the settings name.

    Raises:
        BadSamples: a picture has no mask, or one of another size or of values that are no classes;
            or a file is damaged. Missing: Pillow is not installed.
    """
    assert settings.folder is not None
    assert settings.masks is not None
    every = [paired(settings.folder, settings.masks)]
    if settings.test is not None:
        assert settings.test_masks is not None
        every.append(paired(settings.test, settings.test_masks))
    before = settings.image or Image()
    where = every[0].folder
    # a joined path to an absolute one is the absolute one
    inside = [str((pairs.folder / name).resolve()) for pairs in every[1:] for name in pairs.names]
    names = [*every[0].names, *inside]
    masks = [mask for pairs in every for mask in pairs.masks]
    pictures = [where / name for name in names]
    read = Read.of(pictures, masks, before, progress)
    coding = coding_of(read.counts, settings, lambda row: str(masks[row]))
    source = Files(where, names, Processing(before))
    fitter = Fitter(source, settings.image, settings.check, progress)
    return Found(
        count=len(names),
        prepare=fitter.prepare,
        labels=coded(read.masks, coding),
        task="segmentation",
        outputs=len(coding.classes),
        where=str(where),
        classes=coding.classes,
        groups=None if settings.group is None else _groups(names, settings.group, str(where)),
        test=None if len(every) == 1 else np.arange(len(names)) >= len(every[0].names),
        doubts=(*(doubt for pairs in every for doubt in pairs.doubts), *read.doubts),
    )


def masked(folder: str | Path, masks: str, processing: Processing) -> Samples:
    """The pictures below a folder as samples, their masks as labels, as large as the input.

    Args:
        masks: as a recipe says it.
        processing: of images; its post-processing names the classes, where there is one.

    Raises:
        BadSamples: as `find`, or the pre-processing is not of images.
    """
    before, after = processing.preprocess, processing.postprocess
    if not isinstance(before, Image):
        message = f"masks do not go with pre-processing of kind `{before.kind}`"
        raise BadSamples(message, where=str(folder), hint="that of a network that sees pictures")
    pairs = paired(folder, masks)
    read = Read.of([pairs.folder / name for name in pairs.names], pairs.masks, before)
    names = () if after is None else after.labels
    settings = Data(folder=str(folder), masks=masks, classes=names)
    coding = coding_of(read.counts, settings, lambda row: str(pairs.masks[row]))
    every = np.arange(len(pairs.names))
    source = Files(pairs.folder, pairs.names, processing)
    return Samples(source, coded(read.masks, coding), every, str(folder), coding.classes)


def paired(folder: str | Path, masks: str) -> Pairs:
    """The pictures below a folder, in the order of their paths, and the mask of each.

    Masks may lie among the pictures, and are none of them.

    Raises:
        BadSamples: a folder is not there, or a picture has no mask.
    """
    folder = Path(folder)
    if not folder.is_dir():
        message = "is no folder" if folder.exists() else "no such folder"
        raise BadSamples(message, where=str(folder), hint="a folder of pictures")
    rule = rule_of(masks)
    known = rule.found()
    taken = {path.absolute() for path in known.values()}
    names = [
        path.relative_to(folder).as_posix()
        for path in _files(folder)
        if path.suffix.lower() in Image.suffixes and path.absolute() not in taken
    ]
    if not names:
        hint = f"files that end in {', '.join(sorted(Image.suffixes))}"
        raise BadSamples("there are no pictures in it", where=str(folder), hint=hint)
    stems = [str(PurePosixPath(name).with_suffix("")) for name in names]
    lacking = [i for i, stem in enumerate(stems) if stem not in known]
    if lacking:
        first = stems[lacking[0]]
        more = f"{len(lacking)} of {len(names)} pictures have no mask, as this one"
        raise BadSamples(
            f"{'there is no mask of it' if len(lacking) == 1 else more}; looked for:"
            f" {rule.place(first)}",
            where=str(folder / names[lacking[0]]),
            hint=_way_out(rule, first),
        )
    doubts: tuple[str, ...] = ()
    if unused := sorted(set(known) - set(stems)):
        doubts = (f"masks without a picture are not read: {len(unused)}, as `{known[unused[0]]}`",)
    return Pairs(folder, names, [known[stem] for stem in stems], doubts)


@dataclass(frozen=True, eq=False)
class Read:
    """Masks as they are read.

    Attributes:
        masks: their values over the network's input, int16 [height, width] each.
        counts: pixels of each value, int64 [masks, 256].
    """

    masks: Sequence[np.ndarray]
    counts: np.ndarray
    doubts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        pictures: Sequence[Path],
        masks: Sequence[Path],
        before: Image,
        progress: Progress = silent,
    ) -> Read:
        """The masks of pictures, resized and cropped as these are.

        Raises:
            BadSamples: a file is damaged, a mask is of another size than its picture, or the
                pre-processing leaves them unlike in size.
        """
        found: list[np.ndarray] = []
        counts = np.zeros((len(masks), 256), np.int64)
        turned = 0
        for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
            progress("reading masks", i + 1, len(masks))
            sides, is_turned = upright(picture)
            turned += is_turned
            values = read_mask(mask)
            if values.shape != sides:
                raise BadSamples(
                    f"is of {_by(values.shape)} pixels, and its picture `{picture.name}` of"
                    f" {_by(sides)}",
                    where=str(mask),
                    hint="a mask has a value for each pixel of its picture, as that lies there",
                )
            counts[i] = counted(values, str(mask))
            place = before.place(sides)
            found.append(place.taken(values.astype(np.int16), OUTSIDE))
            if found[-1].shape != found[0].shape:
                raise BadSamples(
                    f"pictures are unlike in size: `{pictures[0].name}` becomes"
                    f" {_by(found[0].shape)}, this one {_by(found[-1].shape)}",
                    where=str(picture),
                    hint="`image: {resize: {exactly: [HEIGHT, WIDTH]}, scale: 1/255}`",
                )
        doubts: tuple[str, ...] = ()
        if turned:
            doubts = (
                f"pictures that are turned by what their files say (EXIF): {turned}; masks are"
                " taken as drawn over the upright picture",
            )
        return cls(found, counts, doubts)


def read_mask(path: Path) -> np.ndarray:
    """The values of a mask, whole numbers of shape [height, width]: gray levels, indices into a
    palette, or 0 and 1 of one bit. Colours are taken where they are gray.

    Raises:
        BadSamples: the file is damaged, or coloured without a palette.
        Missing: Pillow is not installed.
    """
    with _opened(path) as file:
        tile = getattr(file, "tile", None) or [("", None, 0, "")]
        widened = WIDENED.get(str(tile[0][3]), 1)
        try:
            values = np.asarray(file)
        except Exception as error:
            raise _damaged(path, error) from error
        mode = file.mode
    if values.ndim == 3:
        colors = values if mode == "LA" else values[..., :3]
        values = values[..., 0]
        if mode != "LA" and (colors != values[..., None]).any():
            raise BadSamples(
                "its pixels are colours, not class numbers",
                where=str(path),
                hint="save it with a palette, or in gray with 0 for the first class, 1 for the"
                " second ...",
            )
    if values.dtype.kind not in "iub":
        message = f"its pixels are {values.dtype}, not class numbers"
        raise BadSamples(message, where=str(path), hint="8 bits a pixel")
    values = values.astype(np.uint8) if values.dtype == bool else values
    return values // widened if widened > 1 else values


def upright(path: Path) -> tuple[tuple[int, int], bool]:
    """Height and width of a picture as it is seen, and whether its file says that it is turned.

    Raises:
        BadSamples: it is no picture.
    """
    with _opened(path) as file:
        width, height = file.size
        try:
            orientation = file.getexif().get(ORIENTATION, 1)
        except Exception as error:
            raise _damaged(path, error) from error
    return (width, height) if orientation in TURNED else (height, width), orientation != 1


def _opened(path: Path) -> Any:
    try:
        return pillow().open(path)
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> BadSamples:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    hint = "remove it, or put a sound one"
    return BadSamples(f"cannot be decoded ({reason})", where=str(path), hint=hint)


def _groups(names: Sequence[str], pattern: str, where: str) -> np.ndarray:
    """A number for what the pattern finds in each path: its first part in brackets, or all."""
    found = []
    for name in names:
        match = re.search(pattern, name)
        if match is None:
            message = f"`group` finds nothing in `{name}`"
            raise BadSamples(message, where=where, hint=f"`{pattern}` is looked for in each path")
        found.append(match[1] if match.re.groups else match[0])
    return group_numbers(found)


def _way_out(rule: Rule, name: str) -> str:
    """What is to be done about the mask of a picture that has none."""
    last = PurePosixPath(name).name
    for path in _files(rule.root):
        at = path.relative_to(rule.root).as_posix()
        if PurePosixPath(at).stem == last and path.suffix.lower() in (".jpg", ".jpeg"):
            return f"`{at}` is no mask: JPEG changes values; save masks as PNG"
        if last in at and path.suffix.lower() in SUFFIXES:
            return f"is it `{at}`? `masks: {rule.root.name}/{at.replace(last, NAME)}`"
    return "draw it, or remove the picture; `masks: .../{name}_mask.png` where masks are named so"


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, but for hidden ones, in the order of their paths."""
    for above, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(above) / name


def _posix(path: str) -> str:
    return path.replace(os.sep, "/")


def _by(sides: Sequence[int] | Mapping[int, int]) -> str:
    return "x".join(map(str, sides))

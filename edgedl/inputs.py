"""Files that users name, as values: models and samples, and samples by purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgedl.core.errors import BadKey, BadOption, BadSamples
from edgedl.core.model import Model
from edgedl.core.registry import load
from edgedl.core.samples import Samples, from_arrays, open_npz
from edgedl.core.store import default_store, is_stored_in_memory, key_of
from edgedl.runtime.artifact import find_model
from edgedl.runtime.bundle import Bundle, is_bundle, open_bundle
from edgedl.runtime.process import Preprocess, Processing
from edgedl.runtime.process.files import open_files
from edgedl.runtime.sign.admit import TrustSource
from edgedl.runtime.sign.sealed import KeySource

UNPACKED = "model.onnx"
MOST_CALIBRATION = 512
MOST_CHOICE = 256
FEW = 256
SampleSource = str | Path | Samples | Mapping[str, np.ndarray]
ProcessingSource = str | Path | Processing | Preprocess


def load_samples(source: SampleSource, processing: Processing | None = None) -> Samples:
    """Samples from an `.npz` file, from arrays by input name, or from raw files.

    Args:
        processing: what turns the raw files in a folder, or a single one, into inputs.

    Raises:
        BadSamples: they are unsound.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, Mapping):
        return from_arrays(source)
    path = Path(source)
    suffixes = frozenset() if processing is None else processing.preprocess.suffixes
    if not path.is_dir() and path.suffix.lower() not in suffixes:
        return open_npz(path)
    if processing is None:
        raise BadSamples(
            "is a folder, and nothing says what turns its files into inputs",
            where=str(path),
            hint="--preprocess SPEC.yaml, which begins with `kind: image` or `kind: sound`",
        )
    return open_files(path, processing)


def open_inputs(
    source: SampleSource,
    given: ProcessingSource | None,
    models: Sequence[str | Path | Bundle],
    masks: str | Path | None = None,
) -> tuple[Samples, Processing | None]:
    """Samples to run, and what stands before and behind the network: where they are raw files, as
    given, or as the bundles among the models carry it.

    Args:
        masks: where the labels of a folder of pictures lie, as a recipe's `data: masks` says it.

    Raises:
        BadSamples, BadValue, BadBundle, BadOption: as `load_samples` and `find_processing`; or
            pre-processing is given for arrays.
    """
    raw = isinstance(source, (str, Path)) and (
        Path(source).is_dir() or Path(source).suffix.lower() != ".npz"
    )
    if given is not None and not raw:
        raise BadOption(
            "samples that are arrays are not pre-processed",
            hint="leave --preprocess out, or give a folder of raw files",
        )
    processing = find_processing(given, models if raw else ())
    if masks is None:
        return load_samples(source, processing), processing
    if not isinstance(source, (str, Path)) or not Path(source).is_dir() or processing is None:
        hint = "--samples FOLDER, and a bundle or --preprocess that says what becomes of its files"
        raise BadOption("masks are of pictures in a folder", hint=hint)
    masked = load("edgedl.train.data.mask_files:masked", "reading masks")
    return masked(source, str(masks), processing), processing


def find_processing(
    given: ProcessingSource | None, models: Sequence[str | Path | Bundle] = ()
) -> Processing | None:
    """What stands before and behind a network: as given, or as the bundles among models carry it.

    Args:
        given: a YAML file, or the value.
        models: paths, or bundles that were opened already, with proof or without.

    Raises:
        BadValue: the file is unsound; the error has the line. BadBundle: a bundle is. BadOption:
            two bundles carry unlike ones.
    """
    if isinstance(given, (str, Path)):
        located = load("edgedl.yamls:read_yaml", "reading YAML")(given)
        found: Processing = located.read(Processing.from_json)
        return found
    if given is not None:
        return given if isinstance(given, Processing) else Processing(given)
    carried: dict[Path, Processing] = {}
    for model in models:
        bundle = model if isinstance(model, Bundle) else _bundle_at(find_model(model))
        if bundle is not None and (one := bundle.processing()) is not None:
            carried[bundle.path] = one
    first = next(iter(carried), None)
    for path, one in carried.items():
        if first is not None and one != carried[first]:
            raise BadOption(
                f"`{first}` and `{path}` carry unlike pre-processing",
                hint="say which with --preprocess SPEC.yaml, or name one bundle",
            )
    return None if first is None else carried[first]


def _bundle_at(path: Path) -> Bundle | None:
    return open_bundle(path, sparing=True) if is_bundle(path) else None


def load_model(
    path: str | Path, *, trust: TrustSource | None = None, key: KeySource | None = None
) -> Model:
    """The ONNX model in a file, a bundle, or a folder that holds one of them. `trust` and `key` are
    those of `edgedl.open`, for a bundle; an encrypted one is decrypted within `stored_in_memory`
    alone.

    Raises:
        BadModel, BadBundle: the file is missing or unsound. Missing: what reads ONNX is not
            installed; to run a model, an engine is enough. BadKey: the bundle's is encrypted.
    """
    path = find_model(path)
    what = "looking into an ONNX model"
    open_model: Callable[[Path], Model] = load("edgedl.passes.graph:open_model", what)
    if not is_bundle(path):
        return open_model(path)
    bundle = open_bundle(path, trust=trust, key=key)
    payload = bundle.onnx
    if payload.sealed is not None and not is_stored_in_memory():
        raise BadKey(
            "its model is encrypted, and is never written to disk in clear",
            where=str(path),
            hint="name the bundle, or the ONNX file, that it was made of",
        )

    def unpack(folder: Path) -> None:
        (folder / UNPACKED).write_bytes(bundle.payload_bytes(payload))

    folder = default_store().make(key_of(part=bundle.digest(payload)), unpack)
    return replace(open_model(folder / UNPACKED), history=bundle.history())


@dataclass(frozen=True)
class Groups:
    """Samples for each purpose, disjoint where there are enough."""

    calibration: Samples
    choice: Samples
    report: Samples
    doubts: tuple[str, ...]


def split(
    samples: Samples,
    test: Samples | None,
    seed: int,
    validation: Samples | None = None,
    most_choice: int = MOST_CHOICE,
) -> Groups:
    """Samples to calibrate with, 512 at most, to choose by, and to report on.

    Where there are no `test` samples, half of the samples calibrate; where there are no
    `validation` samples to choose by, a part of those for the report is: half of them and 256 at
    most, or a quarter of them.

    Args:
        most_choice: samples to choose by, at most; 256 or more.

    Raises:
        BadSamples: validation samples have labels and those for the report have none, or the other
            way round.
    """
    count = len(samples)
    if test is not None:
        size = min(MOST_CALIBRATION, count)
        calibration = samples.split([size], seed)[0]
        rest = test
    elif count == 1:
        one = "one sample served for everything; give more"
        return Groups(samples, validation or samples, samples, (one,))
    else:
        size = min(MOST_CALIBRATION, max(1, count // 2))
        calibration, rest = samples.split([size, count - size], seed)
    doubts = () if size >= 16 else (f"{size} calibration samples; 100 or more give safer ranges",)
    if validation is not None:
        _check_alike(validation, rest)
        most = min(most_choice, len(validation))
        return Groups(calibration, validation.split([most], seed + 1)[0], rest, doubts)
    if len(rest) < FEW:
        few = f"{len(rest)} held-back samples served for choosing and for the report"
        return Groups(calibration, rest, rest, (*doubts, few))
    choice = max(min(MOST_CHOICE, len(rest) // 2), min(most_choice, len(rest) // 4))
    chosen, report = rest.split([choice, len(rest) - choice], seed + 1)
    return Groups(calibration, chosen, report, doubts)


def _check_alike(validation: Samples, report: Samples) -> None:
    if (validation.labels is None) != (report.labels is None):
        bare = validation if validation.labels is None else report
        raise BadSamples(
            "samples to choose by and those of the report want labels both, or neither",
            where=bare.where,
            hint="save `labels` in both",
        )

"""Files that users name, as values: models and samples, and samples by purpose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgedl.core.model import Model
from edgedl.core.registry import load
from edgedl.core.samples import Samples, from_arrays, open_npz
from edgedl.core.store import default_store, key_of
from edgedl.runtime.artifact import find_model
from edgedl.runtime.bundle import is_bundle, open_bundle

UNPACKED = "model.onnx"
MOST_CALIBRATION = 512
MOST_CHOICE = 256
FEW = 256
SampleSource = str | Path | Samples | Mapping[str, np.ndarray]


def load_samples(source: SampleSource) -> Samples:
    """Samples from an `.npz` file, or from arrays by input name.

    Raises:
        BadSamples: they are unsound.
    """
    if isinstance(source, Samples):
        return source
    if isinstance(source, Mapping):
        return from_arrays(source)
    return open_npz(source)


def load_model(path: str | Path) -> Model:
    """The ONNX model in a file, a bundle, or a folder that holds one of them.

    Raises:
        BadModel, BadBundle: the file is missing or unsound. Missing: what reads ONNX is not
            installed; to run a model, an engine is enough.
    """
    path = find_model(path)
    what = "looking into an ONNX model"
    open_model: Callable[[Path], Model] = load("edgedl.passes.graph:open_model", what)
    if not is_bundle(path):
        return open_model(path)
    bundle = open_bundle(path)
    part = bundle.parts[bundle.payloads[0].part]

    def unpack(folder: Path) -> None:
        (folder / UNPACKED).write_bytes(bundle.read(part.name))

    folder = default_store().make(key_of(part=part.sha256), unpack)
    return replace(open_model(folder / UNPACKED), history=bundle.history())


@dataclass(frozen=True)
class Groups:
    """Samples for each purpose, disjoint where there are enough."""

    calibration: Samples
    choice: Samples
    report: Samples
    doubts: tuple[str, ...]


def split(samples: Samples, test: Samples | None, seed: int) -> Groups:
    """Half of the samples, 512 at most, to calibrate, the rest to choose and to report on."""
    count = len(samples)
    if test is not None:
        size = min(MOST_CALIBRATION, count)
        calibration = samples.split([size], seed)[0]
        rest = test
    elif count == 1:
        return Groups(samples, samples, samples, ("one sample served for everything; give more",))
    else:
        size = min(MOST_CALIBRATION, max(1, count // 2))
        calibration, rest = samples.split([size, count - size], seed)
    doubts = () if size >= 16 else (f"{size} calibration samples; 100 or more give safer ranges",)
    if len(rest) < FEW:
        few = f"{len(rest)} held-back samples served for choosing and for the report"
        return Groups(calibration, rest, rest, (*doubts, few))
    choice = min(MOST_CHOICE, len(rest) // 2)
    chosen, report = rest.split([choice, len(rest) - choice], seed + 1)
    return Groups(calibration, chosen, report, doubts)

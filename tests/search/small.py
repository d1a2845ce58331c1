"""Tiny models made ready for the search, as `compress` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edgedl.backends import backend
from edgedl.core.model import Model
from edgedl.core.progress import silent
from edgedl.core.samples import Samples
from edgedl.passes.calibrate import calibrate
from edgedl.passes.ranges import Histogram
from edgedl.runtime import engine
from edgedl.search.candidates import Candidate, int8_candidate, reference, tensors_to_watch
from edgedl.search.limits import Limits
from edgedl.search.placement import Bench
from edgedl.search.prepared import Prepared
from edgedl.search.ready import prepare
from edgedl.search.ways import Ways
from tests.models import feeds, samples, saved


def prepared(net: onnx.ModelProto, folder: Path) -> Model:
    """The cleaned model."""
    return prepare(saved(net, folder), {})


def counted(clean: Model, engine_name: str, count: int = 8) -> Mapping[str, Histogram]:
    """Histograms of everything that a plan for the engine may quantize."""
    watched = tensors_to_watch(clean, [backend(engine_name).scheme])
    return calibrate(clean, watched, samples(clean.signature, count))


def full_plan(
    clean: Model, engine_name: str, histograms: Mapping[str, Histogram] | None = None, **more: Any
) -> Candidate:
    """The model in int8 as far as the rules go."""
    histograms = counted(clean, engine_name) if histograms is None else histograms
    settings = {"label": "int8, minmax", **more}
    return int8_candidate(backend(engine_name), Prepared(clean, histograms), "minmax", **settings)


def bench(clean: Model, engine_name: str) -> Bench:
    """What placing needs to measure, on one thread."""
    return Bench(backend(engine_name), feeds(clean.signature, 1)[0], 1, silent)


def ways(
    net: onnx.ModelProto, folder: Path, engine_name: str, given: Samples | None = None, **more: Any
) -> Ways:
    """What candidates are made from; the float model's own answers are expected."""
    model = saved(net, folder)
    clean = prepare(model, {})
    given = samples(model.signature, 16) if given is None else given.bind(clean.signature)
    with engine(engine_name).open_model(model.path, settings={}, threads=1) as session:
        expected = reference(session, given, None)
    return Ways(model, clean, given, expected, **{"limits": Limits(), "threads": 1,
                "progress": silent, **more})  # fmt: skip

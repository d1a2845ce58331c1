"""Nets that a naive way to int8 spoils, and that answer like float again as the search makes them.

How each was made is told in `golden/README.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.backends import Backend, backend
from edgedl.benchmark.metrics.classes import top1
from edgedl.benchmark.metrics.detection import detection
from edgedl.benchmark.metrics.metric import Metric
from edgedl.core.samples import Samples, from_arrays
from edgedl.core.target import PRODUCTS
from edgedl.passes.calibrate import calibrate
from edgedl.passes.graph import open_model
from edgedl.passes.quantize import Quantize
from edgedl.runtime import engine, installed_engines
from edgedl.search.candidates import Candidate, reference, tensors_to_watch
from edgedl.search.exactness import best_ranges
from edgedl.search.prepared import Prepared
from edgedl.search.ready import prepare

GOLDEN = Path(__file__).parent / "golden"
FASHION = Path(__file__).parent.parent / "calibration" / "fashion-mnist"
NETS = ("mobilenet_v3", "efficientnet", "vit", "detector", "mobilenet_v2")
CALIBRATION, HELD_BACK, TESTED = 64, 24, 1500
COLLAPSE, RECOVERED = 0.05, 0.013


@dataclass(frozen=True, eq=False)
class Task:
    """A net, images float32 in [0, 1], and what its answers are measured by."""

    path: Path
    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray
    metric: Metric

    @property
    def seen(self) -> Samples:
        return self._samples(self.calibration[:CALIBRATION])

    @property
    def unseen(self) -> Samples:
        return self._samples(self.calibration[CALIBRATION : CALIBRATION + HELD_BACK])

    def _samples(self, images: np.ndarray) -> Samples:
        return from_arrays({"image": images}).bind(open_model(self.path).signature)

    def score(self, name: str, model: Path, settings: Mapping[str, Any]) -> float:
        """What the metric says of a model's answers on an engine."""
        feeds = [{"image": image[None]} for image in self.images]
        with engine(name).open_model(model, settings=settings, threads=1) as session:
            answers = [session.run(feed) for feed in feeds]
        return self.metric.score(self.metric.rows(zip(answers, self.labels, feeds, strict=True)))


@cache
def task(net: str) -> Task:
    path = GOLDEN / f"{net}.onnx"
    if net == "detector":
        with np.load(GOLDEN / "scenes.npz") as arrays:
            seen, images, boxes = (arrays[name] for name in ("calibration", "test", "boxes"))
        metric = detection(format="yolo", iou=(0.5,), threshold=0.1)
        return Task(path, _grey(seen), _grey(images), boxes.astype(np.float32), metric)
    with np.load(FASHION / "calibration.npz") as few, np.load(FASHION / "test.npz") as many:
        seen, images, labels = few["image"], many["image"][:TESTED], many["labels"][:TESTED]
    return Task(path, seen, images, labels, top1())


def _grey(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


@cache
def float_score(net: str, name: str) -> float:
    given = task(net)
    return given.score(name, given.path, backend(name).settings("float32"))


def loss(net: str, name: str, model: Path, settings: Mapping[str, Any] | None = None) -> float:
    """What a model's score lacks to that of the float net on the same engine."""
    settings = backend(name).settings("int8") if settings is None else settings
    return float_score(net, name) - task(net).score(name, model, settings)


@pytest.fixture(scope="module")
def by_default(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What onnxruntime's own quantizer makes of a net with its documented defaults: a scale for a
    whole weight, least and largest values as ranges, the model's output in int8, too."""

    @cache
    def make(net: str) -> Path:
        tool = pytest.importorskip("onnxruntime.quantization")
        feeds = ({"image": image[None]} for image in task(net).calibration[:CALIBRATION])

        class Reader(tool.CalibrationDataReader):  # type: ignore[misc, name-defined]
            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(feeds, None)

        path = tmp_path_factory.mktemp("naive") / f"{net}.onnx"
        tool.quantize_static(task(net).path, path, Reader())
        return path

    return make


@pytest.mark.parametrize("name", installed_engines())
@pytest.mark.parametrize("net", NETS)
def test_the_naive_way_spoils_it(net: str, name: str, by_default: Callable[[str], Path]) -> None:
    assert loss(net, name, by_default(net)) >= COLLAPSE


@pytest.mark.parametrize("name", installed_engines())
def test_scales_by_channel_do_not_help_where_activations_are_uneven(name: str) -> None:
    given = task("mobilenet_v2")
    clean = prepare(open_model(given.path), {})
    naive = Quantize(given.seen, scheme=backend(name).scheme.name, method="minmax")(clean)
    assert loss("mobilenet_v2", name, naive.path) >= COLLAPSE


@pytest.mark.parametrize("name", installed_engines())
@pytest.mark.parametrize("net", NETS)
def test_the_search_brings_it_back_in_int8(net: str, name: str) -> None:
    found = _found(task(net), backend(name))
    assert found.plan is not None
    products = [d for d in found.plan.decisions if d.operator in PRODUCTS]
    assert products
    assert all(decision.precision == "int8" for decision in products)
    assert loss(net, name, found.model.path, found.settings) <= RECOVERED


def _found(given: Task, built: Backend) -> Candidate:
    clean, seen = prepare(open_model(given.path), {}), given.seen
    histograms = calibrate(clean, tensors_to_watch(clean, [built.scheme]), seen)
    settings = built.settings("float32")
    with engine(built.engine).open_model(clean.path, settings=settings, threads=1) as session:
        expected = reference(session, given.unseen, None)
    found = best_ranges(built, Prepared(clean, histograms), seen, expected, 1, mixing_seconds=0)
    assert isinstance(found, Candidate)
    return found

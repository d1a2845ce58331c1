"""What is written where a bundle is to be, and what never is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

import edgedl
from edgedl.backends import backend
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import WrongAnswers
from edgedl.core.samples import Source
from edgedl.core.stats import Agreement, Interval
from edgedl.pipeline import compress
from edgedl.runtime import installed_engines
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.process import Processing
from edgedl.runtime.process.image import Image
from edgedl.search.candidates import Candidate, Trial
from edgedl.search.choose import troubles
from edgedl.search.limits import Limits
from edgedl.ship import bundle_sizes, ship
from tests.models import NETS, Sketch, conv_net, residual_net, samples, saved
from tests.search.small import full_plan, prepared

INSTALLED = installed_engines()
PERFECT = Agreement(1.0, 1.0, 200.0, 4)


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_trial_becomes_a_proven_bundle(engine: str, tmp_path: Path) -> None:
    clean = prepared(residual_net(), tmp_path)
    out = tmp_path / "out.edl"
    notes = {"target": engine, "unconfirmed": True}
    trial = Trial(full_plan(clean, engine), PERFECT, 0.0)
    operators = ship(trial, samples(clean.signature, 4), out, 1, notes).operators
    assert any(operator.precision == "int8" for operator in operators)
    assert all(operator.us is not None for operator in operators)
    assert edgedl.check(out).ok
    assert open_bundle(out).payloads[0].precision == "int8"
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.edl"]


@pytest.mark.parametrize("processed", [False, True])
@pytest.mark.parametrize("net", ["conv", "gemm", "if"])
@pytest.mark.parametrize("engine", INSTALLED)
def test_the_size_of_a_bundle_is_known_before_it_is_written(
    engine: str, net: str, processed: bool, tmp_path: Path
) -> None:
    clean = prepared(NETS[net](), tmp_path)
    out, given = tmp_path / "out.edl", samples(clean.signature, 6)
    settings = backend(engine).settings("float32")
    as_float = Candidate(engine, "float32", "float32, cleaned", clean, settings)
    with as_float.open(1) as session:
        answer = session.run(next(iter(given)))
    notes = {"target": engine, "threads": 1}
    late = {"speedup": Interval(2.125, 1 / 3, 1e-9).to_json(), "machine": this_machine().to_json()}
    processing = Processing(Image()) if processed else None
    size_of = bundle_sizes(given, answer, notes, processing)
    for candidate in (as_float, full_plan(clean, engine)):
        trial = Trial(candidate, PERFECT, 0.0)
        ship(trial, given, out, 1, {**notes, **late}, processing)
        real = out.stat().st_size
        # Another engine may refuse what it was taken to open, and some hundred bytes are saved.
        assert real <= size_of(candidate) <= real + 128 + 256
        # What the choice says of a limit is what the file will say.
        limits = Limits(max_bytes=size_of(candidate), bundle_bytes=size_of)
        assert limits.broken_by(trial, 1.0) == () == limits.broken(0.0, 1.0, real)
        limits = Limits(max_bytes=real - 1, bundle_bytes=size_of)
        assert len(limits.broken_by(trial, 1.0)) == 1 == len(limits.broken(0.0, 1.0, real))
        assert troubles(trial, {candidate.name: 1.0}, limits) == (0, 1)


@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs two engines")
@pytest.mark.parametrize("engine", INSTALLED)
def test_another_engine_that_answers_alike_stands_behind(engine: str, tmp_path: Path) -> None:
    """In the same bytes: the file is some hundred bytes larger for it."""
    clean = prepared(residual_net(), tmp_path)
    trial, given = Trial(full_plan(clean, engine), PERFECT, 0.0), samples(clean.signature, 4)
    out, alone = tmp_path / "out.edl", tmp_path / "alone.edl"
    shipped = ship(trial, given, out, 1, {})
    assert ship(trial, given, alone, 1, {}, fallbacks=False).fallbacks is None
    assert len(open_bundle(alone).payloads) == 1
    first, second = open_bundle(out).payloads
    assert (first.engine, second.engine) == (engine, next(n for n in INSTALLED if n != engine))
    assert (second,) == shipped.fallbacks
    assert (first.part, first.precision) == (second.part, second.precision)
    assert out.stat().st_size - alone.stat().st_size <= 256
    assert out.read_bytes()[8] == alone.read_bytes()[8] < 3
    for one in (first, second):
        opened = edgedl.open(out, threads=1, golden="all", engine_name=one.engine).opened
        assert opened.engine == one.engine
    again = ship(trial, given, alone, 1, {"more": 1}, before=ship(trial, given, alone, 1, {},
                 fallbacks=False))  # fmt: skip
    assert again.fallbacks == shipped.fallbacks


@pytest.mark.skipif(set(INSTALLED) != {"onnxruntime", "openvino"}, reason="needs both engines")
def test_another_engine_that_refuses_the_file_does_not(tmp_path: Path) -> None:
    """OpenVINO knows none of onnxruntime's own operators."""
    net = Sketch()
    net.node("CDist", ["x", net.weight("points", 8, 8)], "logits", domain="com.microsoft",
             metric="euclidean")  # fmt: skip
    proto = net.model([1, 8], [1, 8])
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model = saved(proto, tmp_path)
    trial = Trial(Candidate("onnxruntime", "float32", "float32", model, {}), PERFECT, 0.0)
    given = samples(model.signature, 4)
    assert ship(trial, given, tmp_path / "out.edl", 1, {}).fallbacks == ()
    [only] = open_bundle(tmp_path / "out.edl").payloads
    assert only.engine == "onnxruntime"


@dataclasses.dataclass(frozen=True)
class Meanwhile:
    """A source of samples during whose loading something else happens to the model's file."""

    source: Source
    happens: Callable[[], object]

    def load(self, row: int) -> Any:
        self.happens()
        return self.source.load(row)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)


@pytest.mark.parametrize("before", [None, b"an earlier result"])
def test_a_bundle_that_answers_otherwise_replaces_nothing(
    before: bytes | None, tmp_path: Path
) -> None:
    model, other = saved(conv_net(), tmp_path), conv_net(seed=1).SerializeToString()
    out = tmp_path / "out.edl"
    if before is not None:
        out.write_bytes(before)
    there = sorted(path.name for path in tmp_path.iterdir())
    given = samples(model.signature, 4)
    source = Meanwhile(given.source, lambda: model.path.write_bytes(other))
    trial = Trial(Candidate(INSTALLED[0], "float32", "float32", model, {}), PERFECT, 0.0)
    with pytest.raises(WrongAnswers) as caught:
        ship(trial, dataclasses.replace(given, source=source), out, 1, {})
    assert caught.value.where == str(out)
    assert caught.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == there
    assert before is None or out.read_bytes() == before


def test_the_same_candidate_again_is_proven_again_with_new_notes(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    given, out = samples(model.signature, 4), tmp_path / "out.edl"
    trial = Trial(Candidate(INSTALLED[0], "float32", "float32", model, {}), PERFECT, 0.0)
    first = ship(trial, given, out, 1, {"unconfirmed": True})
    assert ship(trial, given, out, 1, {"speedup": 2}, before=first) is first
    assert open_bundle(out).notes == {"speedup": 2}
    (tmp_path / "other").mkdir()
    another = saved(conv_net(seed=1), tmp_path / "other")
    other = Trial(dataclasses.replace(trial.candidate, model=another), PERFECT, 0.0)
    assert ship(other, given, out, 1, {}, before=first) is not first


class Stopped(Exception):
    """What a person does while a command runs."""


@pytest.mark.parametrize("stage", ["comparing", "timing"])
def test_a_run_that_ends_early_leaves_the_best_so_far(stage: str, tmp_path: Path) -> None:
    """Stopped in the search, once something was kept, and in the decisive timing."""
    model = saved(conv_net(), tmp_path)
    out = tmp_path / "out.edl"
    arrays = {"x": np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32)}

    def stop(label: str, done: int, total: int) -> None:
        if out.exists() and label.startswith(stage):
            raise Stopped

    with pytest.raises(Stopped):
        compress(
            model.path, arrays, out, target=INSTALLED[0], seconds=0.5, progress=stop, max_bytes=10
        )
    assert edgedl.check(out).ok
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".tmp"]
    finished = compress(model.path, arrays, out, target=INSTALLED[0], seconds=0.5)
    assert edgedl.check(out).ok
    assert finished.bytes == out.stat().st_size

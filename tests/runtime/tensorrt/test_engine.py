"""From ONNX to answers: built apart, tried, kept, and built again where it has to be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadOption, BadValue, EngineFailed, Missing, Unsupported
from edgedl.core.registry import installed
from edgedl.core.store import Store
from edgedl.runtime import Builder, Standing
from edgedl.runtime import engine as find_engine
from edgedl.runtime.session import Operator
from edgedl.runtime.tensorrt import engine as room
from edgedl.runtime.tensorrt.cuda import find_cuda
from edgedl.runtime.tensorrt.engine import TensorRtEngine
from edgedl.runtime.tensorrt.inspection import described
from tests.runtime.tensorrt.fake_cuda import FakeCuda
from tests.runtime.tensorrt.fake_trt import FakeTrt
from tests.runtime.test_meanwhile import Answering

WORK = "tests.runtime.tensorrt.fake_work"
MODEL = b"a model for 10.3.0"
X = np.arange(6, dtype=np.float32).reshape(2, 3)


class Machine:
    """A fake GPU with a store, and engines on it."""

    def __init__(self, root: Path) -> None:
        self.cuda = FakeCuda()
        self.trt = FakeTrt(self.cuda)
        self.store = Store(root)
        self.told: list[str] = []
        self.steps: list[str] = []

    def engine(self, **changes: Any) -> TensorRtEngine:
        given: dict[str, Any] = {
            "find_cuda": lambda: find_cuda(lambda: [self.cuda]),
            "clock": lambda: 0.0,
            "progress": lambda label, done, total: self.steps.append(label),
            "notice": self.told.append,
            "store": self.store,
            "build_work": f"{WORK}:build",
            "trial_work": f"{WORK}:open_once",
        }
        return TensorRtEngine("tensorrt", self.trt, **(given | changes))

    def answers(self, engine: TensorRtEngine, model: bytes | str | Path = MODEL) -> None:
        with engine.open_model(model, settings={}) as session:
            for _ in range(3):
                np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X + 1)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "store")
    yield found
    assert not found.cuda.leaks()
    assert not found.trt.alive


def test_the_engine_is_built_once_and_kept(machine: Machine, tmp_path: Path) -> None:
    engine = machine.engine()
    machine.answers(engine)
    assert machine.steps == ["building: tactics", "building: tactics", "trying the engine"]
    assert len(machine.told) == 1
    machine.answers(engine)
    path = tmp_path / "a.onnx"
    path.write_bytes(MODEL)
    machine.answers(engine, path)
    machine.answers(engine, str(path))
    assert len(machine.told) == 1
    assert engine.on_gpu
    assert engine.version == "10.3.0"


def test_an_engine_is_made_to_stand_before_it_is_opened(machine: Machine) -> None:
    engine, told, steps = machine.engine(), [], []

    def stand() -> Standing:
        return engine.stand(
            MODEL,
            settings={},
            progress=lambda label, done, total: steps.append(label),
            notice=told.append,
        )

    assert isinstance(engine, Builder)
    first = stand()
    assert first.fresh
    assert first.bytes == (first.place / "plan").stat().st_size
    assert steps[-1] == "trying the engine"
    assert "first time on this machine" in told[0]
    machine.answers(engine)
    again = stand()
    assert (again.fresh, again.place, len(told)) == (False, first.place, 1)
    assert not machine.told


def test_what_the_builder_measured_goes_into_the_next_build(machine: Machine) -> None:
    engine = machine.engine()
    for settings in ({}, {"build": {"sparse": True}}, {"build": {"refit": True}}):
        engine.prepare(MODEL, settings=settings)
    (timing,) = (machine.store.root / "timing").iterdir()
    assert timing.read_bytes() == b"ttt"


def test_of_another_version_it_is_built_again_with_a_reason(machine: Machine) -> None:
    machine.answers(machine.engine())
    machine.trt.__version__ = "10.13.3"
    with pytest.raises(EngineFailed, match="built by another version"):
        # the fake builder makes what the model says, which is not what this library takes
        machine.answers(machine.engine())
    assert "version of it 10.3.0 then, 10.13.3 now; about 0.0 s, as it took then" in machine.told[1]
    assert "does not open: the engine was built by another version" in machine.told[2]
    assert len(machine.told) == 4


@pytest.mark.parametrize(
    ("work", "words"), [("crash", r"crashed \(SIGSEGV\)"), ("refuse", "refuses the model: Foo")]
)
def test_a_build_that_fails_keeps_nothing(machine: Machine, work: str, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        machine.engine(build_work=f"{WORK}:{work}").open_model(MODEL, settings={})
    assert not list(machine.store.root.rglob("engine.json"))


def test_an_engine_that_crashes_when_it_is_tried_is_not_kept(machine: Machine) -> None:
    with pytest.raises(EngineFailed, match=r"trying the new engine crashed \(SIGSEGV\)"):
        machine.engine(trial_work=f"{WORK}:crash").open_model(MODEL, settings={})
    assert not list(machine.store.root.rglob("engine.json"))


def test_the_first_question_is_whether_there_is_a_gpu(machine: Machine) -> None:
    machine.cuda.driver = 0
    for call in (machine.engine().open_model, machine.engine().prepare):
        with pytest.raises(Unsupported, match="no NVIDIA driver"):
            call(MODEL, settings={})
    with pytest.raises(Unsupported), Answering(1) as first:
        machine.engine().open_meanwhile(MODEL, first, settings={})
    assert not machine.told
    assert machine.engine().precisions() == ("float32",)


@pytest.mark.parametrize(
    ("capability", "fast"),
    [
        ((5, 0), ("float32",)),
        ((6, 1), ("float32",)),
        ((7, 2), ("float32", "float16")),
        ((8, 7), ("float32", "float16", "bf16")),
        ((12, 0), ("float32", "float16", "bf16")),
    ],
)
def test_precisions_by_compute_capability(
    machine: Machine, capability: tuple[int, int], fast: tuple[str, ...]
) -> None:
    machine.cuda.capability = capability
    assert machine.engine().precisions() == fast


def test_settings_that_are_none(machine: Machine) -> None:
    with pytest.raises(BadValue, match="unknown key `fp16`"):
        machine.engine().open_model(MODEL, settings={"build": {"fp16": True}})


def test_operators_as_the_inspector_tells_them(machine: Machine) -> None:
    found = machine.engine().operators(MODEL, {"x": X}, settings={}, runs=5)
    one, other, third = found
    assert one == Operator("PointWise", "float16", "affine_kernel", 250.0, layers=("mul", "add"))
    assert (other.kind, other.precision, other.us) == ("Reformat", "conversion", 125.0)
    assert (third.name, third.us) == ("a layer that only has a name", None)
    once = machine.engine().operators(MODEL, {"x": X}, settings={})
    assert [operator.us for operator in once] == [None, None, None]
    assert len(machine.told) == 1


def test_layers_that_only_the_profiler_knows() -> None:
    found = described('{"Layers": ["a"]}', {"a": [1.0, 3.0], "b": [0.5]}, {"a", "b"})
    assert [(o.name, o.us) for o in found] == [("a", 2000.0), ("b", 500.0)]


@pytest.mark.parametrize(
    ("form", "precision"),
    [
        ("Row major linear FP32", "float32"),
        ("Channel major FP16 format where C % 8 == 0", "float16"),
        ("Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("BFloat16", "bf16"),
        ("FP8", "fp8"),
        ("Int64", "integer"),
        ("", "integer"),
    ],
)
def test_precisions_of_formats(form: str, precision: str) -> None:
    layer = f'{{"Name": "l", "LayerType": "gemm", "Inputs": [{{"Format/Datatype": "{form}"}}]}}'
    assert described(f'{{"Layers": [{layer}]}}', {})[0].precision == precision


def test_the_cpu_answers_meanwhile(machine: Machine) -> None:
    first = Answering(7)
    with machine.engine().open_meanwhile(MODEL, first, settings={}) as session:
        assert session.wait(60), session.problem
        np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X + 1)
    assert first.is_closed


def test_where_the_build_crashes_the_cpu_goes_on(machine: Machine) -> None:
    engine = machine.engine(build_work=f"{WORK}:crash")
    with engine.open_meanwhile(MODEL, Answering(7), settings={}) as session:
        assert not session.wait(60)
        assert "crashed (SIGSEGV)" in str(session.problem)
        assert session.run({"x": X})["y"] == 7


def test_closing_ends_the_build(machine: Machine) -> None:
    session = machine.engine(build_work=f"{WORK}:hang").open_meanwhile(
        MODEL, Answering(7), settings={}
    )
    session.close()
    assert not session.wait(60)
    assert "cancelled" in str(session.problem)


@pytest.mark.parametrize(
    ("name", "attribute"), [("tensorrt", "ENGINE"), ("tensorrt_rtx", "ENGINE_RTX")]
)
def test_engines_by_name(name: str, attribute: str) -> None:
    if installed(name):
        found = find_engine(name)
        assert found is getattr(room, attribute)
        assert found.name == name
        assert found.version
    else:
        with pytest.raises(Missing, match=f"`{name}`"):
            find_engine(name)
    with pytest.raises(AttributeError):
        room.NOTHING  # noqa: B018
    with pytest.raises(BadOption, match="unknown engine"):
        find_engine("tensorrtx")

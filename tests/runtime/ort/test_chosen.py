"""Whether onnxruntime's GPU engines are here, and a whole compression with one of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import edgedl
from edgedl import runtime, ship
from edgedl.backends import backend
from edgedl.core.engines import ON_GPU
from edgedl.core.errors import Missing, Unsupported
from edgedl.core.store import Store
from edgedl.core.target import target_of
from edgedl.runtime import ENGINES, check, gpu
from edgedl.search.candidates import float_candidates, has_choices
from tests.models import conv_net, saved
from tests.runtime.ort import fakes
from tests.runtime.ort.fakes import NAMES


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """`onnxruntime-cuda` with the processor in the GPU's place, in this process."""
    made = fakes.instead("onnxruntime-cuda", tmp_path)
    device = SimpleNamespace(capability=(7, 5), name="a GPU")
    found = fakes.OrtGpuEngine(
        made.name, made.provider, "cpu", store=Store(tmp_path / "kept"),
        find_cuda=lambda: SimpleNamespace(device=lambda _: device),
    )  # fmt: skip
    monkeypatch.setattr(fakes, "HERE", found, raising=False)
    monkeypatch.setitem(ENGINES, made.name, "tests.runtime.ort.fakes:HERE")
    for module in (runtime, check, gpu):
        monkeypatch.setattr(module, "nvidia_gpu_here", lambda: True)
    monkeypatch.setattr(runtime, "provider_here", lambda name: name == made.name)
    return made.name


@pytest.mark.parametrize("name", NAMES)
def test_they_are_here_with_their_provider_and_a_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: True)
    monkeypatch.setattr(runtime, "provider_here", lambda _: False)
    assert name not in runtime.installed_engines()
    assert "onnxruntime-gpu" in runtime.how_to_get(name)
    with pytest.raises(Missing, match=name) as caught:
        runtime.engine(name)
    assert caught.value.hint == runtime.how_to_get(name)
    monkeypatch.setattr(runtime, "provider_here", lambda _: True)
    assert name in runtime.installed_engines()
    assert runtime.engine(name).name == name
    monkeypatch.setattr(runtime, "nvidia_gpu_here", lambda: False)
    assert name not in runtime.installed_engines()
    assert "GPU" in runtime.how_to_get(name)


def test_a_backend_is_for_its_own_target_and_tries_the_provider(pretended: str) -> None:
    built = backend(pretended)
    built.check(target_of(pretended))
    with pytest.raises(Unsupported, match="does not run"):
        built.check(target_of("cpu"))
    assert built.floats() == ("float32", "float16")
    assert not built.scheme.operators
    assert built.variants({}, {"Conv"}) == {"channels last": {"channels_last": True}}
    assert built.variants({}, {"MatMul"}) == {}
    assert backend("onnxruntime-tensorrt").variants({}, {"Conv"}) == {}


def test_doctor_says_why_a_provider_does_not_start(
    pretended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> dict[str, dict[str, str]]:
        return {row["name"]: row for row in edgedl.doctor()["engines"]}

    assert rows()[pretended]["version"]

    def broken(*_: object) -> None:
        raise Unsupported("`libcudnn.so.9` is not found")

    monkeypatch.setattr(fakes.OrtGpuEngine, "ready", broken)
    assert rows()[pretended]["version"] is None
    assert "libcudnn.so.9" in rows()[pretended]["install"]


def test_a_gpu_comes_before_the_processor_among_the_others(pretended: str) -> None:
    payload = backend("onnxruntime").compile(conv_net().SerializeToString(), "float32")
    found = [one.engine for one in ship._likely(payload)]
    gpus = [name in ON_GPU for name in found]
    assert pretended in found
    assert gpus == sorted(gpus, reverse=True)


def test_float_ways_are_written_in_the_graph_and_open(pretended: str, tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    found = list(float_candidates(backend(pretended), model, model))
    assert [one.precision for one in found] == ["float32", "float32", "float16"]
    feed = {"x": np.ones((1, 3, 8, 8), np.float32)}
    answers = []
    for one in found:
        with one.open(1) as session:
            answers.append(session.run(feed)["logits"])
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-2)
    assert not has_choices(model, [backend(pretended).scheme])

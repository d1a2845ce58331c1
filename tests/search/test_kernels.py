"""Operators on the engine's other kernels, where those are faster."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.core.progress import silent
from edgedl.runtime import installed_engines
from edgedl.search.candidates import shipped_settings
from edgedl.search.kernels import faster_nodes, with_other_kernels
from edgedl.search.placement import Bench
from tests.models import NETS, residual_net
from tests.search.small import bench, counted, full_plan, prepared


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


def test_only_what_is_clearly_faster() -> None:
    own = {"halved": 100.0, "noise": 100.0, "tiny": 3.0, "slower": 10.0, "alone": 50.0}
    other = {"halved": 50.0, "noise": 96.0, "tiny": 2.0, "slower": 20.0, "unknown": 1.0}
    assert faster_nodes(own, other) == ["halved"]


def test_settings_call_nodes_as_the_shipped_file_does() -> None:
    settings = {"precision": "f32", "other_kernels": ["stem/conv", "kept"]}
    assert shipped_settings(settings, {"n0": "stem/conv", "n1": "other"}) == {
        "precision": "f32",
        "other_kernels": ["n0", "kept"],
    }
    assert shipped_settings({"precision": "f32"}, {"n0": "x"}) == {"precision": "f32"}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("engine", installed_engines())
def test_the_same_question_has_the_same_answer(engine: str, net: str, tmp_path: Path) -> None:
    clean = prepared(NETS[net](), tmp_path)
    full = full_plan(clean, engine, counted(clean, engine))
    at: Bench = bench(clean, engine)
    found = [with_other_kernels(at.backend, full, at.feed, 1, 3, silent) for _ in range(2)]
    assert found[0] == found[1]
    if not at.backend.other_kernels:
        assert found[0] is None
    if found[0] is not None:
        named = found[0].settings["other_kernels"]
        assert named
        assert set(named) <= set(full.plan.int8 if full.plan else ())
        assert replace(found[0], label=full.label, settings=full.settings) == full


def test_what_was_noted_is_taken_without_a_profile(tmp_path: Path) -> None:
    able = [name for name in installed_engines() if backend(name).other_kernels]
    for engine in able:
        clean = prepared(residual_net(), tmp_path)
        full = full_plan(clean, engine, counted(clean, engine))
        at = bench(clean, engine)
        said: list[str] = []

        def note(text: str, done: int, of: int, said: list[str] = said) -> None:
            said.append(text)

        for _ in range(2):
            with_other_kernels(at.backend, full, at.feed, 1, 3, note)
        assert len(said) == 1

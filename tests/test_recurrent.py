"""Recurrent networks through the whole of `compress`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.backends import backend
from edgedl.passes.graph import to_ship
from edgedl.passes.plan_file import to_yaml
from edgedl.runtime import installed_engines
from edgedl.runtime.bundle import open_bundle
from edgedl.search.ways import gather
from tests.models import samples, saved
from tests.search.small import full_plan, prepared, ways
from tests.sequences import STEPS, classifier, recurrent_net

INSTALLED = installed_engines()


@pytest.mark.parametrize("engine", INSTALLED)
def test_a_classifier_of_sequences(engine: str, tmp_path: Path) -> None:
    model = saved(classifier(48, 24, 20), tmp_path)
    out = tmp_path / "out.edl"
    found = edgedl.compress(
        model.path, samples(model.signature, 24), out, target=engine, seconds=0.5
    )
    assert edgedl.check(out).ok
    assert found.agreement.cosine > 0.99
    assert any("int8" in choice.name for choice in found.choices)


@pytest.mark.parametrize("engine", INSTALLED)
def test_what_sequences_cost_is_in_the_table(engine: str, tmp_path: Path) -> None:
    gathered = gather([backend(engine)], ways(classifier(48, 24, 20), tmp_path, engine))
    assert not gathered.refusals
    planned = [one for one in gathered.candidates if one.plan is not None]
    assert planned
    for candidate in planned:
        costs = {cost.node: cost for cost in candidate.costs}
        for node in ("both", "last"):
            assert costs[node].operator == "LSTM"
            assert costs[node].float_us
            assert costs[node].int8_us
            assert (costs[node].chosen == "int8") == (node in candidate.plan.int8)  # type: ignore[union-attr]


@pytest.mark.parametrize("engine", INSTALLED)
def test_the_same_plan_makes_the_same_model(engine: str, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    full = full_plan(prepared(classifier(16, 24, 6), tmp_path / "clean"), engine)
    assert full.plan is not None
    assert {"both", "last"} <= set(full.plan.int8)
    path, out = tmp_path / "plan.yaml", tmp_path / "out.edl"
    path.write_text(to_yaml(full.plan, engine, full.settings, "minmax"))
    arrays = {"x": np.random.default_rng(3).standard_normal((16, 6, 24)).astype(np.float32)}
    model = saved(classifier(16, 24, 6), tmp_path).path
    edgedl.compress(model, arrays, out, plan=path, seconds=0.5)
    bundle = open_bundle(out)
    assert bundle.payload_bytes(bundle.payloads[0]) == to_ship(full.model)[0]


@pytest.mark.skipif("onnxruntime" not in INSTALLED, reason="onnxruntime is missing")
@pytest.mark.parametrize("ask", ["int8", "dynamic"])
def test_an_lstm_alone_has_no_tensor_to_calibrate(ask: str, tmp_path: Path) -> None:
    model = saved(recurrent_net(hidden=64), tmp_path)
    random = np.random.default_rng(0)
    arrays = {"x": random.standard_normal((16, STEPS, 1, 24)).astype(np.float32)}
    found = edgedl.compress(
        model.path, arrays, tmp_path / "out.edl", ask=ask, target="onnxruntime", seconds=0.5
    )  # type: ignore[call-overload]
    names = {choice.name for choice in found.choices}
    assert "onnxruntime int8, dynamic" in names
    planned = {name for name in names if " int8, " in name} - {"onnxruntime int8, dynamic"}
    assert bool(planned) == (ask == "int8")
    assert found.agreement.cosine > 0.99
    assert edgedl.check(tmp_path / "out.edl").ok

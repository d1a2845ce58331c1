"""Plans through the command line: carried out, changed by hand, and refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

import edgedl
from edgedl.backends import backend
from edgedl.core.errors import BadValue
from edgedl.core.progress import silent
from edgedl.passes.graph import to_ship
from edgedl.passes.plan_file import to_yaml
from edgedl.passes.repairs import Repair
from edgedl.reports import write_compressed
from edgedl.runtime import how_to_get, installed_engines
from edgedl.runtime.bundle import open_bundle
from edgedl.search.effort import EFFORTS
from edgedl.search.tuned import tuned
from edgedl.yamls import read_yaml
from tests.models import attention_net, depthwise_net, residual_net, saved
from tests.search.small import full_plan, prepared, ways
from tests.test_line import call


@pytest.fixture(params=installed_engines())
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path, Path]:
    """An engine's name, a model, its samples, and the file of its full plan for the engine."""
    model = saved(residual_net(), tmp_path)
    arrays = tmp_path / "samples.npz"
    random = np.random.default_rng(0)
    np.savez(arrays, x=random.standard_normal((24, 3, 8, 8)).astype(np.float32))
    (tmp_path / "clean").mkdir()
    full = full_plan(prepared(residual_net(), tmp_path / "clean"), request.param)
    assert full.plan is not None
    path = tmp_path / "plan.yaml"
    path.write_text(to_yaml(full.plan, request.param, full.settings, "minmax"))
    return request.param, model.path, arrays, path


def test_a_plan_is_carried_out_changed_by_hand_and_written_again(
    planned: tuple[str, Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, model, arrays, path = planned
    path.write_text(path.read_text().replace('"fc": int8 ', '"fc": float'))
    wanted = read_yaml(path).data
    assert wanted["operators"]["fc"] == "float"
    wanted["scales"]["x"] = {**wanted["scales"]["x"], "scale": 0.0625}
    path.write_text(json.dumps(wanted))
    out, report = tmp_path / "out.edl", tmp_path / "report"
    status, text, page = call(
        capsys, "compress", model, "--plan", path, "--samples", arrays, "-o", out,
        "--seconds", 0.5, "--json", "--report", report,
    )  # fmt: skip
    assert status == 0, page
    found = json.loads(text.splitlines()[-1])
    assert found["engine"] == engine
    assert [one["name"] for one in found["tried"] if one["outcome"] == "ships"] == [
        f"{engine} as planned"
    ]
    assert {"operator": "Gemm", "reason": "the plan says so", "count": 1} in found["stayed_float"]
    written = read_yaml(report / "plan.yaml").data
    assert written["operators"] == wanted["operators"]
    assert written["scales"].items() <= wanted["scales"].items()
    assert set(wanted["scales"]) - set(written["scales"]) <= {"pooled", "flat"}
    assert written["settings"] == wanted["settings"]
    assert edgedl.check(out).ok


@pytest.mark.parametrize("engine", installed_engines())
def test_the_same_plan_makes_the_same_model(engine: str, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    full = full_plan(prepared(residual_net(), tmp_path / "clean"), engine)
    assert full.plan is not None
    path, out = tmp_path / "plan.yaml", tmp_path / "out.edl"
    path.write_text(to_yaml(full.plan, engine, full.settings, "minmax"))
    arrays = {"x": np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    model = saved(residual_net(), tmp_path).path
    edgedl.compress(model, arrays, out, plan=path, seconds=0.5)
    bundle = open_bundle(out)
    assert bundle.payload_bytes(bundle.payloads[0]) == to_ship(full.model)[0]


@pytest.mark.parametrize("engine", installed_engines())
def test_a_plan_whose_model_is_repaired_comes_back_whole(engine: str, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    full = full_plan(prepared(residual_net(), tmp_path / "clean"), engine)
    assert full.plan is not None
    path, out = tmp_path / "plan.yaml", tmp_path / "out.edl"
    unscaled = replace(full.plan, activations={})
    repairs = (Repair("equalize"), Repair("smooth", 0.75))
    path.write_text(to_yaml(unscaled, engine, full.settings, "minmax", repairs=repairs))
    arrays = {"x": np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    model = saved(residual_net(), tmp_path).path
    found = []
    for _ in range(2):
        made = edgedl.compress(model, arrays, out, plan=path, seconds=0.5)
        bundle = open_bundle(out)
        found.append(bundle.payload_bytes(bundle.payloads[0]))
        assert made.plan is not None
        path.write_text(made.plan)
        assert [one["kind"] for one in read_yaml(path).data["repairs"]] == ["equalize", "smooth"]
    assert found[0] == found[1]
    others = {"x": np.random.default_rng(4).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    with pytest.raises(BadValue, match="repaired with other samples") as caught:
        edgedl.compress(model, others, out, plan=path, seconds=0.5)
    assert f"{path}:" in str(caught.value)


@pytest.mark.parametrize("engine", installed_engines())
def test_a_plan_whose_weights_were_trained_comes_back_whole(engine: str, tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    made = ways(depthwise_net(), tmp_path / "clean", engine)
    start = full_plan(made.clean, engine)
    found = tuned(
        backend(engine), start, made.calibration, made.expected, EFFORTS["normal"], silent
    )
    assert found.plan is not None
    assert found.prepared is not None
    assert found.prepared.tuned is not None
    path, out = tmp_path / "plan.yaml", tmp_path / "out.edl"
    text = to_yaml(found.plan, engine, found.settings, "minmax", tuned="moved.npz")
    path.write_text(text)
    found.prepared.tuned.write(tmp_path / "moved.npz")
    arrays = {"x": np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32)}
    model = saved(depthwise_net(), tmp_path).path
    report = tmp_path / "report"
    write_compressed(edgedl.compress(model, arrays, out, plan=path, seconds=0.5), report)
    again = tmp_path / "again.edl"
    edgedl.compress(model, arrays, again, plan=report / "plan.yaml", seconds=0.5)
    one, other = (
        bundle.payload_bytes(bundle.payloads[0]) for bundle in map(open_bundle, (out, again))
    )
    assert one == other
    other_path = tmp_path / "other.onnx"
    other_model = depthwise_net()
    weight = next(t for t in other_model.graph.initializer if t.name == "fc_w")
    weight.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(weight), "fc_w"))
    other_path.write_bytes(other_model.SerializeToString())
    with pytest.raises(BadValue, match="were trained from those of another model"):
        edgedl.compress(other_path, arrays, out, plan=report / "plan.yaml", seconds=0.5)
    with pytest.raises(BadValue, match=r"`moved\.npz` beside the plan cannot be read"):
        (tmp_path / "moved.npz").unlink()
        edgedl.compress(model, arrays, out, plan=path, seconds=0.5)


def test_a_plans_settings_are_kept(tmp_path: Path) -> None:
    """What an engine may leave out is tried for other models, and not where a plan says all."""
    (tmp_path / "clean").mkdir()
    for engine in installed_engines():
        full = full_plan(prepared(attention_net(), tmp_path / "clean"), engine)
        assert full.plan is not None
        path = tmp_path / "plan.yaml"
        path.write_text(to_yaml(full.plan, engine, full.settings, "minmax"))
        arrays = {"x": np.random.default_rng(0).standard_normal((24, 6, 16)).astype(np.float32)}
        model = saved(attention_net(), tmp_path).path
        found = edgedl.compress(model, arrays, tmp_path / "o.edl", plan=path, seconds=0.5)
        assert [choice.name for choice in found.choices if "unfused" in choice.name] == []
        payload = open_bundle(tmp_path / "o.edl").payloads[0]
        assert (payload.engine, dict(payload.settings)) == (engine, dict(full.settings))


def test_a_plan_that_loses_too_much_ships_and_ends_in_3(
    planned: tuple[str, Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, model, arrays, path = planned
    wanted = read_yaml(path).data
    wanted["scales"]["x"] = {**wanted["scales"]["x"], "scale": 100.0}
    path.write_text(json.dumps(wanted))
    out = tmp_path / "out.edl"
    status, text, _ = call(
        capsys, "compress", model, "--plan", path, "--samples", arrays, "-o", out,
        "--seconds", 0.5, "--max-drop", "0.1%",
    )  # fmt: skip
    assert status == 3
    assert "is over --max-drop 0.1%" in text
    assert open_bundle(out).payloads[0].engine == engine


def test_a_plan_says_what_is_asked_for(
    planned: tuple[str, Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine, model, arrays, path = planned
    out = tmp_path / "out.edl"
    command = ["compress", model, "--plan", path, "--samples", arrays, "-o", out]
    for other in (["--bf16"], ["--weights", "int8"], ["--auto"]):
        status, _, error = call(capsys, *command, *other)
        assert status == 2
        assert "what is it to be compressed to?" in error
    status, text, _ = call(capsys, *command, "--int8", "--seconds", 0.5)
    assert status == 0
    assert f"{engine} as planned" in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            '"conv3": int8',
            '"conv3": float',
            "`pooled` cannot compute in int8: its inputs are float",
        ),
        ('"conv1": int8', '"conv9": int8', "no operator `conv9`"),
        ('"conv1": int8', '"conv1": int4', "`conv1` is `int4`"),
        ('"conv1": int8', '"conv1" int8', "but found"),
        ('"fc": int8', '"conv1": int8', "a second time"),
        ("settings:", "setting:", "unknown key `setting`"),
        ("engine: ", "engine: un", "unknown engine"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_with_its_line(
    old: str,
    new: str,
    says: str,
    planned: tuple[str, Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, model, arrays, path = planned
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    out = tmp_path / "out.edl"
    status, _, error = call(
        capsys, "compress", model, "--plan", path, "--samples", arrays, "-o", out
    )
    assert status == 1
    assert says in error
    assert re.match(rf"error: {re.escape(str(path))}:\d+: ", error)
    assert "hint: " in error
    assert not out.exists()


def test_settings_that_the_engine_refuses_are_said(
    planned: tuple[str, Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, model, arrays, path = planned
    data = read_yaml(path).data
    data["settings"] = {"precision": "f7", "unfused": 7}
    path.write_text(json.dumps(data))
    status, _, error = call(
        capsys, "compress", model, "--plan", path, "--samples", arrays, "-o", tmp_path / "o.edl"
    )
    assert status == 1
    assert "the plan does not run: " in error
    assert "refuses the model" in error
    assert not (tmp_path / "o.edl").exists()


def test_a_plan_for_an_engine_that_is_not_here_says_how_to_get_it(
    planned: tuple[str, Path, Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, model, arrays, path = planned
    command = ["compress", model, "--plan", path, "--samples", arrays, "-o", tmp_path / "o.edl"]
    others = [name for name in installed_engines() if name != engine]
    for other in others:
        status, _, error = call(capsys, *command, "--target", other)
        assert status == 1
        assert f"the plan is for {engine}" in error
        assert f"hint: --target {engine}" in error
    if others:
        monkeypatch.setitem(sys.modules, engine, None)
        status, _, error = call(capsys, *command)
        assert status == 1
        assert f"hint: pip install 'edgedl[{engine}]'" in error
    monkeypatch.undo()
    path.write_text(path.read_text().replace(f"engine: {engine}", "engine: tensorrt"))
    status, _, error = call(capsys, *command)
    assert status == 1
    assert f"hint: {how_to_get('tensorrt')}" in error
    assert not (tmp_path / "o.edl").exists()

"""The stage behind compression: what ships is trained where that makes it better, or stays."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import edgedl
from edgedl.backends import backend
from edgedl.line.begin import Line, begun, network_of
from edgedl.line.form import Form, form_of
from edgedl.line.keep import PLAN, keep_plan
from edgedl.line.learned import BUNDLE, TOLD, Learned, learned
from edgedl.line.make import make
from edgedl.passes.graph import open_model
from edgedl.passes.plan_file import to_yaml
from edgedl.passes.quantize import Quantize
from edgedl.recipe import read_recipe
from edgedl.runtime import installed_engines
from edgedl.search.ready import prepare
from edgedl.train.qat import Qat
from tests.train.small import convolutional, images

RECIPE = """\
data: {arrays: stripes.npz}
network: {name: 'tests.line.test_learned:network'}
train: {epochs: 4, batch: 32, optimizer: {name: adam, lr: 0.01}, ema: 0.9}
compress: {target: TARGET, calibration: 64}
"""
# By how much the ranges of the plan are too wide, and what makes the task harder.
WIDE, NOISE = 160, 1.2
SHORT = Qat(epochs=4, lr=0.02)


def network(inputs: object, outputs: int) -> nn.Module:
    return convolutional(dropout=0.0)


@dataclass(frozen=True, eq=False)
class Made:
    """A recipe whose float network was trained, exported, and compressed by a bad plan."""

    line: Line
    form: Form
    model: Path
    folder: Path

    def learned(self, settings: Qat) -> Learned:
        return learned(self.line, self.form, self.model, self.folder, settings)


@pytest.fixture(scope="module", params=installed_engines())
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    name, folder = str(request.param), tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEDL_STORE", str(folder / "store"))
        patch.chdir(folder)
        given, random = images(1000), np.random.default_rng(9)
        x = given.source.arrays["x"]  # type: ignore[attr-defined]
        x = x + NOISE * random.standard_normal(x.shape)
        np.savez("stripes.npz", x=x.astype(np.float32), labels=given.labels)  # type: ignore[arg-type]
        Path("stripes.yaml").write_text(RECIPE.replace("TARGET", name))
        make("stripes.yaml", until="export", output="stripes.onnx")
        line = begun(read_recipe("stripes.yaml"), lambda *_: None)
        form = form_of(line, network_of(line))
        model, out = folder / "stripes.onnx", folder / "compressed"
        out.mkdir()
        [calibration] = form.train.split([64], line.recipe.seed)
        clean = prepare(open_model(model), {})
        built = backend(name)
        bound = calibration.bind(clean.signature)
        plan = Quantize(bound, scheme=built.scheme.name, method="minmax").plan(clean)
        wide = {n: replace(q, scale=WIDE * q.scale) for n, q in plan.activations.items()}
        bad = replace(plan, activations=wide)
        (out / PLAN).write_text(to_yaml(bad, name, built.settings("int8"), "minmax"))
        found = edgedl.compress(
            model, calibration, out / BUNDLE, plan=out / PLAN, target=name, test=form.test,
            seconds=0.3, seed=line.recipe.seed,
        )  # fmt: skip
        (out / TOLD).write_text(json.dumps({**found.to_json(), "text": found.text(), "broken": []}))
        keep_plan(found, out)
    return Made(line, form, model, out)


@pytest.fixture(autouse=True)
def _the_store(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(made.folder.parent / "store"))
    monkeypatch.chdir(made.folder.parent)


def test_what_training_made_better_ships_with_its_scales_and_weights(made: Made) -> None:
    found = made.learned(SHORT)
    assert found.trained
    figures = found.figures
    assert figures["metric"] == "top1"
    assert figures["trained"] > figures["planned"] + 0.05
    assert figures["trained_on_engine"] > figures["planned_on_engine"] + 0.05
    # Two of a hundred samples may lie between two classes.
    assert figures["trained_on_engine"] == pytest.approx(figures["trained"], abs=0.021)
    assert figures["planned_on_engine"] == pytest.approx(figures["planned"], abs=0.021)
    assert edgedl.check(found.bundle).ok
    told = found.told
    assert told["qat"]["trained"]
    assert any(one["outcome"] == "ships" and "planned" in one["name"] for one in told["tried"])
    stage = made.line.stages[-1]
    assert (stage.name, stage.kept) == ("qat", False)
    assert "4 epochs, top1" in stage.about

    again = made.learned(SHORT)
    assert made.line.stages[-1].kept
    assert again.folder == found.folder
    assert again.figures == figures
    assert (found.folder / PLAN).exists()


def test_what_is_no_better_stays_as_it_was_compressed(made: Made) -> None:
    found = made.learned(Qat(epochs=1, lr=1e-9))
    assert not found.trained
    assert found.bundle == made.folder / BUNDLE
    assert "training made it no better (top1" in found.reason
    assert "as it was compressed: training made it no better" in made.line.stages[-1].about
    assert not found.told["qat"]["trained"]


def test_where_nothing_computes_in_int8_that_is_said(made: Made, tmp_path: Path) -> None:
    (tmp_path / TOLD).write_text("{}")
    found = learned(made.line, made.form, made.model, tmp_path, SHORT)
    assert not found.trained
    assert found.folder == tmp_path
    assert "nothing that ships computes in int8" in made.line.stages[-1].about

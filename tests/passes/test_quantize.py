"""Quantizing: its settings are obeyed, and what is no setting is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from edgedl.core.errors import BadOption
from edgedl.core.model import Model
from edgedl.passes.place import Place
from edgedl.passes.quantize import Quantize
from tests import models


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return models.saved(models.residual_net(), tmp_path)


def test_the_plan_is_what_is_placed(model: Model) -> None:
    quantize = Quantize(models.samples(model.signature))
    assert Place(quantize.plan(model))(model).digest == quantize(model).digest


def test_a_plan_is_plain_json(model: Model) -> None:
    plan = Quantize(models.samples(model.signature), "openvino").plan(model)
    document = json.loads(json.dumps(plan.to_json(), allow_nan=False))
    assert document["scheme"] == "openvino"
    assert document["weights"]["conv1"] == [1, 0]
    assert [d["node"] for d in document["decisions"] if d["precision"] == "int8"] == list(plan.int8)


def test_a_plan_edited_by_hand_is_carried_out(model: Model) -> None:
    plan = Quantize(models.samples(model.signature)).plan(model)
    x = dataclasses.replace(plan.activations["x"], scale=0.5, zero_point=7)
    edited = dataclasses.replace(plan, activations={**plan.activations, "x": x})
    made, before = Place(edited)(model), Place(plan)(model)
    assert made.digest != before.digest
    assert made.history[-1].settings["plan"]["activations"]["x"]["zero_point"] == 7


def test_other_samples_make_other_scales(model: Model) -> None:
    one, other = (
        Quantize(models.samples(model.signature, seed=seed)).plan(model) for seed in (1, 2)
    )
    assert one.activations != other.activations
    assert one.decisions == other.decisions


def test_what_is_kept_in_float_keeps_its_weights(model: Model) -> None:
    kept = Quantize(models.samples(model.signature), keep_float={"conv2": "asked for"})
    plan = kept.plan(model)
    assert "conv2" not in plan.int8
    assert "conv2" not in plan.weights
    assert next(d.reason for d in plan.decisions if d.node == "conv2") == "asked for"


@pytest.mark.parametrize(
    "settings",
    [
        {"scheme": "openvinno"},
        {"method": "msee"},
        {"extent": "fool"},
        {"keep_float": {"conv9": "why"}},
    ],
)
def test_settings_that_do_not_exist_are_refused(model: Model, settings: dict[str, object]) -> None:
    with pytest.raises(BadOption) as caught:
        Quantize(models.samples(model.signature), **settings)(model)  # type: ignore[arg-type]
    assert caught.value.hint


def test_plans_that_do_not_fit_are_refused(model: Model) -> None:
    plan = Quantize(models.samples(model.signature)).plan(model)
    x = plan.activations["x"]
    for strange in (
        dataclasses.replace(plan, activations={**plan.activations, "nothing": x}),
        dataclasses.replace(plan, readers={**plan.readers, "x": ("nobody",)}),
        dataclasses.replace(plan, readers={}),
        dataclasses.replace(plan, tables=("nowhere",)),
        dataclasses.replace(plan, scheme="nosuch"),
    ):
        with pytest.raises(BadOption) as caught:
            Place(strange)(model)
        assert caught.value.hint

"""Float models that are repaired before int8 is tried, and plans that name the repairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedl.backends import backend
from edgedl.core.errors import BadValue
from edgedl.passes.plan_file import PlanFile, from_document, to_yaml
from edgedl.passes.ranges import METHODS, usual_method
from edgedl.passes.repairs import Repair
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate, int8_candidate, try_out
from edgedl.search.exactness import CLEARLY_DB, best_ranges
from edgedl.search.prepared import Prepared, as_planned, repaired
from edgedl.search.ways import Ways, gather
from edgedl.yamls import read_yaml
from tests.models import conv_net, residual_net, samples
from tests.search.small import counted, ways


def badly_scaled() -> onnx.ModelProto:
    """`conv_net` whose first convolution's channels are of very unlike size, which the second
    takes back."""
    net = conv_net()
    sizes = np.geomspace(0.01, 100, 8).astype(np.float32)
    by = {"conv1_w": sizes[:, None, None, None], "conv1_b": sizes}
    by["conv2_w"] = 1 / sizes[None, :, None, None]
    for tensor in net.graph.initializer:
        if tensor.name in by:
            array = numpy_helper.to_array(tensor) * by[tensor.name]
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return net


def found_for(at: Ways, engine: str) -> Candidate:
    prepared = Prepared(at.clean, counted(at.clean, engine, 16))
    best = best_ranges(backend(engine), prepared, at.calibration, at.expected, at.threads)
    assert isinstance(best, Candidate)
    return best


def sqnr_db(candidate: Candidate, at: Ways) -> float:
    return try_out(candidate, at.expected, candidate.open(at.threads)).agreement.sqnr_db


@pytest.mark.parametrize("engine", installed_engines())
def test_channels_that_were_scaled_badly_are_repaired(engine: str, tmp_path: Path) -> None:
    at = ways(badly_scaled(), tmp_path, engine)
    best = found_for(at, engine)
    assert best.prepared is not None
    assert best.prepared.repairs
    plain = Prepared(at.clean, counted(at.clean, engine, 16))
    before = max(
        sqnr_db(int8_candidate(backend(engine), plain, method, label="plain"), at)
        for method in METHODS
    )
    assert sqnr_db(best, at) > before + 10
    again = found_for(at, engine)
    assert again.model.digest == best.model.digest
    assert again.prepared is not None
    assert again.prepared.repairs == best.prepared.repairs


@pytest.mark.parametrize("engine", installed_engines())
def test_what_needs_no_repair_is_left_alone(engine: str, tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, engine)
    best = found_for(at, engine)
    assert best.prepared is not None
    if not best.prepared.repairs:
        assert best.prepared.model.digest == at.clean.digest
        return
    plain = Prepared(at.clean, counted(at.clean, engine, 16))
    single = [int8_candidate(backend(engine), plain, m, label="plain") for m in METHODS]
    assert sqnr_db(best, at) >= max(sqnr_db(one, at) for one in single) + CLEARLY_DB


def written(best: Candidate, folder: Path) -> PlanFile:
    assert best.plan is not None
    assert best.method is not None
    assert best.prepared is not None
    text = to_yaml(
        best.plan,
        best.engine,
        best.settings,
        usual_method(best.method),
        corrected=best.means is not None,
        exact=best.exact,
        repairs=best.prepared.repairs,
        repaired_with=best.prepared.samples,
    )
    path = folder / "plan.yaml"
    path.write_text(text)
    return from_document(read_yaml(path).data)


@pytest.mark.parametrize("engine", installed_engines())
def test_a_plan_repairs_again(engine: str, tmp_path: Path) -> None:
    at = ways(badly_scaled(), tmp_path, engine)
    best = found_for(at, engine)
    plan = written(best, tmp_path)
    assert best.prepared is not None
    assert plan.repairs == best.prepared.repairs
    made = gather([backend(engine)], replace(at, ask="plan", plan=plan))
    [found] = [one for one in made.candidates if one.plan is not None]
    assert found.model.digest == best.model.digest
    assert found.prepared is not None
    assert found.prepared.repairs == best.prepared.repairs


def test_scales_of_a_model_repaired_with_other_samples_are_refused(tmp_path: Path) -> None:
    at = ways(badly_scaled(), tmp_path, installed_engines()[0])
    plan = written(found_for(at, installed_engines()[0]), tmp_path)
    others = samples(at.clean.signature, 8, seed=99)
    with pytest.raises(BadValue, match="repaired with other samples"):
        as_planned(at.clean, plan, others)
    anew = as_planned(at.clean, replace(plan, scales={}), others)
    assert anew.repairs == plan.repairs


@pytest.mark.parametrize(
    ("repairs", "says"),
    [
        ("smooth", "`repairs` wants a list"),
        ([{"kind": "smoothe"}], "smoothe"),
        ([{"kind": "smooth", "alpha": 2}], "`alpha` is 2"),
        ([{"kind": "smooth", "beta": 2}], "unknown key `beta`"),
    ],
)
def test_repairs_that_are_none_are_refused(repairs: object, says: str) -> None:
    document = {"engine": "openvino", "settings": {}, "ranges": "mse", "operators": {}}
    with pytest.raises(BadValue, match=says):
        from_document({**document, "scales": {}, "repairs": repairs})


def test_repairs_in_turn(tmp_path: Path) -> None:
    at = ways(badly_scaled(), tmp_path, installed_engines()[0])
    both = repaired(at.clean, (Repair("equalize"), Repair("smooth", 0.7)), at.calibration)
    assert [step.name for step in both.history[-2:]] == ["equalize", "smooth"]
    assert repaired(at.clean, (), at.calibration) is at.clean

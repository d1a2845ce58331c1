"""Each planted fault is named, and nothing is named where nothing was planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.core.program import Constants
from edgedl.core.stats import Agreement
from edgedl.diagnosis.losses import Bounded
from edgedl.diagnosis.verdict import _status
from edgedl.passes.graph import rewrite
from edgedl.passes.program import Reweigh, program_of
from edgedl.report.diagnosed import Cause, Diagnosis
from edgedl.runtime import installed_engines
from tests.diagnosis import nets

pytestmark = pytest.mark.skipif(
    "onnxruntime" not in installed_engines(), reason="the plans are onnxruntime's"
)
VNNI = {"architecture": "x86_64", "isa": ["avx2", "avx512_vnni"], "isa_cap": None}
AVX2 = {"architecture": "x86_64", "isa": ["avx2"], "isa_cap": None}


def told(
    folder: Path, path: Path, data: dict[str, np.ndarray], machine: dict[str, object] = VNNI
) -> Diagnosis:
    found: Diagnosis = edgedl.diagnose(
        folder / "float.onnx", path, data, machine=machine, target="onnxruntime"
    )
    return found


def first(found: Diagnosis) -> str:
    assert found.status == "faults", found.text()
    return found.causes[0].name


def loud(channel: int = 3, factor: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Weights of two convolutions: the first makes one channel loud that the second ignores."""
    one, two = nets.gabors(), nets.mixing()
    one[channel] *= factor
    two[:, channel] = 0
    return one, two


@pytest.mark.parametrize("labelled", [True, False])
def test_a_well_made_model_is_healthy(tmp_path: Path, labelled: bool) -> None:
    model = nets.edge_net(tmp_path)
    path = nets.coded(tmp_path, *nets.planned(model, nets.pictures()))
    data = nets.pictures(seed=1)
    found = told(tmp_path, path, data if labelled else {"x": data["x"]})
    assert found.status == "healthy", found.text()
    assert not found.causes
    assert "nothing is wrong" in found.text().splitlines()[2]
    assert found.faithful_db is not None
    assert found.faithful_db > 60


def test_a_channel_that_outshines_the_others(tmp_path: Path) -> None:
    one, two = loud()
    model = nets.edge_net(tmp_path, first=one, second=two)
    found = told(
        tmp_path, nets.coded(tmp_path, *nets.planned(model, nets.pictures())), nets.pictures(seed=1)
    )
    assert first(found) == "outlier_channel", found.text()
    assert "channel 3 of `relu1`" in found.causes[0].sentence


def test_a_batch_norm_that_scales_wildly(tmp_path: Path) -> None:
    _, two = loud()
    gain = np.ones(nets.WIDE)
    gain[3] = 100
    model = nets.edge_net(tmp_path, second=two, gain=gain)
    found = told(
        tmp_path, nets.coded(tmp_path, *nets.planned(model, nets.pictures())), nets.pictures(seed=1)
    )
    assert first(found) == "batch_norm", found.text()
    assert "100x the median" in found.causes[0].sentence


@pytest.mark.parametrize("factor", [0.2, 20.0])
def test_calibration_on_other_data(tmp_path: Path, factor: float) -> None:
    model = nets.edge_net(tmp_path)
    data = nets.pictures()
    other = {"x": (data["x"] * factor).astype(np.float32)}
    found = told(tmp_path, nets.coded(tmp_path, *nets.planned(model, other)), nets.pictures(seed=1))
    assert first(found) == "calibration", found.text()
    assert any("`x` spans" in line for line in found.causes[0].evidence)


def test_one_scale_for_unlike_weights(tmp_path: Path) -> None:
    one, two = nets.gabors(), nets.mixing()
    one[1] = one[0]
    two[0] = 0
    two[0, 0], two[0, 1] = 40, -40
    model = nets.edge_net(tmp_path, first=one, second=two)
    folded, plan = nets.planned(model, nets.pictures())
    plan = replace(plan, weights={node: (at, None) for node, (at, _) in plan.weights.items()})
    found = told(tmp_path, nets.coded(tmp_path, folded, plan), nets.pictures(seed=1))
    assert first(found) == "per_tensor_weights", found.text()
    assert any("conv2" in line for line in found.causes[0].evidence)


def test_a_range_that_clips(tmp_path: Path) -> None:
    model = nets.edge_net(tmp_path)
    folded, plan = nets.planned(model, nets.pictures())
    path = nets.coded(tmp_path, folded, nets.with_scale(plan, "relu1", 0.2))
    found = told(tmp_path, path, nets.pictures(seed=1))
    assert first(found) == "clipped_range", found.text()
    assert "`relu1`" in found.causes[0].sentence
    row = next(row for row in found.tensors if row.tensor == "relu1")
    assert row.saturated is not None
    assert row.saturated > 0.05


def test_a_range_far_too_wide(tmp_path: Path) -> None:
    model = nets.edge_net(tmp_path)
    folded, plan = nets.planned(model, nets.pictures())
    path = nets.coded(tmp_path, folded, nets.with_scale(plan, "relu1", 60))
    found = told(tmp_path, path, nets.pictures(seed=1))
    assert first(found) == "wide_range", found.text()


def test_a_scale_shared_by_a_concat(tmp_path: Path) -> None:
    model = nets.edge_net(tmp_path, concat=200.0)
    found = told(
        tmp_path, nets.coded(tmp_path, *nets.planned(model, nets.pictures())), nets.pictures(seed=1)
    )
    assert first(found) == "shared_scale", found.text()


@pytest.mark.parametrize("classes", [2, 12])
def test_boxes_and_scores_under_one_scale(tmp_path: Path, classes: int) -> None:
    """Beside boxes of hundreds of pixels, nothing of the scores is seen in the output's power."""
    model = nets.head_net(tmp_path, classes)
    path = nets.one_scale(tmp_path, model, "both", 400.0)
    found = told(tmp_path, path, {"x": nets.pictures(seed=1)["x"]})
    assert first(found) == "shared_scale", found.text()
    assert "`both`" in found.causes[0].sentence


def test_softmax_in_int8(tmp_path: Path) -> None:
    model = nets.attention_net(tmp_path)
    found = told(tmp_path, nets.softmax_in_int8(tmp_path, model), nets.tokens())
    assert first(found) == "softmax_int8", found.text()


@pytest.mark.parametrize("labelled", [True, False])
def test_colours_in_the_other_order(tmp_path: Path, labelled: bool) -> None:
    model = nets.edge_net(tmp_path)
    path = nets.coded(tmp_path, *nets.planned(model, nets.pictures()))
    data = nets.pictures(seed=1)
    data["x"] = np.ascontiguousarray(data["x"][:, ::-1])
    if not labelled:
        del data["labels"]
    found = told(tmp_path, path, data)
    assert first(found) == "preprocessing", found.text()
    assert "order of colours" in found.causes[0].sentence


@pytest.mark.parametrize("labelled", [True, False])
def test_values_up_to_255(tmp_path: Path, labelled: bool) -> None:
    model = nets.edge_net(tmp_path)
    path = nets.coded(tmp_path, *nets.planned(model, nets.pictures()))
    data = nets.pictures(seed=1)
    data["x"] = data["x"] * np.float32(255)
    if not labelled:
        del data["labels"]
    found = told(tmp_path, path, data)
    assert first(found) == "preprocessing", found.text()
    assert "0 to 255" in found.causes[0].sentence


def test_values_up_to_255_where_answers_have_no_classes(tmp_path: Path) -> None:
    model = nets.head_net(tmp_path, 6)
    path = nets.coded(tmp_path, *nets.planned(model, {"x": nets.pictures()["x"]}))
    found = told(tmp_path, path, {"x": nets.pictures(seed=1)["x"] * np.float32(255)})
    assert first(found) == "preprocessing", found.text()
    assert "0 to 255" in found.causes[0].sentence
    right = told(tmp_path, path, {"x": nets.pictures(seed=1)["x"]})
    assert "preprocessing" not in [cause.name for cause in right.causes]


def test_sums_that_saturate(tmp_path: Path) -> None:
    one = np.abs(nets.gabors()) + np.float32(0.3)
    model = nets.edge_net(tmp_path, first=one)
    data = nets.pictures(seed=1)
    path = nets.coded(tmp_path, *nets.planned(model, nets.pictures()))
    found = told(tmp_path, path, data, AVX2)
    assert first(found) == "saturation", found.text()
    assert told(tmp_path, path, data, VNNI).warnings[0].name == "saturation"


def test_weights_that_were_evened_out_before_are_no_other_model(tmp_path: Path) -> None:
    model = nets.edge_net(tmp_path)
    folded, _ = nets.planned(model, nets.pictures())
    program = program_of(folded)
    first, second = (one for one in program.operations if one.kind == "Conv")
    factors = np.ones(nets.WIDE, np.float32)
    factors[[2, 7]] = 4
    moved = {
        first.inputs[1]: program.constants[first.inputs[1]] * factors[:, None, None, None],
        second.inputs[1]: program.constants[second.inputs[1]] / factors[:, None, None],
    }
    if len(first.inputs) > 2:
        moved[first.inputs[2]] = program.constants[first.inputs[2]] * factors
    uneven = rewrite(folded, Reweigh(Constants(moved)))
    path = nets.coded(tmp_path, *nets.planned(uneven, nets.pictures()))
    found = told(tmp_path, path, nets.pictures(seed=1))
    assert any("changed before they were rounded" in doubt for doubt in found.doubts)
    assert not any("not in the float model" in doubt for doubt in found.doubts)
    assert found.faithful_db is not None
    # The weights' own rounding is in it; with the float model's weights put back it was -21 dB.
    assert found.faithful_db > 12


@pytest.mark.parametrize(("top1", "noise", "lost", "count", "wanted"), [
    (0.985, 0.03, -0.01, 64, "healthy"),
    (0.97, 0.03, -0.01, 64, "faults"),
    (0.985, 0.06, -0.01, 64, "faults"),
    (0.985, 0.03, 0.005, 64, "faults"),
    (1.0, 0.03, -0.01, 31, "faults"),
])  # fmt: skip
def test_classes_like_floats_outvote_a_little_noise(
    top1: float, noise: float, lost: float, count: int, wanted: str
) -> None:
    cause = Cause("outlier_channel", "one is louder", (0.5, 0.4, 0.6), (), "")
    accuracy = {"share": True, "drop": 0.02, "drop_low": lost, "drop_high": 0.04}
    whole = Bounded(noise, noise - 0.01, noise + 0.01)
    same = Agreement(top1, 0.98, 15.0, count)
    assert _status(whole, accuracy, same, [cause], count) == wanted

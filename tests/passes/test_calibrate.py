"""Calibration counts what the engine computes, within the memory it is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays
from edgedl.passes.calibrate import calibrate, forecast
from edgedl.passes.quantize import Quantize
from edgedl.passes.ranges import Histogram
from tests import models

TENSORS = ["relu1", "conv2", "relu2", "small", "conv3"]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return models.saved(models.residual_net(), tmp_path)


def inner(net: onnx.ModelProto, names: list[str], given: Samples) -> dict[str, np.ndarray]:
    """Inner tensors by the specification's own evaluator, over all samples."""
    net.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    evaluator = ReferenceEvaluator(net)
    rows = [evaluator.run(names, feed) for feed in given]
    return {name: np.stack([row[i] for row in rows]) for i, name in enumerate(names)}


def test_counts_are_those_of_the_tensors(model: Model) -> None:
    given = models.samples(model.signature, 5)
    expected = inner(models.residual_net(), TENSORS, given)
    counted = calibrate(model, TENSORS, given)
    assert list(counted) == TENSORS
    for name in TENSORS:
        histogram, values = counted[name], expected[name]
        assert histogram.count == values.size
        assert histogram.low == pytest.approx(float(values.min()), abs=1e-5)
        assert histogram.high == pytest.approx(float(values.max()), abs=1e-5)
        lower, _, counts = histogram.bins()
        assert counts[lower >= 1].sum() == pytest.approx((values >= 1).sum(), abs=2)


def test_inputs_are_counted_exactly(model: Model) -> None:
    given = models.samples(model.signature, 5)
    direct = Histogram()
    direct.add(np.concatenate([feed["x"] for feed in given]))
    for tensors in (["x"], ["x", "conv2"]):
        counted = calibrate(model, tensors, given)["x"]
        for mine, theirs in zip(counted.bins(), direct.bins(), strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_only_the_chosen_samples_are_run(model: Model) -> None:
    given = models.samples(model.signature, 6).take([4, 1])
    assert calibrate(model, ["relu1"], given)["relu1"].count == 2 * 8 * 8 * 8


def test_a_dynamic_model_takes_the_samples_shape(tmp_path: Path) -> None:
    model = models.saved(models.dynamic_net(), tmp_path)
    given = models.samples(model.signature, 3)
    assert calibrate(model, ["conv2"], given)["conv2"].count == 3 * 8 * 4 * 4


def test_a_tensor_that_is_an_output_too(model: Model) -> None:
    given = models.samples(model.signature, 3)
    assert calibrate(model, ["logits"], given)["logits"].count == 15


def test_progress_is_told_to_its_end(model: Model) -> None:
    told: list[tuple[int, int]] = []
    calibrate(
        model, TENSORS, models.samples(model.signature, 3), limit_bytes=1,
        progress=lambda label, done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(i + 1, 3 * len(TENSORS)) for i in range(3 * len(TENSORS))]


def test_a_limit_makes_groups_that_hold_each_tensor_once(model: Model) -> None:
    given = models.samples(model.signature, 2)
    single = forecast(model, TENSORS, given, 1)
    assert single.groups == tuple((name,) for name in TENSORS)
    whole = forecast(model, TENSORS, given, 10**9)
    assert whole.groups == (tuple(TENSORS),)
    assert whole.limit_bytes == 10**9
    assert single.peak_bytes < whole.peak_bytes < 10**9
    some = forecast(model, TENSORS, given, (single.peak_bytes + whole.peak_bytes) // 2)
    assert 1 < len(some.groups) < len(TENSORS)
    assert [name for group in some.groups for name in group] == TENSORS
    assert some.peak_bytes <= some.limit_bytes


def test_nothing_is_left_beside_the_model(model: Model) -> None:
    calibrate(model, TENSORS, models.samples(model.signature, 2), limit_bytes=1)
    assert list(model.path.parent.iterdir()) == [model.path]


def test_operators_whose_tensors_are_not_finite_stay_float(tmp_path: Path) -> None:
    net = models.Sketch()
    net.constant("zero", np.zeros((1, 8, 1, 1), np.float32))
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.node("Div", ["relu1", "zero"], "broken")
    net.node("Div", ["broken", "broken"], "worse")
    net.conv("worse", "conv2", 8, 8)
    net.conv("relu1", "conv3", 8, 8)
    net.node("Concat", ["conv2", "conv3"], "both", axis=1)
    model = models.saved(net.model([1, 3, 8, 8], [1, 16, 8, 8], output="both"), tmp_path)
    plan = Quantize(models.samples(model.signature, 4), "openvino").plan(model)
    reasons = {d.node: (d.precision, d.reason) for d in plan.decisions}
    assert reasons["conv2"][0] == "float"
    assert "not finite" in reasons["conv2"][1]
    assert reasons["conv1"][0] == reasons["conv3"][0] == "int8"


def test_an_input_that_is_empty_keeps_its_open_axis(tmp_path: Path) -> None:
    net = models.Sketch()
    net.node("Concat", ["past", "x"], "cache", axis=1)
    net.node("MatMul", ["cache", net.weight("w", 4, 4)], "y")
    graph = net.model([1, 1, 4], None, output="y")
    graph.graph.input.append(
        onnx.helper.make_tensor_value_info("past", onnx.TensorProto.FLOAT, [1, "n", 4])
    )
    model = models.saved(graph, tmp_path)
    x = np.random.default_rng(0).standard_normal((3, 1, 4)).astype(np.float32)
    given = from_arrays({"x": x, "past": np.zeros((3, 0, 4), np.float32)}).bind(model.signature)
    counted = calibrate(model, ["past", "x", "cache"], given)
    assert [counted[name].count for name in ("past", "x", "cache")] == [0, 12, 12]
    assert counted["cache"].high == pytest.approx(float(x.max()))

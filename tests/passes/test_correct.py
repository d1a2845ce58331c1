"""Biases moved by what rounding adds to the mean."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays
from edgedl.passes.correct import CorrectBias, Means, channel_means
from edgedl.passes.graph import rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import Quantize
from edgedl.runtime import installed_engines
from tests.models import answers, saved


def net(
    nodes: list[onnx.NodeProto], shapes: dict[str, list[int]], **arrays: np.ndarray
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes["x"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes["y"])],
        [numpy_helper.from_array(a.astype(np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def convolution(*, bias: bool, groups: int = 1) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((4, 4 // groups, 1, 1))}
    if bias:
        arrays["b"] = rng.standard_normal(4)
    names = ["x", *arrays]
    node = helper.make_node("Conv", names, ["y"], name="conv", group=groups)
    return net([node], {"x": [1, 4, 2, 2], "y": [1, 4, 2, 2]}, **arrays)


def product(operator: str, *, added: bool, transposed: bool = False) -> onnx.ModelProto:
    rng = np.random.default_rng(1)
    arrays = {"w": rng.standard_normal((6, 3))}
    if transposed:
        arrays["w"] = arrays["w"].T
    settings = {"transB": 1} if transposed else {}
    if operator == "Gemm":
        arrays["b"] = rng.standard_normal(3)
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="product", **settings)]
    elif added:
        arrays["b"] = rng.standard_normal(3)
        nodes = [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Add", ["h", "b"], ["y"], name="add"),
        ]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]
    return net(nodes, {"x": [1, 6], "y": [1, 3]}, **arrays)


NETS = {
    "conv": convolution(bias=True),
    "conv without bias": convolution(bias=False),
    "grouped": convolution(bias=True, groups=2),
    "product, gemm": product("Gemm", added=False),
    "product, transposed": product("Gemm", added=False, transposed=True),
    "product, matmul and add": product("MatMul", added=True),
}


def inputs(model: Model, count: int = 32) -> Samples:
    shape = tuple(int(d) for d in model.signature.inputs[0].shape or () if isinstance(d, int))
    rng = np.random.default_rng(5)
    # Far from zero, so that the weights' errors do not cancel.
    return from_arrays({"x": rng.uniform(2, 4, (count, *shape[1:])).astype(np.float32)}).bind(
        model.signature
    )


def only_weights(plan: Plan) -> Plan:
    """The plan with its weights rounded and its activations left alone."""
    return replace(plan, activations={}, readers={})


def mean_error(model: Model, other: Model, rows: Samples, engine: str) -> float:
    feeds = list(rows)
    pairs = zip(answers(model.path, feeds, engine), answers(other.path, feeds, engine), strict=True)
    errors = np.array([given["y"] - wanted["y"] for wanted, given in pairs])
    channels = errors.reshape(len(rows), errors.shape[2], -1) if errors.ndim > 3 else errors
    axes = (0, 2) if errors.ndim > 3 else (0, 1)
    return float(np.abs(channels.mean(axis=axes)).max())


@pytest.mark.parametrize("name", NETS)
def test_the_mean_of_each_channel_comes_back(name: str, tmp_path: Path) -> None:
    # onnxruntime 1.31 rounds the float input of a product with stored weights (MatMulNBits).
    engine = next((one for one in ("openvino", "onnxruntime") if one in installed_engines()), "")
    if engine == "onnxruntime" and "product" in name:
        pytest.skip("onnxruntime alone is installed")
    model = saved(NETS[name], tmp_path)
    rows = inputs(model)
    plan = only_weights(Quantize(rows, "openvino").plan(model))
    assert plan.weights
    means = channel_means(model, plan, rows)
    rounded = rewrite(model, Place(plan))
    corrected = rewrite(model, CorrectBias(plan, means), Place(plan))
    before = mean_error(model, rounded, rows, engine)
    after = mean_error(model, corrected, rows, engine)
    assert before > 1e-4
    assert after < 0.05 * before


def test_the_shift_by_hand(tmp_path: Path) -> None:
    # Codes of 127, 64 and 0: 0.5 is 63.5 steps of 1/127, and rounded up by half a step.
    weight = np.array([[[[1.0]], [[0.5]], [[0.0]]]])
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv")
    shapes = {"x": [1, 3, 2, 2], "y": [1, 1, 2, 2]}
    model = saved(net([node], shapes, w=weight, b=np.array([7.0])), tmp_path)
    plan = only_weights(Quantize(inputs(model), "openvino").plan(model))
    means = Means({"x": np.array([3.0, 4.0, 5.0])})
    moved = onnx.load(CorrectBias(plan, means)(model).path)
    [bias] = [t for t in moved.graph.initializer if t.name == moved.graph.node[0].input[2]]
    assert numpy_helper.to_array(bias).item() == pytest.approx(7 - 4 * 0.5 / 127, abs=1e-6)


def test_a_product_without_an_addition_stays_as_it_is(tmp_path: Path) -> None:
    model = saved(product("MatMul", added=False), tmp_path)
    plan = only_weights(Quantize(inputs(model), "openvino").plan(model))
    means = channel_means(model, plan, inputs(model))
    moved = onnx.load(CorrectBias(plan, means)(model).path)
    assert [node.op_type for node in moved.graph.node] == ["MatMul"]


def test_means_of_another_size_and_infinite_ones_move_nothing(tmp_path: Path) -> None:
    model = saved(convolution(bias=True), tmp_path)
    plan = only_weights(Quantize(inputs(model), "openvino").plan(model))
    for odd in (np.ones(3), np.full(4, np.inf)):
        moved = CorrectBias(plan, Means({"x": odd}))(model)
        rows = list(inputs(model, 2))
        for wanted, given in zip(answers(model.path, rows), answers(moved.path, rows), strict=True):
            assert np.array_equal(wanted["y"], given["y"])


def test_means_by_channel(tmp_path: Path) -> None:
    model = saved(convolution(bias=True), tmp_path)
    plan = only_weights(Quantize(inputs(model), "openvino").plan(model))
    array = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * np.ones((8, 4, 2, 2), np.float32)
    found = channel_means(model, plan, from_arrays({"x": array}).bind(model.signature))
    assert found.of["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["product, gemm", "product, matmul and add"])
def test_zeros_that_engines_leave_out_stay_zeros(name: str, tmp_path: Path) -> None:
    zeros = onnx.ModelProto()
    zeros.CopyFrom(NETS[name])
    [bias] = [t for t in zeros.graph.initializer if t.name == "b"]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(3, np.float32), "b"))
    model = saved(zeros, tmp_path)
    plan = only_weights(Quantize(inputs(model), "openvino").plan(model))
    moved = CorrectBias(plan, channel_means(model, plan, inputs(model)))(model)
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load(moved.path).graph.initializer}
    assert not kept["b"].any()

"""What placing writes, and that both engines compute it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedl.core.errors import BadOption
from edgedl.core.model import Model
from edgedl.core.stats import cosine
from edgedl.passes.calibrate import calibrate, forecast
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read, to_ship
from edgedl.passes.layout import EXTENTS, Extent
from edgedl.passes.place import Place
from edgedl.passes.quantize import Quantize
from edgedl.passes.ranges import METHODS, Histogram, Method
from edgedl.runtime import engine, installed_engines
from tests.models import NETS, answers, conv_net, feeds, gemm_net, residual_net, samples, saved

INSTALLED = installed_engines()


def quantized(model: Model, scheme: str, extent: Extent = "full", method: Method = "mse") -> Model:
    clean = Clean()(model)
    return Quantize(samples(model.signature), scheme, method, extent)(clean)


@pytest.mark.parametrize("extent", EXTENTS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", INSTALLED)
def test_answers_like_float_on_its_engine(
    scheme: str, net: str, extent: Extent, tmp_path: Path
) -> None:
    model = saved(NETS[net](), tmp_path)
    made = quantized(model, scheme, extent)
    onnx.checker.check_model(str(made.path))
    rows = feeds(model.signature, 8, seed=5)
    for wanted, given in zip(
        answers(model.path, rows), answers(made.path, rows, scheme), strict=True
    ):
        for name, output in wanted.items():
            assert cosine(output, given[name]) > 0.99


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_ranges(method: Method, tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    made = quantized(model, "onnxruntime", method=method)
    rows = feeds(model.signature, 8, seed=5)
    for wanted, given in zip(answers(model.path, rows), answers(made.path, rows), strict=True):
        assert cosine(wanted["logits"], given["logits"]) > 0.98


@pytest.mark.parametrize("scheme", INSTALLED)
def test_the_engine_takes_its_integer_kernels(scheme: str, tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    made = quantized(model, scheme)
    feed = feeds(model.signature, 1)[0]
    found = engine(scheme).operators(made.path, feed, settings={}, threads=1)
    integers = [o.kind for o in found if o.precision == "int8"]
    assert sum("Conv" in kind for kind in integers) == 3
    floats = [o.kind for o in found if o.precision == "float32"]
    assert not [kind for kind in floats if "Conv" in kind or kind in ("Gemm", "FullyConnected")]


def test_weights_are_stored_in_8_bits_and_biases_stay_float(tmp_path: Path) -> None:
    graph = onnx.load(quantized(saved(conv_net(), tmp_path), "openvino").path).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 2
    for node in convolutions:
        weight = made[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        assert kinds[weight.input[0]] == onnx.TensorProto.INT8
        assert kinds[node.input[2]] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.INT32 not in kinds.values()


def test_stored_weights_are_the_nearest_codes(tmp_path: Path) -> None:
    net = conv_net()
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in net.graph.initializer}
    graph = onnx.load(quantized(saved(net, tmp_path), "openvino").path).graph
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    for node in (node for node in graph.node if node.op_type == "Conv"):
        codes, scale, _ = (stored[name] for name in made[node.input[1]].input)
        weight = weights[f"{node.name}_w"]
        steps = scale.reshape(-1, 1, 1, 1)
        assert np.abs(codes * steps - weight).max(axis=(1, 2, 3)) == pytest.approx(
            np.abs(weight - np.rint(weight / steps) * steps).max(axis=(1, 2, 3)), rel=1e-3
        )
        assert (np.abs(codes).max(axis=(1, 2, 3)) == 127).all()


def test_onnxruntimes_gemm_leaves_its_bias_to_an_add(tmp_path: Path) -> None:
    made = quantized(saved(gemm_net(), tmp_path), "onnxruntime")
    graph = onnx.load(made.path).graph
    assert all(len(node.input) == 2 for node in graph.node if node.op_type == "Gemm")
    feed = feeds(made.signature, 1)[0]
    kinds = [o.kind for o in engine("onnxruntime").operators(made.path, feed, settings={})]
    assert kinds.count("QGemm") == 2


def test_a_plan_for_another_model_is_refused(tmp_path: Path) -> None:
    model = Clean()(saved(conv_net(), tmp_path))
    plan = Quantize(samples(model.signature)).plan(model)
    strange = dataclasses.replace(plan, weights={"no_such_node": (1, 0)})
    with pytest.raises(BadOption, match="no_such_node"):
        Place(strange)(model)


def test_what_ships_is_one_small_file_with_the_same_answers(tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    made = quantized(model, "onnxruntime")
    data, names = to_ship(made)
    assert len(data) < made.path.stat().st_size
    assert set(names.values()) & {node.name for node in read(made.path).graph}
    rows = feeds(model.signature)
    for wanted, given in zip(answers(made.path, rows), answers(data, rows), strict=True):
        assert np.array_equal(wanted["logits"], given["logits"])


def test_what_bears_the_short_name_of_another_ships_all_the_same(tmp_path: Path) -> None:
    net = residual_net()
    made = [name for node in net.graph.node for name in node.output if name != "logits"]
    stored = [tensor.name for tensor in net.graph.initializer]
    names = {name: f"t{i}" for i, name in enumerate(reversed(made))}
    names |= {name: f"w{i}" for i, name in enumerate(reversed(stored))}
    for node in net.graph.node:
        for listed in (node.input, node.output):
            listed[:] = [names.get(name, name) for name in listed]
    for tensor in net.graph.initializer:
        tensor.name = names[tensor.name]
    model = saved(net, tmp_path)
    data, back = to_ship(model)
    assert (back["t0"], back["w0"]) == (names[made[0]], names[stored[0]])
    shipped = onnx.load_from_string(data).graph
    assert [back[t.name] for t in shipped.initializer] == [names[name] for name in stored]
    rows = feeds(model.signature)
    for wanted, given in zip(answers(model.path, rows), answers(data, rows), strict=True):
        assert np.array_equal(wanted["logits"], given["logits"])


def test_calibration_counts_what_the_tensors_hold(tmp_path: Path) -> None:
    model = Clean()(saved(conv_net(), tmp_path))
    given = samples(model.signature, 8)
    found = calibrate(model, ["x", "relu1"], given)
    values = np.concatenate([feed["x"].ravel() for feed in given])
    assert found["x"].count == values.size
    assert found["x"].low == values.min()
    assert found["x"].high == values.max()
    assert found["relu1"].low == 0.0
    assert found["relu1"].count == 8 * 8 * 8 * 8


def test_groups_under_a_small_limit_count_the_same(tmp_path: Path) -> None:
    model = Clean()(saved(residual_net(), tmp_path))
    given = samples(model.signature, 6)
    tensors = ["x", "relu1", "conv2", "relu2", "small"]
    assert len(forecast(model, tensors, given, 1).groups) > 1
    whole, parts = calibrate(model, tensors, given), calibrate(model, tensors, given, limit_bytes=1)
    for name in tensors:
        assert _bins(whole[name]) == _bins(parts[name])


def _bins(histogram: Histogram) -> list[list[float]]:
    return [part.tolist() for part in histogram.bins()]


def test_shifted_weights_are_the_same_arithmetic(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    plan = Quantize(samples(model.signature)).plan(model)
    shifted = Place(dataclasses.replace(plan, shifted=tuple(plan.weights)))(model)
    kept = {t.name: numpy_helper.to_array(t) for t in onnx.load(shifted.path).graph.initializer}
    zeros = [a for name, a in kept.items() if name.endswith("shifted_zero_point")]
    assert zeros
    assert all((array == -1).all() for array in zeros)
    rows = feeds(model.signature)
    plain = answers(Place(plan)(model).path, rows)
    for wanted, given in zip(plain, answers(shifted.path, rows), strict=True):
        assert np.allclose(wanted["logits"], given["logits"], atol=1e-5)


def test_narrow_weights_have_seven_bits(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    plan = Quantize(samples(model.signature)).plan(model)
    [first, *others] = plan.weights
    placed = onnx.load(Place(dataclasses.replace(plan, narrow=(first,)))(model).path).graph
    stored = [tensor for tensor in placed.initializer if tensor.name.endswith("int8")]
    codes = {tensor.name: numpy_helper.to_array(tensor) for tensor in stored}
    narrow = [a for name, a in codes.items() if name.endswith("_narrow_int8")]
    assert [int(np.abs(a).max()) for a in narrow] == [63]
    wide = [int(np.abs(a.astype(int)).max()) for n, a in codes.items() if "_narrow" not in n]
    assert wide == [127] * len(others)

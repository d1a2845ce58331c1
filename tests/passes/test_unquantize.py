"""Quantizers taken out of models again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgedl
from edgedl.core.errors import Unsupported
from edgedl.core.stats import cosine
from edgedl.passes.graph import quantized_already
from edgedl.passes.quantize import Quantize
from edgedl.passes.unquantize import Unquantize
from tests.models import (
    answers,
    concat_net,
    conv_net,
    feeds,
    gemm_net,
    image_net,
    matmul_net,
    residual_net,
    samples,
    saved,
)

NETS = {
    "conv": conv_net,
    "residual": residual_net,
    "gemm": gemm_net,
    "matmul": matmul_net,
    "concat": concat_net,
    "image": image_net,
}


@pytest.mark.parametrize("scheme", ["onnxruntime", "openvino", "tensorrt"])
@pytest.mark.parametrize("name", NETS)
def test_what_was_quantized_is_float_again(name: str, scheme: str, tmp_path: Path) -> None:
    model = saved(NETS[name](), tmp_path)
    int8 = Quantize(samples(model.signature), scheme)(model)
    assert quantized_already(int8)
    back = Unquantize()(int8)
    assert not quantized_already(back)
    onnx.checker.check_model(onnx.load(back.path), full_check=True)
    rows = feeds(model.signature)
    for wanted, given in zip(answers(model.path, rows), answers(back.path, rows), strict=True):
        for output, array in wanted.items():
            assert cosine(array, given[output]) > 0.999


def coded(operator: str) -> onnx.ModelProto:
    constants = {"s": np.float32(0.5), "z": np.uint8(3), "c": np.uint8([[5, 7]])}
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="quantize"),
            helper.make_node(operator, ["q", "c"], ["m"], name="between"),
            helper.make_node("DequantizeLinear", ["m", "s", "z"], ["y"], name="dequantize"),
        ],
        "coded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_computes_on_codes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="computes on codes") as caught:
        Unquantize()(saved(coded("Max"), tmp_path))
    assert "float model" in (caught.value.hint or "")


def test_weights_become_what_their_codes_say(tmp_path: Path) -> None:
    constants = {
        "w": np.array([[1, -2], [3, 4]], np.int8),
        "s": np.array([0.5, 0.25], np.float32),
        "z": np.array([0, 2], np.int8),
    }
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s", "z"], ["r"], name="weights", axis=1),
            helper.make_node("MatMul", ["x", "r"], ["y"], name="product"),
        ],
        "stored",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    back = Unquantize()(saved(net, tmp_path))
    [weights] = onnx.load(back.path).graph.initializer
    assert numpy_helper.to_array(weights).tolist() == [[0.5, -1.0], [1.5, 0.5]]


def test_force_quantizes_anew(tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    int8 = Quantize(samples(model.signature))(model)
    rng = np.random.default_rng(0)
    shape = tuple(d if isinstance(d, int) else 1 for d in model.signature.inputs[0].shape or ())
    arrays = {model.signature.inputs[0].name: rng.standard_normal((16, *shape[1:]))}
    given = {name: array.astype(np.float32) for name, array in arrays.items()}
    out = tmp_path / "m.edl"
    left = edgedl.compress(int8.path, given, out, seconds=0.5)
    assert any("--force" in choice.outcome for choice in left.choices)
    found = edgedl.compress(int8.path, given, out, seconds=0.5, force=True)
    assert any("int8" in c.name and c.p50_ms is not None for c in found.choices)
    assert any("taken out" in doubt for doubt in found.doubts)


def rectified(operators: bool) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """Two products with a rectifier between them that only a quantizer's least code is left of, as
    QDQ or as QOperators, its output dequantized; and the weights of both."""
    random = np.random.default_rng(0)
    codes = {name: random.integers(-127, 128, (6, 6)).astype(np.int8) for name in ("v", "w")}
    constants = {
        "s": np.float32(0.05), "z": np.uint8(128), "s1": np.float32(0.2), "z1": np.uint8(0),
        "s2": np.float32(1.0), "z2": np.uint8(128), "sw": np.float32(0.01), "zw": np.int8(0),
        **codes,
    }  # fmt: skip
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q")]

    def product(data: str, weight: str, ends: tuple[str, str], made: str) -> None:
        given = [data, "s" if data == "q" else "s1", "z" if data == "q" else "z1"]
        if operators:
            inputs = [*given, weight, "sw", "zw", *ends]
            nodes.append(helper.make_node("QLinearMatMul", inputs, [made], name=made))
            return
        for kind, inputs, output in (
            ("DequantizeLinear", given, f"{data}_real"),
            ("DequantizeLinear", [weight, "sw", "zw"], f"{weight}_real"),
            ("MatMul", [f"{data}_real", f"{weight}_real"], f"{made}_real_"),
            ("QuantizeLinear", [f"{made}_real_", *ends], made),
        ):
            nodes.append(helper.make_node(kind, inputs, [output], name=output))

    product("q", "v", ("s1", "z1"), "h")
    product("h", "w", ("s2", "z2"), "m")
    nodes.append(helper.make_node("DequantizeLinear", ["m", "s2", "z2"], ["y"], name="out"))
    graph = helper.make_graph(
        nodes,
        "rectified",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return net, codes["v"] * np.float32(0.01), codes["w"] * np.float32(0.01)


@pytest.mark.parametrize("operators", [False, True])
def test_a_rectifier_that_a_quantizer_stood_for_is_put_back(
    operators: bool, tmp_path: Path
) -> None:
    net, first, second = rectified(operators)
    model = saved(net, tmp_path)
    back = Unquantize()(model)
    assert back.signature == model.signature
    assert [n.op_type for n in onnx.load(back.path).graph.node] == [
        "MatMul", "Relu", "MatMul", "Identity",
    ]  # fmt: skip
    for feed, given in zip(
        feeds(model.signature), answers(back.path, feeds(model.signature)), strict=True
    ):
        wanted = np.maximum(feed["x"] @ first, 0) @ second
        np.testing.assert_allclose(given["y"], wanted, rtol=1e-4, atol=1e-4)

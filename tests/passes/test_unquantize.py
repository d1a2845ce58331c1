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

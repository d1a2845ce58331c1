"""A graph in half precision: which operators go there, what stands where tensors cross."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from edgedl.core.model import Model
from edgedl.core.stats import cosine
from edgedl.passes.clean import Clean
from edgedl.passes.graph import rewrite
from edgedl.passes.half import Half
from edgedl.passes.quantize import Quantize
from edgedl.passes.shapes import Shapes
from tests.models import Sketch, answers, conv_net, feeds, gemm_net, residual_net, samples, saved


def halved(net: onnx.ModelProto, folder: Path, half: Half | None = None) -> onnx.ModelProto:
    model = rewrite(saved(net, folder), Clean(), Shapes({}))
    return onnx.load((half or Half())(model).path)


def kinds(net: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in net.graph.node]


def types(net: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in net.graph.initializer}


def test_a_graph_is_cast_at_its_ends_and_nowhere_else(tmp_path: Path) -> None:
    net = halved(conv_net(), tmp_path)
    assert kinds(net) == ["Cast", *kinds(conv_net()), "Cast"]
    assert set(types(net).values()) == {TensorProto.FLOAT16}
    for value in (*net.graph.input, *net.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_bfloat16_has_its_own_type(tmp_path: Path) -> None:
    net = halved(conv_net(), tmp_path, Half("bfloat16"))
    assert set(types(net).values()) == {TensorProto.BFLOAT16}
    assert net.graph.node[0].attribute[0].i == TensorProto.BFLOAT16


def test_an_operator_that_is_to_stay_is_cast_around(tmp_path: Path) -> None:
    net = halved(conv_net(), tmp_path, Half(keep_float=("conv2",)))
    order = kinds(net)
    place = [node.name for node in net.graph.node].index("conv2")
    assert order[place - 1] == order[place + 1] == "Cast"
    assert order.count("Cast") == 4
    assert types(net)["conv2_w"] == TensorProto.FLOAT
    assert types(net)["conv1_w_float16"] == TensorProto.FLOAT16


def scaled(constant: np.ndarray, kind: str = "Mul") -> onnx.ModelProto:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.constant("c", constant)
    net.node(kind, ["conv1", "c"], "scaled")
    net.head("scaled", 8)
    return net.model([1, 3, 8, 8], [1, 5])


@pytest.mark.parametrize(
    ("constant", "kept"),
    [
        (np.float32(1e6), True),  # infinite
        (np.float32(1e-9), True),  # nothing left of the factor
        (np.full((1, 8, 1, 1), -3e38, np.float32), True),  # a mask
        (np.float32(-np.inf), False),  # infinite before, too
        (np.float32(0), False),
        (np.float32(3), False),
    ],
)
def test_constants_that_half_precision_has_not_keep_their_operator_in_float(
    constant: np.ndarray, kept: bool, tmp_path: Path
) -> None:
    net = halved(scaled(np.asarray(constant)), tmp_path)
    name = "c" if kept else "c_float16"
    assert name in types(net)


def test_operators_that_leave_its_range_stay(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.node("Exp", ["conv1"], "grown")
    net.head("grown", 8)
    found = halved(net.model([1, 3, 8, 8], [1, 5]), tmp_path)
    at = kinds(found).index("Exp")
    assert kinds(found)[at - 1] == kinds(found)[at + 1] == "Cast"


def quantized(net: onnx.ModelProto, folder: Path) -> Model:
    model = rewrite(saved(net, folder), Clean(), Shapes({}))
    return Quantize(samples(model.signature), scheme="tensorrt", method="minmax")(model)


def test_int8_operators_make_half_precision(tmp_path: Path) -> None:
    int8 = quantized(residual_net(), tmp_path)
    net = onnx.load(Half()(int8).path)
    assert net.opset_import[0].version == 19
    assert kinds(net).count("Cast") == 2
    assert set(types(net).values()) <= {TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT64}
    rows = feeds(int8.signature)
    given = answers(Half()(int8).path, rows)
    for wanted, found in zip(answers(int8.path, rows), given, strict=True):
        # a code more or less, where the float that is rounded lies between two
        assert cosine(wanted["logits"], found["logits"]) > 0.999


def test_scales_too_fine_for_half_precision_stay_with_their_operator(tmp_path: Path) -> None:
    net = gemm_net()
    for tensor in net.graph.initializer:
        if tensor.name == "fc2_w":
            array = numpy_helper.to_array(tensor) * np.float32(1e-5)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    found = onnx.load(Half()(quantized(net, tmp_path)).path)
    scales = {name: kind for name, kind in types(found).items() if name.startswith("fc2_w")}
    assert scales["fc2_w_axis1_scale"] == TensorProto.FLOAT
    [product] = [node for node in found.graph.node if node.name == "fc2"]
    makers = {name: node.op_type for node in found.graph.node for name in node.output}
    assert [makers[name] for name in product.input[:2]] == ["DequantizeLinear"] * 2

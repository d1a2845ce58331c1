"""Which operators each scheme takes on every tiny model, and which tensors share a scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from edgedl.core.target import SCHEMES
from edgedl.passes.calibrate import calibrate
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read
from edgedl.passes.layout import Layout, layout
from edgedl.passes.scales import decide
from tests.models import INT8_SCHEMES, NETS, samples, saved

# Schemes of engines that need a conversion behind every move as well.
STOPPING = [name for name, scheme in INT8_SCHEMES.items() if not scheme.carries]

EVERYWHERE = {
    "conv": "conv1 conv2 pooled fc",
    "dynamic": "conv1 conv2 pooled fc",
    "residual": "conv1 conv2 sum conv3 pooled fc",
    "depthwise": "conv1 depthwise pointwise pooled fc",
    "gemm": "fc1 fc2",
    "gemm_transposed": "fc1 fc2",
    "matmul": "product1 product2",
    "attention": "query key value scores mixed projected sum fc",
    "concat": "left right both conv3 pooled fc",
    "image": "conv1 picture",
    "if": "conv1 pooled",
    "old": "conv1 product",
    "batchnorm": "conv1 conv2 fc",
    "recurrent": "mixed out",
}
ELSEWHERE = {
    # onnxruntime adds integers only where both are; the sum's other operand is the float input.
    ("onnxruntime", "attention"): "query key value scores mixed projected fc",
    # Its integer conv has integer outputs, and the model's own output stays float.
    ("onnxruntime", "image"): "conv1",
    # OpenVINO's has batches of 1, which nobody knows before shapes are inferred.
    ("onnxruntime", "recurrent"): "mixed both last out",
    # TensorRT's sum is behind no convolution that could add it.
    ("tensorrt", "attention"): "query key value scores mixed projected fc",
    # TensorRT's concat moves codes, it computes nothing.
    ("tensorrt", "concat"): "left right conv3 pooled fc",
}


def planned(net: str, scheme: str, folder: Path) -> Layout:
    model = Clean()(saved(NETS[net](), folder))
    return layout(read(model.path), SCHEMES[scheme])


def shares(found: Layout) -> set[frozenset[str]]:
    """The groups of several tensors on one scale."""
    groups: dict[str, set[str]] = {}
    for name, group in found.groups.items():
        groups.setdefault(group, set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", INT8_SCHEMES)
def test_operators_in_int8(scheme: str, net: str, tmp_path: Path) -> None:
    found = planned(net, scheme, tmp_path)
    expected = ELSEWHERE.get((scheme.split(",")[0], net), EVERYWHERE[net]).split()
    assert [d.node for d in found.decisions if d.precision == "int8"] == expected
    assert all(d.reason for d in found.decisions)


@pytest.mark.parametrize("scheme", INT8_SCHEMES)
def test_every_int8_operator_reads_only_quantized_tensors(scheme: str, tmp_path: Path) -> None:
    found = planned("residual", scheme, tmp_path)
    reads = {"conv1": ["x"], "conv2": ["relu1"], "sum": ["conv2", "relu1"], "conv3": ["small"],
             "pooled": ["conv3"], "fc": ["flat"]}  # fmt: skip
    if SCHEMES[scheme].fuses_adds:  # conv2 adds in its own kernel
        assert "conv2" not in found.readers
        reads["sum"] = ["relu1"]
    moved = {"flat": "pooled"} if SCHEMES[scheme].carries else {}
    for node, tensors in reads.items():
        for tensor in tensors:
            if tensor in moved:
                assert tensor not in found.readers
                assert found.readers[moved[tensor]]
            else:
                assert node in found.readers[tensor]


@pytest.mark.parametrize("scheme", STOPPING)
def test_pooling_and_reshaping_share_a_scale(scheme: str, tmp_path: Path) -> None:
    found = shares(planned("residual", scheme, tmp_path))
    assert found == {frozenset({"relu2", "small"}), frozenset({"pooled", "flat"})}


def test_a_concat_that_moves_codes_shares_one_scale(tmp_path: Path) -> None:
    shared = frozenset({"left_relu", "right", "both"})
    assert shared in shares(planned("concat", "openvino", tmp_path))
    assert shared in shares(planned("concat", "tensorrt", tmp_path))


def test_a_concat_that_computes_scales_each_operand(tmp_path: Path) -> None:
    assert shares(planned("concat", "onnxruntime", tmp_path)) == {frozenset({"pooled", "flat"})}


@pytest.mark.parametrize("scheme", STOPPING)
def test_a_transposed_operand_shares_its_scale(scheme: str, tmp_path: Path) -> None:
    assert frozenset({"key", "key_t"}) in shares(planned("attention", scheme, tmp_path))


def test_what_was_moved_is_quantized_once_where_the_engine_carries_it(tmp_path: Path) -> None:
    attention = planned("attention", "openvino", tmp_path)
    assert "key" in attention.tensors
    assert "key_t" not in attention.tensors
    assert attention.readers["key"]
    pooled = planned("residual", "openvino", tmp_path)
    assert {"relu2", "small", "pooled"} <= set(pooled.tensors)
    assert "flat" not in pooled.tensors


def test_codes_go_by_who_reads_what_was_moved(tmp_path: Path) -> None:
    """OpenVINO computes signed codes wrongly in front of a convolution, a Transpose between."""
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((4, 3, 3, 3)).astype(np.float32), "w")
    make, float32 = onnx.helper.make_node, onnx.TensorProto.FLOAT
    nodes = [
        make("Transpose", ["x"], ["moved"], "to_channels_first", perm=[0, 3, 1, 2]),
        make("Conv", ["moved", "w"], ["y"], "conv"),
    ]
    x = onnx.helper.make_tensor_value_info("x", float32, [1, 8, 8, 3])
    y = onnx.helper.make_tensor_value_info("y", float32, [1, 4, 6, 6])
    graph = onnx.helper.make_graph(nodes, "moved", [x], [y], [weight])
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = saved(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path)
    found = layout(read(model.path), SCHEMES["openvino"])
    assert found.tensors == ("x",)
    assert found.users == {"x": frozenset({"conv"})}
    histograms = calibrate(model, ["x"], samples(model.signature, 8))
    plan = decide(found, SCHEMES["openvino"], histograms, "minmax")
    assert plan.activations["x"].dtype == "uint8"
    assert plan.activations["x"].zero_point == 128


def test_the_models_output_is_never_quantized(tmp_path: Path) -> None:
    for scheme in SCHEMES:
        for net in NETS:
            folder = tmp_path / scheme / net
            folder.mkdir(parents=True)
            found = planned(net, scheme, folder)
            assert not {"logits", "picture"} & set(found.tensors)

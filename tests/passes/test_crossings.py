"""Where tensors cross between float and int8, worked out by hand on tiny graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgedl.core.model import Model
from edgedl.core.target import ONNXRUNTIME, OPENVINO, SCHEMES, TENSORRT, Scheme
from edgedl.passes.clean import Clean
from edgedl.passes.crossings import Choices, Crossing, choices
from edgedl.passes.graph import read
from edgedl.passes.layout import layout
from edgedl.passes.shapes import Shapes
from tests.models import (
    INT8_SCHEMES,
    NETS,
    Sketch,
    attention_net,
    concat_net,
    conv_net,
    dynamic_net,
    gemm_net,
    if_net,
    matmul_net,
    residual_net,
    saved,
)


def crossed(net: onnx.ModelProto, scheme: Scheme, folder: Path) -> dict[str, Crossing]:
    """The crossings by tensor."""
    return {one.tensor: one for one in chosen(net, scheme, folder).crossings}


def chosen(net: onnx.ModelProto, scheme: Scheme, folder: Path) -> Choices:
    return choices(Shapes({})(saved(net, folder)), scheme)


def split(net: Sketch, data: str, *outputs: str) -> None:
    """The channels of an image in equal parts."""
    net.nodes.append(helper.make_node("Split", [data], outputs, name=f"{data}_split", axis=1))


@pytest.mark.parametrize("scheme", INT8_SCHEMES.values(), ids=INT8_SCHEMES)
def test_a_chain_crosses_at_its_ends_and_between_its_operators(
    scheme: Scheme, tmp_path: Path
) -> None:
    assert chosen(conv_net(), scheme, tmp_path).crossings == (
        Crossing("x", None, ("conv1",), False, 3 * 8 * 8),
        Crossing("relu1", "conv1", ("conv2",), False, 8 * 8 * 8),
        Crossing("relu2", "conv2", ("pooled",), False, 8 * 4 * 4),
        Crossing("pooled", "pooled", ("fc",), False, 8),
        Crossing("logits", "fc", (), True, 5),
    )


def test_a_tensor_with_two_readers_is_one_crossing(tmp_path: Path) -> None:
    found = crossed(residual_net(), ONNXRUNTIME, tmp_path)
    assert found["relu1"] == Crossing("relu1", "conv1", ("conv2", "sum"), False, 512)
    assert found["conv2"] == Crossing("conv2", "conv2", ("sum",), False, 512)
    # The pool only moves codes: what conv3 reads is what the sum made.
    assert found["relu2"] == Crossing("relu2", "sum", ("conv3",), False, 512)
    assert "small" not in found


def test_an_activation_that_is_not_the_only_reader_is_not_fused(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.node("Relu", ["conv1"], "relu1")
    net.node("Softmax", ["conv1"], "soft", axis=1)
    net.node("Add", ["relu1", "soft"], "sum")
    net.conv("sum", "conv2", 8, 8)
    net.head("conv2", 8)
    found = chosen(net.model([1, 3, 8, 8], [1, 5]), ONNXRUNTIME, tmp_path)
    by_tensor = {one.tensor: one for one in found.crossings}
    assert by_tensor["conv1"] == Crossing("conv1", "conv1", (), True, 512)
    assert by_tensor["sum"].producer is None
    assert "relu1" not in by_tensor
    assert "relu1" not in found.owners


def test_an_input_that_an_operator_reads_twice_crosses_once(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.node("Add", ["conv1", "conv1"], "sum")
    net.conv("sum", "conv2", 8, 8)
    net.head("conv2", 8)
    found = crossed(net.model([1, 3, 8, 8], [1, 5]), OPENVINO, tmp_path)
    assert found["conv1"].readers == ("sum",)


def test_a_concat_that_moves_codes_is_seen_through(tmp_path: Path) -> None:
    found = crossed(concat_net(), TENSORRT, tmp_path)
    assert found["left_relu"] == Crossing("left_relu", "left", ("conv3",), False, 4 * 64)
    assert found["right"] == Crossing("right", "right", ("conv3",), False, 6 * 64)
    assert "both" not in found


@pytest.mark.parametrize("scheme", [ONNXRUNTIME, OPENVINO], ids=["onnxruntime", "openvino"])
def test_a_concat_that_computes_is_where_its_result_crosses(scheme: Scheme, tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "left", 3, 4)
    net.conv("x", "right", 3, 4)
    net.node("Concat", ["left", "right"], "both", axis=1)
    net.node("Softmax", ["both"], "soft", axis=1)
    net.conv("both", "conv3", 8, 8)
    net.node("Add", ["soft", "conv3"], "sum")
    net.head("sum", 8)
    found = crossed(net.model([1, 3, 8, 8], [1, 5]), scheme, tmp_path)
    assert found["both"] == Crossing("both", "both", ("conv3",), True, 512)
    assert found["left"] == Crossing("left", "left", ("both",), False, 256)
    assert found["right"] == Crossing("right", "right", ("both",), False, 256)


@pytest.mark.parametrize("scheme", [OPENVINO, TENSORRT], ids=["openvino", "tensorrt"])
def test_constants_beside_a_tensor_stop_its_codes(scheme: Scheme, tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.constant("grid", np.ones((1, 2, 8, 8), np.float32))
    net.node("Concat", ["conv1", "grid"], "both", axis=1)
    net.conv("both", "conv2", 10, 8)
    net.head("conv2", 8)
    found = crossed(net.model([1, 3, 8, 8], [1, 5]), scheme, tmp_path)
    assert found["both"] == Crossing("both", None, ("conv2",), False, 640)
    assert found["conv1"] == Crossing("conv1", "conv1", (), True, 512)
    assert "grid" not in found


@pytest.mark.parametrize("scheme", INT8_SCHEMES.values(), ids=INT8_SCHEMES)
def test_rows_of_a_table_cross_and_not_the_table(scheme: Scheme, tmp_path: Path) -> None:
    net = Sketch()
    net.weight("table", 500, 16)
    net.constant("ids", np.arange(6).reshape(1, 6))
    net.node("Gather", ["table", "ids"], "rows")
    net.node("MatMul", ["rows", net.weight("w", 16, 5)], "product")
    net.node("MatMul", ["x", "product"], "logits")
    found = crossed(net.model([1, 4, 6], [1, 4, 5]), scheme, tmp_path)
    assert found["rows"] == Crossing("rows", None, ("product",), False, 6 * 16)
    assert "table" not in found


def test_parts_of_a_tensor_are_converted_with_it(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    split(net, "conv1", "first", "second")
    net.conv("first", "conv2", 4, 8)
    net.node("Softmax", ["second"], "soft", axis=1)
    net.conv("soft", "conv3", 4, 8)
    net.node("Add", ["conv2", "conv3"], "sum")
    net.head("sum", 8)
    found = crossed(net.model([1, 3, 8, 8], [1, 5]), OPENVINO, tmp_path)
    assert found["conv1"] == Crossing("conv1", "conv1", ("conv2",), True, 512)
    assert found["soft"] == Crossing("soft", None, ("conv3",), False, 256)


def test_many_paths_between_two_operators_are_walked_once(tmp_path: Path) -> None:
    net = Sketch()
    data = net.conv("x", "conv1", 3, 8)
    for number in range(60):
        split(net, data, f"a{number}", f"b{number}")
        data = net.node("Concat", [f"b{number}", f"a{number}"], f"swapped{number}", axis=1)
    net.conv(data, "conv2", 8, 8)
    net.head("conv2", 8)
    found = crossed(net.model([1, 3, 8, 8], [1, 5]), TENSORRT, tmp_path)
    assert found["conv1"] == Crossing("conv1", "conv1", ("conv2",), False, 512)


def test_a_body_reads_in_float(tmp_path: Path) -> None:
    found = crossed(if_net(), OPENVINO, tmp_path)
    assert found["x"] == Crossing("x", None, ("conv1",), True, 192)
    assert found["pooled"] == Crossing("pooled", "pooled", (), True, 8)


def test_sizes_that_the_graph_does_not_tell_are_0(tmp_path: Path) -> None:
    found = crossed(dynamic_net(), OPENVINO, tmp_path)
    assert {one.elements for one in found.values()} == {0}


def test_an_operator_named_like_anothers_tensor_makes_it_not(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "conv1", 3, 8)
    net.node("Softmax", ["conv1"], "conv2", name="soft", axis=1)
    net.node("Conv", ["conv2", net.weight("w", 8, 8, 1, 1)], "data", name="conv2")
    net.head("data", 8)
    found = chosen(net.model([1, 3, 8, 8], [1, 5]), ONNXRUNTIME, tmp_path)
    assert found.crossings[2] == Crossing("conv2", None, ("conv2",), False, 512)
    assert found.owners["conv2"] == "conv2"


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("scheme", INT8_SCHEMES)
def test_what_crosses_to_int8_has_a_scale_in_the_full_plan(
    scheme: str, net: str, tmp_path: Path
) -> None:
    model: Model = Clean()(saved(NETS[net](), tmp_path))
    found, full = choices(model, SCHEMES[scheme]), layout(read(model.path), SCHEMES[scheme])
    assert list(found.operators) == [d.node for d in full.decisions if d.precision == "int8"]
    assert set(found.signatures) == set(found.operators)
    for crossing in found.crossings:
        assert not crossing.readers or crossing.tensor in full.tensors
        assert {crossing.producer, *crossing.readers} <= {None, *found.operators}
        assert crossing.producer not in crossing.readers
    between = set(found.operators) - set(found.sequences)
    assert {one.producer for one in found.crossings} - {None} == between


def test_kernels_are_told_by_what_engines_compute_together(tmp_path: Path) -> None:
    found = chosen(matmul_net(), OPENVINO, tmp_path)
    # The addition of a bias behind a product belongs to it, the activation behind that does not.
    assert found.computed_by(frozenset({"dense1", "relu1"})) == ["product1"]
    assert found.computed_by(frozenset({"relu1"})) == []
    (tmp_path / "gemm").mkdir()
    found = chosen(gemm_net(), ONNXRUNTIME, tmp_path / "gemm")
    for name in ("fc1", "relu1", "fc1_product", "fc1_bias"):
        assert found.computed_by(frozenset({name})) == ["fc1"]
    assert found.computed_by(frozenset({"fc2_product", "elsewhere"})) == ["fc2"]


def test_of_operators_in_one_kernel_the_product_comes_first(tmp_path: Path) -> None:
    found = chosen(attention_net(), OPENVINO, tmp_path)
    assert list(found.operators)[5:7] == ["projected", "sum"]
    assert found.computed_by(frozenset({"sum", "projected"})) == ["projected", "sum"]
    (tmp_path / "residual").mkdir()
    found = chosen(residual_net(), OPENVINO, tmp_path / "residual")
    assert found.computed_by(frozenset({"pooled", "sum", "fc"})) == ["fc", "sum", "pooled"]


def two(first: list[object], second: list[object], folder: Path) -> tuple[str, str]:
    """The signatures of two products with constant or computed weights, a tail behind each."""
    net = Sketch()
    for name, (shape, constant, tail) in (("one", first), ("two", second)):
        weight = net.weight(f"{name}_w", *shape)  # type: ignore[misc]
        if not constant:
            weight = net.node("Abs", [weight], f"{name}_abs")
            net.node("Add", [weight, "x"], f"{name}_sum")
            weight = f"{name}_sum"
        net.node("MatMul", ["x", weight], name)
        if tail == "Relu":
            net.node("Relu", [name], f"{name}_tail")
        if tail == "Add":
            net.node("Add", [name, net.weight(f"{name}_b", 6)], f"{name}_tail")
    net.node("Concat", [n.output[0] for n in net.nodes if n.output[0] in _ends(net)], "logits",
             axis=1)  # fmt: skip
    found = chosen(net.model([6, 6], [6, None]), ONNXRUNTIME, folder)
    return found.signatures["one"], found.signatures["two"]


def _ends(net: Sketch) -> set[str]:
    read_somewhere = {name for node in net.nodes for name in node.input}
    return {node.output[0] for node in net.nodes} - read_somewhere


SQUARE = (6, 6)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([SQUARE, True, ""], [SQUARE, True, ""], True),
        ([SQUARE, True, "Relu"], [SQUARE, True, "Relu"], True),
        ([SQUARE, True, ""], [(6, 7), True, ""], False),
        ([SQUARE, True, ""], [SQUARE, True, "Relu"], False),
        ([SQUARE, True, ""], [SQUARE, True, "Add"], False),
        ([SQUARE, True, ""], [SQUARE, False, ""], False),
    ],
)
def test_a_signature_tells_what_the_time_depends_on(
    first: list[object], second: list[object], same: bool, tmp_path: Path
) -> None:
    one, other = two(first, second, tmp_path)
    assert (one == other) is same


def test_a_signature_does_not_depend_on_names_or_weights(tmp_path: Path) -> None:
    first, second = conv_net(seed=0), conv_net(seed=1)
    for node in second.graph.node:
        node.name += "_other"
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one = chosen(first, OPENVINO, tmp_path / "a").signatures
    other = chosen(second, OPENVINO, tmp_path / "b").signatures
    assert list(one.values()) == list(other.values())
    assert set(one).isdisjoint(other)


def test_operators_of_unknown_shapes_share_no_signature(tmp_path: Path) -> None:
    """The second product has four times the work of the first; the graph does not tell."""

    def net(rows: int | None, seed: int) -> onnx.ModelProto:
        made = Sketch(seed)
        first = made.node("MatMul", ["x", made.weight("one_w", 6, 6)], "one")
        parts = made.node("Concat", [first] * 4, "more", axis=0)
        made.node("MatMul", [parts, made.weight("two_w", 6, 6)], "logits", name="two")
        return made.model([rows, 6], [None, 6])

    found = []
    for i, (rows, seed) in enumerate([(None, 0), (None, 0), (None, 1), (3, 0), (3, 1)]):
        (tmp_path / str(i)).mkdir()
        found.append(chosen(net(rows, seed), OPENVINO, tmp_path / str(i)).signatures)
    dynamic, again, other, fixed, like_fixed = found
    assert {"one", "two"} <= set(dynamic)
    assert dynamic["one"] != dynamic["two"]
    assert again == dynamic
    assert set(other.values()).isdisjoint(dynamic.values())
    assert fixed == like_fixed
    assert set(fixed.values()).isdisjoint(dynamic.values())

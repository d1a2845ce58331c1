"""Cleaning changes a graph's form, never its answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.core.model import Model
from edgedl.passes.clean import Clean
from edgedl.passes.graph import read
from tests import models


def same_answers(one: Model, other: Model) -> None:
    rows = models.feeds(one.signature, 4)
    for wanted, given in zip(
        models.answers(one.path, rows), models.answers(other.path, rows), strict=True
    ):
        for name, array in wanted.items():
            np.testing.assert_allclose(given[name], array, rtol=1e-5, atol=1e-6)


def operators(model: Model) -> list[str]:
    return [node.op_type for node in read(model.path).graph]


@pytest.mark.parametrize("net", models.NETS)
def test_answers_stay(net: str, tmp_path: Path) -> None:
    model = models.saved(models.NETS[net](), tmp_path)
    same_answers(model, Clean()(model))


def test_an_old_model_becomes_a_plain_one(tmp_path: Path) -> None:
    model = models.saved(models.old_net(), tmp_path)
    made = Clean()(model)
    proto = onnx.load(made.path)
    assert [value.name for value in proto.graph.input] == ["x"]
    assert proto.ir_version >= 8
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 13)]
    assert not {"Constant", "Dropout", "Identity"} & set(operators(made))
    assert "fc_w" in {tensor.name for tensor in proto.graph.initializer}
    onnx.checker.check_model(proto, full_check=True)


def test_a_newer_opset_stays(tmp_path: Path) -> None:
    made = Clean()(models.saved(models.conv_net(), tmp_path))
    assert read(made.path).opset_imports[""] == 17
    assert read(Clean(min_opset=18)(made).path).opset_imports[""] == 18


def test_nodes_without_names_get_one_each(tmp_path: Path) -> None:
    net = models.residual_net()
    for node in net.graph.node:
        node.name = ""
    made = Clean()(models.saved(net, tmp_path))
    names = [node.name for node in read(made.path).graph]
    assert all(names)
    assert len(set(names)) == len(names)


def test_names_given_twice_are_told_apart(tmp_path: Path) -> None:
    net = models.residual_net()
    for node in net.graph.node:
        node.name = "again"
    made = Clean()(models.saved(net, tmp_path))
    names = [node.name for node in read(made.path).graph]
    assert len(set(names)) == len(names)


def test_dead_and_repeated_nodes_go(tmp_path: Path) -> None:
    net = models.conv_net()
    net.graph.node.append(helper.make_node("Sigmoid", ["conv1"], ["unread"], "dead"))
    net.graph.node[1].input[0] = "conv1"
    net.graph.node.append(helper.make_node("Relu", ["conv1"], ["relu_again"], "twin"))
    net.graph.node[2].input[0] = "relu_again"
    net.graph.node.insert(2, net.graph.node.pop())
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    assert operators(made) == operators(models.saved(models.conv_net(), tmp_path))


def dropout_net(inputs: dict[str, np.ndarray]) -> models.Sketch:
    """A conv, a Dropout with these constant inputs, and a relu."""
    net = models.Sketch()
    net.conv("x", "conv1", 3, 8)
    names = [net.constant(name, array) for name, array in inputs.items()]
    net.node("Dropout", ["conv1", *names], "kept")
    net.node("Relu", ["kept"], "y")
    return net


RATIO = np.array(0.5, np.float32)


@pytest.mark.parametrize(
    "inputs",
    [{}, {"ratio": RATIO}, {"ratio": RATIO, "training": np.array(False)}],
    ids=["alone", "with a ratio", "told not to train"],
)
def test_dropout_that_does_not_train_goes(inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    net = dropout_net(inputs).model([1, 3, 8, 8], [1, 8, 8, 8], output="y")
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    assert operators(made) == ["Conv", "Relu"]
    same_answers(model, made)


def test_dropout_that_trains_stays(tmp_path: Path) -> None:
    inputs = {"ratio": RATIO, "training": np.array(True)}
    net = dropout_net(inputs).model([1, 3, 8, 8], [1, 8, 8, 8], output="y")
    assert "Dropout" in operators(Clean()(models.saved(net, tmp_path)))


def test_dropout_that_makes_the_output_keeps_its_name(tmp_path: Path) -> None:
    net = dropout_net({}).model([1, 3, 8, 8], [1, 8, 8, 8], output="kept")
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    assert made.signature == model.signature
    same_answers(model, made)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    net = models.conv_net()
    twice = helper.make_function(
        "org.acme", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    net.functions.append(twice)
    net.opset_import.append(helper.make_opsetid("org.acme", 1))
    net.graph.node[1].CopyFrom(
        helper.make_node("Twice", ["conv1"], ["relu1"], "twice", domain="org.acme")
    )
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    same_answers(model, made)
    proto = onnx.load(made.path)
    assert not proto.functions
    assert [o.domain for o in proto.opset_import] == [""]


def test_an_identity_that_makes_the_output_keeps_its_name(tmp_path: Path) -> None:
    net = models.conv_net()
    net.graph.node[-1].output[0] = "inner"
    net.graph.node.append(helper.make_node("Identity", ["inner"], ["logits"]))
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    assert made.signature == model.signature
    same_answers(model, made)


def test_an_input_that_is_an_output_too(tmp_path: Path) -> None:
    net = models.gemm_net()
    net.graph.node.append(helper.make_node("Identity", ["x"], ["echo"]))
    net.graph.output.append(helper.make_tensor_value_info("echo", TensorProto.FLOAT, [1, 16]))
    model = models.saved(net, tmp_path)
    made = Clean()(model)
    assert made.signature == model.signature
    same_answers(model, made)


def test_cleaning_twice_is_cleaning_once(tmp_path: Path) -> None:
    once = Clean()(models.saved(models.old_net(), tmp_path))
    twice = Clean()(once)
    assert operators(twice) == operators(once)
    same_answers(once, twice)

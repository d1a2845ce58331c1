"""Folding computes what is constant, and only where it does not make the file larger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from edgedl.core.model import Model
from edgedl.passes.clean import Clean
from edgedl.passes.fold import SMALL_ELEMENTS, Fold
from edgedl.passes.graph import read
from tests import models
from tests.passes.test_clean import operators, same_answers


def folded(model: Model) -> Model:
    return Fold()(Clean()(model))


@pytest.mark.parametrize("net", models.NETS)
def test_answers_stay(net: str, tmp_path: Path) -> None:
    model = models.saved(models.NETS[net](), tmp_path)
    same_answers(model, folded(model))


def test_batch_norms_go_into_the_convolutions(tmp_path: Path) -> None:
    made = folded(models.saved(models.batchnorm_net(), tmp_path))
    assert operators(made) == [
        "Conv",
        "Relu",
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]


def test_a_folded_batch_norm_by_hand(tmp_path: Path) -> None:
    net = models.batchnorm_net()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in net.graph.initializer}
    scale = weights["gain1"] / np.sqrt(weights["variance1"] + 1e-3)
    conv = next(iter(read(folded(models.saved(net, tmp_path)).path).graph))
    weight, bias = (conv.inputs[i].const_value.numpy() for i in (1, 2))  # type: ignore[union-attr]
    np.testing.assert_allclose(weight, weights["conv1_w"] * scale[:, None, None, None], rtol=1e-5)
    np.testing.assert_allclose(bias, weights["shift1"] - weights["mean1"] * scale, atol=1e-6)


def constant_expression(
    *nodes: object, weights: dict[str, np.ndarray], shape: tuple[int, ...]
) -> models.Sketch:
    """x + c, where the nodes make c."""
    net = models.Sketch()
    for name, array in weights.items():
        net.constant(name, array)
    net.nodes.extend(nodes)  # type: ignore[arg-type]
    net.node("Add", ["x", "c"], "y", name="add")
    return net


def test_constant_expressions_are_computed(tmp_path: Path) -> None:
    net = constant_expression(
        helper.make_node("Sqrt", ["a"], ["b"]),
        helper.make_node("Mul", ["b", "b"], ["c"]),
        weights={"a": np.arange(4, dtype=np.float32)},
        shape=(4,),
    )
    model = models.saved(net.model([4], [4], output="y"), tmp_path)
    made = folded(model)
    assert operators(made) == ["Add"]
    same_answers(model, made)


def test_what_would_grow_the_file_is_left(tmp_path: Path) -> None:
    side = SMALL_ELEMENTS
    net = constant_expression(
        helper.make_node("Expand", ["a", "size"], ["c"]),
        weights={"a": np.ones((1, 1), np.float32), "size": np.array([4, side], np.int64)},
        shape=(4, side),
    )
    model = models.saved(net.model([4, side], [4, side], output="y"), tmp_path)
    made = folded(model)
    assert "Expand" in operators(made)
    assert made.bytes < 4 * side
    same_answers(model, made)


def test_stored_integers_stay_stored_integers(tmp_path: Path) -> None:
    net = constant_expression(
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["c"]),
        weights={
            "codes": np.arange(16, dtype=np.int8).reshape(4, 4),
            "scale": np.float32(0.1).reshape(()),
            "zero": np.int8(0).reshape(()),
        },
        shape=(4, 4),
    )
    model = models.saved(net.model([4, 4], [4, 4], output="y"), tmp_path)
    assert "DequantizeLinear" in operators(folded(model))


def test_shapes_of_fixed_tensors_are_computed(tmp_path: Path) -> None:
    net = models.Sketch()
    net.constant("rest", np.array([-1], np.int64))
    net.constant("zero", np.array(0, np.int64))
    net.constant("front", np.array([0], np.int64))
    net.node("Shape", ["x"], "shape")
    net.node("Gather", ["shape", "zero"], "count")
    net.node("Unsqueeze", ["count", "front"], "counts")
    net.node("Concat", ["counts", "rest"], "size", axis=0)
    net.node("Reshape", ["x", "size"], "y")
    model = models.saved(net.model([2, 3, 4], [2, 12], output="y"), tmp_path)
    made = folded(model)
    assert operators(made) == ["Reshape"]
    same_answers(model, made)

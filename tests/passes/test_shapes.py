"""Fixing shapes: what follows is inferred, what contradicts is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from edgedl.core.errors import BadOption
from edgedl.core.model import Model
from edgedl.passes.graph import read, shape_of
from edgedl.passes.shapes import Shapes
from tests import models
from tests.passes.test_clean import same_answers


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return models.saved(models.dynamic_net(), tmp_path)


def test_named_axes_are_fixed_everywhere(model: Model) -> None:
    made = Shapes({"x": (2, 3, 8, 12)})(model)
    assert made.signature.inputs[0].shape == (2, 3, 8, 12)
    assert made.signature.outputs[0].shape == (2, 5)
    inner = {
        value.name: shape_of(value) for node in read(made.path).graph for value in node.outputs
    }
    assert inner["conv1"] == (2, 8, 8, 12)
    assert inner["conv2"] == (2, 8, 4, 6)
    assert inner["flat"] == (2, 8)


def test_answers_stay(model: Model) -> None:
    same_answers(Shapes({"x": (1, 3, 8, 8)})(model), model)


def test_without_settings_shapes_are_only_inferred(model: Model) -> None:
    made = Shapes()(model)
    assert made.signature == model.signature
    inner = {
        value.name: shape_of(value) for node in read(made.path).graph for value in node.outputs
    }
    assert inner["conv1"][:2] == ("batch", 8)
    assert inner["flat"] == ("batch", 8)


def test_a_shape_that_repeats_the_models_own_is_fine(tmp_path: Path) -> None:
    model = models.saved(models.conv_net(), tmp_path)
    assert Shapes({"x": (1, 3, 8, 8)})(model).signature == model.signature


def test_another_input_on_the_same_axis_follows(tmp_path: Path) -> None:
    net = models.conv_net("batch")
    net.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5]))
    net.graph.node[-1].output[0] = "inner"
    net.graph.node.append(helper.make_node("Add", ["inner", "y"], ["logits"]))
    made = Shapes({"x": (4, 3, 8, 8)})(models.saved(net, tmp_path))
    assert [tensor.shape for tensor in made.signature.inputs] == [(4, 3, 8, 8), (4, 5)]
    assert made.signature.outputs[0].shape == (4, 5)


@pytest.mark.parametrize(
    ("fixed", "says", "hints"),
    [
        ({"z": (1, 3, 8, 8)}, "`z`, which is no input", "known: x"),
        ({"x": (1, 3, 8)}, "3 dimensions", "batchx3xheightxwidth"),
        ({"x": (1, 4, 8, 8)}, "sets 4 in `x`, where the model has 3", "batchx3xheightxwidth"),
    ],
)
def test_shapes_that_contradict_the_model(
    model: Model, fixed: dict[str, tuple[int, ...]], says: str, hints: str
) -> None:
    with pytest.raises(BadOption, match=says) as caught:
        Shapes(fixed)(model)
    assert hints in (caught.value.hint or "")


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_positive(model: Model, size: int) -> None:
    with pytest.raises(BadOption):
        Shapes({"x": (size, 3, 8, 8)})(model)


def test_one_axis_has_one_size(tmp_path: Path) -> None:
    net = models.dynamic_net()
    net.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "height"
    with pytest.raises(BadOption, match="height"):
        Shapes({"x": (1, 3, 8, 12)})(models.saved(net, tmp_path))

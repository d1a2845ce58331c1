"""Layers read from a graph are those that it was made of."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import helper

from edgedl.core.layers import LayerShape
from edgedl.passes.graph import open_model
from edgedl.passes.layer_shapes import layer_shapes
from edgedl.passes.layers import Stand, written
from edgedl.passes.shapes import Shapes
from tests.models import depthwise_net, dynamic_net, saved
from tests.passes.test_layers import LAYERS


@pytest.mark.parametrize("kind", LAYERS)
def test_what_was_written_is_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "layers.onnx"
    path.write_bytes(written(Stand(LAYERS[kind], 2)).data)
    found = layer_shapes(open_model(path))
    layers = [shape for name, shape in found.items() if name.startswith("layer_")]
    assert layers == [LAYERS[kind]] * 2


def test_a_network_of_three_kinds_of_convolution(tmp_path: Path) -> None:
    model = Shapes()(saved(depthwise_net(), tmp_path))
    ones = (1, 1)
    assert layer_shapes(model) == {
        "conv1": LayerShape("conv", 3, 8, (8, 8), (3, 3), ones, (1,) * 4, ones),
        "depthwise": LayerShape("conv", 8, 8, (8, 8), (3, 3), ones, (1,) * 4, ones, 8),
        "pointwise": LayerShape("conv", 8, 12, (8, 8), ones, ones, (0,) * 4, ones),
        "fc": LayerShape("linear", 12, 5, (1,)),
    }


def test_sizes_that_are_not_fixed_are_left_out(tmp_path: Path) -> None:
    assert set(layer_shapes(saved(dynamic_net(), tmp_path))) <= {"fc"}


def test_weights_that_stand_outputs_first(tmp_path: Path) -> None:
    proto = onnx.load_from_string(written(Stand(LayerShape("linear", 4, 8, (1,)), 1)).data)
    [layer] = [node for node in proto.graph.node if node.name == "layer_0_0"]
    layer.attribute.append(helper.make_attribute("transB", 1))
    [weight] = [i for i in proto.graph.initializer if i.name == layer.input[1]]
    weight.dims[:] = [8, 4]
    path = tmp_path / "turned.onnx"
    path.write_bytes(proto.SerializeToString())
    assert layer_shapes(open_model(path))["layer_0_0"] == LayerShape("linear", 4, 8, (1,))

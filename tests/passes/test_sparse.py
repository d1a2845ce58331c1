"""Weights with two zeros in every four, told from others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedl.passes.quantize import Quantize
from edgedl.passes.sparse import is_two_of_four, two_of_four
from tests.models import Sketch, samples, saved


def net(axis: int = 1, *, dense: str = "") -> onnx.ModelProto:
    """Two convolutions whose weights have two zeros in four along an axis, but for one of them."""
    sketch = Sketch()
    sketch.conv("x", "conv1", 16, 32)
    sketch.conv("conv1", "conv2", 32, 32)
    sketch.head("conv2", 32)
    made = sketch.model([1, 16, 8, 8], [1, 5])
    for tensor in made.graph.initializer:
        if tensor.name in ("conv1_w", "conv2_w") and tensor.name != dense:
            array = np.moveaxis(numpy_helper.to_array(tensor).copy(), axis, -1)
            array[..., 1::2] = 0
            array = np.ascontiguousarray(np.moveaxis(array, -1, axis))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return made


@pytest.mark.parametrize(
    ("row", "sparse"),
    [
        ([1, 0, 2, 0], True),
        ([1, 2, 0, 0], True),
        ([1, 2, 3, 0], False),
        ([0, 1, 2, 0, 0, 0, 0, 0], True),
        ([0, 0, 1, 2, 1, 0, 0, 0], True),
        ([0, 0, 0, 0, 1, 1, 1, 0], False),
        ([0, 0, 0, 0, 1, 1], True),
        ([0, 0, 0, 0], False),
    ],
)
def test_two_of_each_four_neighbours(row: list[int], sparse: bool) -> None:
    assert is_two_of_four(np.asarray([row])) is sparse


def test_a_network_is_sparse_along_its_input_channels(tmp_path: Path) -> None:
    assert two_of_four(saved(net(), tmp_path))
    assert not two_of_four(saved(net(axis=0), tmp_path))
    assert not two_of_four(saved(net(dense="conv2_w"), tmp_path))
    assert not two_of_four(saved(net(dense="conv2_w", axis=0), tmp_path))


def test_codes_are_as_sparse_as_what_they_stand_for(tmp_path: Path) -> None:
    model = saved(net(), tmp_path)
    int8 = Quantize(samples(model.signature), scheme="tensorrt", method="minmax")(model)
    assert two_of_four(int8)

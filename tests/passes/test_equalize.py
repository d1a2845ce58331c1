"""Weights with even ranges, and biases that move on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays
from edgedl.passes.equalize import Equalize, EqualizeBy, Seen, channels_seen
from tests.models import Sketch, answers, saved


def arrays(model: Model) -> Mapping[str, np.ndarray]:
    """What each node reads as constants, by `node_position`."""
    proto = onnx.load(model.path)
    held = {one.name: numpy_helper.to_array(one) for one in proto.graph.initializer}
    return {
        f"{node.name}_{position}": held[name]
        for node in proto.graph.node
        for position, name in enumerate(node.input)
        if name in held
    }


def rows(model: Model, count: int = 16) -> Samples:
    shape = [int(d) for d in model.signature.inputs[0].shape or () if isinstance(d, int)]
    drawn = np.random.default_rng(3).standard_normal((count, *shape[1:]))
    return from_arrays({"x": drawn.astype(np.float32)}).bind(model.signature)


def assert_same(model: Model, other: Model, given: Samples) -> None:
    feeds = list(given)
    for wanted, found in zip(answers(model.path, feeds), answers(other.path, feeds), strict=True):
        for name, array in wanted.items():
            assert np.abs(found[name] - array).max() <= 1e-4 * np.abs(array).max()


def two_layers(first: np.ndarray, second: np.ndarray, between: str = "Relu") -> onnx.ModelProto:
    """1x1 convolutions of these [out, in] weights, with an activation between."""
    net = Sketch()
    for name, kernel in (("a", first), ("b", second)):
        net.constant(f"{name}_w", kernel[:, :, None, None].astype(np.float32))
        net.constant(f"{name}_b", np.full(len(kernel), 0.5, np.float32))
    net.node("Conv", ["x", "a_w", "a_b"], "a")
    read = net.node(between, ["a"], "h") if between else "a"
    net.node("Conv", [read, "b_w", "b_b"], "y", name="b")
    return net.model([1, first.shape[1], 2, 2], [1, len(second), 2, 2], output="y")


FIRST, SECOND = np.array([[8.0, -2.0], [0.5, 0.25]]), np.array([[2.0, 1.0], [-1.0, 8.0]])


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu", ""])
def test_two_layers_meet_at_the_root_of_their_ranges(between: str, tmp_path: Path) -> None:
    # 8 and 2 meet at 4, by a factor of 2; 0.5 and 8 at 2, by a factor of 1/4.
    model = saved(two_layers(FIRST, SECOND, between), tmp_path)
    even = EqualizeBy(Seen(), absorb=False)(model)
    found = arrays(even)
    assert np.allclose(found["a_1"][:, :, 0, 0], [[4, -1], [2, 1]], rtol=1e-3)
    assert np.allclose(found["a_2"], [0.25, 2], rtol=1e-3)
    assert np.allclose(found["b_1"][:, :, 0, 0], [[4, 0.25], [-2, 2]], rtol=1e-3)
    assert_same(model, even, rows(model))


def test_three_layers_meet_at_the_cube_root(tmp_path: Path) -> None:
    net = Sketch()
    net.constant("a_w", np.array([16.0, 0.5]).reshape(2, 1, 1, 1).astype(np.float32))
    net.constant("d_w", np.array([2.0, 4.0]).reshape(2, 1, 1, 1).astype(np.float32))
    net.constant("c_w", np.array([[0.25, 0.5]]).reshape(1, 2, 1, 1).astype(np.float32))
    net.node("Conv", ["x", "a_w"], "a")
    net.node("Relu", ["a"], "r")
    net.node("Conv", ["r", "d_w"], "d", group=2)
    net.node("Relu", ["d"], "s")
    net.node("Conv", ["s", "c_w"], "y", name="c")
    model = saved(net.model([1, 1, 2, 2], [1, 1, 2, 2], output="y"), tmp_path)
    even = EqualizeBy(Seen())(model)
    found = arrays(even)
    for name in ("a_1", "d_1", "c_1"):
        assert np.allclose(found[name].reshape(-1), [2, 1], rtol=5e-3), name
    assert_same(model, even, rows(model))


def clipped(high: float) -> onnx.ModelProto:
    net = Sketch()
    net.constant("a_w", np.array([1.0, 0.01]).reshape(2, 1, 1, 1).astype(np.float32))
    net.constant("b_w", np.array([[1.0, 1.0]]).reshape(1, 2, 1, 1).astype(np.float32))
    net.constant("low", np.asarray(0, np.float32))
    net.constant("high", np.asarray(high, np.float32))
    net.node("Conv", ["x", "a_w"], "a")
    net.node("Clip", ["a", "low", "high"], "h")
    net.node("Conv", ["h", "b_w"], "y", name="b")
    return net.model([1, 1, 2, 2], [1, 1, 2, 2], output="y")


def test_a_channel_that_reaches_the_clip_keeps_its_factor(tmp_path: Path) -> None:
    model = saved(clipped(1.5), tmp_path)
    given = rows(model)
    even = Equalize(given)(model)
    found = arrays(even)
    assert found["a_1"].reshape(-1)[0] == 1
    # 0.01 and 1 meet at 0.1 where the clip leaves room for that.
    assert found["a_1"].reshape(-1)[1] == pytest.approx(0.1, rel=1e-3)
    assert_same(model, even, given)


def test_a_clip_leaves_room_for_a_quarter_more_than_was_seen(tmp_path: Path) -> None:
    model = saved(clipped(0.1), tmp_path)
    given = rows(model)
    found = arrays(Equalize(given)(model))
    largest = channels_seen(model, given).largest["h"][1]
    assert found["a_1"].reshape(-1)[1] == pytest.approx(0.01 * 0.1 / (1.25 * largest), rel=1e-3)


def test_what_something_else_reads_stays(tmp_path: Path) -> None:
    net = Sketch()
    net.conv("x", "a", 3, 3)
    net.conv("a", "b", 3, 3)
    net.node("Add", ["a", "b"], "y")
    model = saved(net.model([1, 3, 4, 4], [1, 3, 4, 4], output="y"), tmp_path)
    assert_same(model, Equalize(rows(model))(model), rows(model))
    assert arrays(Equalize(rows(model))(model)).keys() == arrays(model).keys()
    for name, array in arrays(Equalize(rows(model))(model)).items():
        assert np.array_equal(array, arrays(model)[name])


def test_high_biases_move_on_by_hand(tmp_path: Path) -> None:
    # 10 less three deviations of 2 is 4; 9 is 1 below 10, and 8.75 a quarter of that further.
    model = saved(two_layers(np.eye(2), np.array([[1.0, 2.0], [0.0, 3.0]])), tmp_path)
    mean, deviation = np.array([10.0, 10.0]), np.array([2.0, 0.1])
    least = np.array([6.0, 9.0])
    seen = Seen({"a": mean}, {"a": least}, {"a": mean}, {"a": deviation})
    factors = np.sqrt(1 / np.array([1.0, 3.0]))
    found = arrays(EqualizeBy(seen)(model))
    moved = (np.array([0.5, 0.5]) - [4, 8.75]) / factors
    assert np.allclose(found["a_2"], moved, rtol=1e-3)
    assert np.allclose(found["b_2"], [0.5 + 1 * 4 + 2 * 8.75, 0.5 + 3 * 8.75], rtol=1e-3)


def test_high_biases_change_no_answer(tmp_path: Path) -> None:
    net = two_layers(FIRST, SECOND)
    for tensor in net.graph.initializer:
        if tensor.name == "a_b":
            tensor.CopyFrom(numpy_helper.from_array(np.full(2, 60, np.float32), "a_b"))
    model = saved(net, tmp_path)
    given = rows(model)
    even = Equalize(given)(model)
    assert_same(model, even, given)
    assert (arrays(even)["a_2"] < arrays(EqualizeBy(Seen(), absorb=False)(model))["a_2"]).all()

"""Activations with even channels, where what makes them can take the division."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedl.core.model import Model
from edgedl.core.samples import Samples, from_arrays
from edgedl.passes.graph import read
from edgedl.passes.sites import find_sites, with_shapes
from edgedl.passes.smooth import Maxima, Smooth, SmoothBy, channel_maxima, smoothing
from tests.models import NETS, Sketch, answers, samples, saved
from tests.passes.test_equalize import arrays, assert_same


def normed(*, decomposed: bool = False, residual: bool = False) -> onnx.ModelProto:
    """A layer norm whose third channel is an outlier, and products that read it."""
    net = Sketch(2)
    net.constant("scale", np.array([1, 1, 40, 1], np.float32))
    net.constant("shift", np.array([0, 0.5, 3, 0], np.float32))
    net.weight("q_w", 4, 4)
    net.weight("k_w", 4, 6)
    if decomposed:
        net.node("Mul", ["x", "scale"], "scaled")
        net.node("Add", ["scaled", "shift"], "n")
    else:
        net.node("LayerNormalization", ["x", "scale", "shift"], "n", axis=-1)
    net.node("MatMul", ["n", "q_w"], "q")
    net.node("MatMul", ["n", "k_w"], "k")
    last = net.node("Add", ["q", "n"], "r") if residual else "q"
    net.node("Concat", [last, "k"], "y", axis=-1)
    return net.model([1, 5, 4], [1, 5, 10], output="y")


def rows(model: Model, count: int = 12) -> Samples:
    drawn = np.random.default_rng(3).standard_normal((count, 5, 4)).astype(np.float32)
    return from_arrays({"x": drawn}).bind(model.signature)


def spread(model: Model, tensor: str) -> float:
    found = channel_maxima(model, rows(model)).of[tensor]
    return float(found.max() / found.min())


def test_factors_by_hand() -> None:
    # 100^0.5 / 1^0.5 = 10 and 1: with their geometric mean at 1, the root of ten and its inverse.
    found = smoothing(np.array([100.0, 1.0]), np.array([1.0, 1.0]), 0.5)
    assert found is not None
    assert found[0] * found[1] == pytest.approx(1)
    least = 1 + 0.1 * 9  # the tenth part of the way between the two
    assert found[0] / found[1] == pytest.approx(10 / least)
    strong = smoothing(np.array([100.0, 1.0]), np.array([1.0, 1.0]), 1.0)
    assert strong is not None
    assert strong[0] / strong[1] == pytest.approx(100 / (1 + 0.1 * 99))


@pytest.mark.parametrize("odd", [[np.inf, 1.0], [0.0, 1.0], [np.nan, 1.0]])
def test_nothing_to_gain(odd: list[float]) -> None:
    assert smoothing(np.array(odd), np.ones(2), 0.5) is None


@pytest.mark.parametrize("decomposed", [False, True])
def test_outliers_move_into_the_weights_at_no_cost(decomposed: bool, tmp_path: Path) -> None:
    model = saved(normed(decomposed=decomposed), tmp_path)
    even = Smooth(rows(model), alpha=0.95)(model)
    assert_same(model, even, rows(model))
    assert spread(even, "n") < 0.2 * spread(model, "n")
    kinds = [[node.op_type for node in read(one.path).graph] for one in (model, even)]
    assert kinds[0] == kinds[1]


def test_a_residual_that_reads_it_too_wants_a_multiplication(tmp_path: Path) -> None:
    model = saved(normed(residual=True), tmp_path)
    kept = Smooth(rows(model), alpha=0.95)(model)
    for name, array in arrays(kept).items():
        assert np.array_equal(array, arrays(model)[name])
    even = Smooth(rows(model), alpha=0.95, insert=True)(model)
    assert_same(model, even, rows(model))
    graph = read(even.path).graph
    [inserted] = [node for node in graph if node.op_type == "Mul"]
    assert {use.node.name for use in inserted.outputs[0].uses()} == {"q", "k"}
    assert spread(even, inserted.outputs[0].name or "") < 0.2 * spread(model, "n")


def attention(outlier: float) -> onnx.ModelProto:
    """Two heads of three channels; the first channel of the values is an outlier."""
    net = Sketch(4)
    drawn = net.random.standard_normal((6, 6))
    net.constant("v_w", (drawn * [outlier, 1, 1, 1, 1, 1]).astype(np.float32))
    net.weight("v_b", 6)
    net.weight("o_w", 6, 6)
    net.constant("heads", np.array([0, 5, 2, 3], np.int64))
    net.constant("joined", np.array([0, 5, 6], np.int64))
    net.node("MatMul", ["x", "v_w"], "v")
    net.node("Add", ["v", "v_b"], "vb")
    net.node("Reshape", ["vb", "heads"], "split")
    net.node("Transpose", ["split"], "values", perm=[0, 2, 1, 3])
    net.node("Reshape", ["x", "heads"], "parts")
    net.node("Transpose", ["parts"], "left", perm=[0, 2, 1, 3])
    net.node("Transpose", ["parts"], "right", perm=[0, 2, 3, 1])
    net.node("MatMul", ["left", "right"], "scores")
    net.node("Softmax", ["scores"], "shares", axis=-1)
    net.node("MatMul", ["shares", "values"], "mixed")
    net.node("Transpose", ["mixed"], "back", perm=[0, 2, 1, 3])
    net.node("Reshape", ["back", "joined"], "context")
    net.node("MatMul", ["context", "o_w"], "y", name="o")
    return net.model([1, 5, 6], [1, 5, 6], output="y")


def test_values_of_an_attention_take_the_division_of_its_output(tmp_path: Path) -> None:
    model = saved(attention(50.0), tmp_path)
    [site] = find_sites(with_shapes(read(model.path)))
    assert (site.source.name, [part.node.name for part in site.read]) == ("v", ["o"])
    drawn = np.random.default_rng(3).standard_normal((12, 5, 6)).astype(np.float32)
    given = from_arrays({"x": drawn}).bind(model.signature)
    even = Smooth(given, alpha=0.95)(model)
    assert_same(model, even, given)
    assert not np.array_equal(arrays(even)["v_1"], arrays(model)["v_1"])


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("net", NETS)
def test_no_answer_changes(net: str, insert: bool, tmp_path: Path) -> None:
    model = saved(NETS[net](), tmp_path)
    even = Smooth(samples(model.signature), 0.8, insert)(model)
    feeds = list(samples(model.signature, 4, seed=8))
    for wanted, found in zip(answers(model.path, feeds), answers(even.path, feeds), strict=True):
        for name, array in wanted.items():
            assert np.allclose(found[name], array, rtol=1e-4, atol=1e-4 * np.abs(array).max())


def test_maxima_of_another_size_move_nothing(tmp_path: Path) -> None:
    model = saved(normed(), tmp_path)
    kept = SmoothBy(Maxima({"n": np.ones(3)}), 0.5, True)(model)
    for name, array in arrays(kept).items():
        assert np.array_equal(array, arrays(model)[name])

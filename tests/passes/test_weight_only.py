"""Weights stored in 8 bits: how exact, how small, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.stats import cosine
from edgedl.passes.weight_only import WeightOnly
from edgedl.runtime import engine, installed_engines
from tests.models import answers, conv_net, feeds, saved


def one_node(
    operator: str, weight: np.ndarray, position: int, shape: list[int], **attributes: object
) -> onnx.ModelProto:
    """A model of one operator with a constant at this position."""
    names = ["x", "w"] if position else ["w", "x"]
    kind = TensorProto.INT64 if operator == "Gather" else TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, names, ["y"], name="it", **attributes)],
        "one",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def stored(path: Path) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


RNG = np.random.default_rng(0)
CASES = {
    "conv": ("Conv", (16, 8, 3, 3), 1, [1, 8, 6, 6], {}, (16, 1, 1, 1)),
    "transposed": ("ConvTranspose", (8, 16, 3, 3), 1, [1, 8, 6, 6], {}, (1, 16, 1, 1)),
    "gemm": ("Gemm", (32, 40), 1, [2, 32], {}, (1, 40)),
    "gemm of the other layout": ("Gemm", (40, 32), 1, [2, 32], {"transB": 1}, (40, 1)),
    "matmul": ("MatMul", (32, 40), 1, [2, 32], {}, (1, 40)),
    "matmul from the left": ("MatMul", (40, 32), 0, [32, 2], {}, (40, 1)),
    "stacked matmul": ("MatMul", (3, 32, 40), 1, [3, 2, 32], {}, (3, 1, 40)),
    "table": ("Gather", (100, 16), 0, [5], {}, (100, 1)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", installed_engines())
def test_every_channel_has_its_scale_and_the_answers_stay(
    case: str, name: str, tmp_path: Path
) -> None:
    operator, size, position, shape, attributes, scales = CASES[case]
    spread = np.exp(RNG.normal(0, 2, scales))
    weight = (RNG.standard_normal(size) * spread).astype(np.float32)
    model = saved(one_node(operator, weight, position, shape, **attributes), tmp_path)
    made = WeightOnly()(model)
    [codes] = [a for a in stored(made.path).values() if a.dtype == np.int8]
    [scale] = [a for a in stored(made.path).values() if a.shape == scales]
    assert codes.shape == weight.shape
    assert np.abs(codes * scale - weight).max() <= (0.501 * np.abs(scale)).max()
    assert (np.abs(codes * scale - weight) <= 0.501 * scale).all()
    x = RNG.integers(0, 100, shape) if operator == "Gather" else RNG.standard_normal(shape)
    feed = {"x": x.astype(np.int64 if operator == "Gather" else np.float32)}
    with (
        engine(name).open_model(model.path, settings={}) as before,
        engine(name).open_model(made.path, settings={}) as after,
    ):
        assert cosine(before.run(feed)["y"], after.run(feed)["y"]) > 0.999


def test_recurrent_weights_have_a_scale_a_row_and_direction(tmp_path: Path) -> None:
    hidden, fed = 16, 24
    graph = helper.make_graph(
        [helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=hidden, name="lstm",
                          direction="bidirectional")],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [5, 1, fed])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 2, 1, hidden])],
        [
            numpy_helper.from_array(RNG.standard_normal((2, 4 * hidden, fed)).astype("f4"), "w"),
            numpy_helper.from_array(RNG.standard_normal((2, 4 * hidden, hidden)).astype("f4"), "r"),
        ],
    )  # fmt: skip
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = WeightOnly()(saved(net, tmp_path))
    shapes = sorted(a.shape for a in stored(made.path).values() if a.dtype == np.float32)
    assert shapes == [(2, 64, 1), (2, 64, 1)]
    assert sorted(a.dtype for a in stored(made.path).values() if a.dtype == np.int8)


def test_bytes_fall_to_about_a_quarter(tmp_path: Path) -> None:
    weight = RNG.standard_normal((256, 256)).astype(np.float32)
    model = saved(one_node("MatMul", weight, 1, [1, 256]), tmp_path)
    assert 0.25 < WeightOnly()(model).bytes / model.bytes < 0.27


@pytest.mark.parametrize("name", installed_engines())
def test_engines_expand_the_codes_when_they_open_the_model(name: str, tmp_path: Path) -> None:
    """Neither a conversion nor a product of constants is left to be computed in a call."""
    weight = RNG.standard_normal((32, 16, 3, 3)).astype(np.float32)
    model = saved(one_node("Conv", weight, 1, [1, 16, 8, 8]), tmp_path)
    feed = {"x": RNG.standard_normal((1, 16, 8, 8)).astype(np.float32)}
    found = [
        sorted(o.kind for o in engine(name).operators(m.path, feed, settings={}))
        for m in (model, WeightOnly()(model))
    ]
    assert found[0] == found[1]


def test_small_odd_and_named_weights_are_left_alone(tmp_path: Path) -> None:
    small = saved(one_node("MatMul", np.ones((4, 4), np.float32), 1, [1, 4]), tmp_path)
    assert not any(a.dtype == np.int8 for a in stored(WeightOnly()(small).path).values())
    broken = RNG.standard_normal((64, 64)).astype(np.float32)
    broken[3, 3] = np.inf
    infinite = saved(one_node("MatMul", broken, 1, [1, 64]), tmp_path)
    assert not any(a.dtype == np.int8 for a in stored(WeightOnly()(infinite).path).values())
    whole = saved(one_node("MatMul", np.ones((64, 64), np.float32), 1, [1, 64]), tmp_path)
    kept = WeightOnly(keep_float=("it",))(whole)
    assert not any(a.dtype == np.int8 for a in stored(kept.path).values())


def test_a_shared_weight_is_stored_once(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="one"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="two"),
        ],
        "tied",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(RNG.standard_normal((64, 64)).astype("f4"), "w")],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = WeightOnly()(saved(net, tmp_path))
    assert sum(a.dtype == np.int8 for a in stored(made.path).values()) == 1


def test_dead_channels_stay_dead(tmp_path: Path) -> None:
    weight = RNG.standard_normal((64, 64)).astype(np.float32)
    weight[:, 7] = 0
    made = WeightOnly()(saved(one_node("MatMul", weight, 1, [1, 64]), tmp_path))
    arrays = stored(made.path).values()
    [codes] = [a for a in arrays if a.dtype == np.int8]
    assert not codes[:, 7].any()
    assert all(np.isfinite(a).all() for a in arrays)


def test_weights_in_nested_bodies_are_stored_and_the_old_ones_go(tmp_path: Path) -> None:
    weight = RNG.standard_normal((64, 64)).astype(np.float32)

    def branch(depth: int, name: str) -> onnx.GraphProto:
        """A body with a weight of its own, and another such body in it."""
        out = helper.make_tensor_value_info(f"{name}_y", TensorProto.FLOAT, [1, 64])
        product = helper.make_node("MatMul", ["x", f"{name}_w"], [f"{name}_h"], name=f"{name}_p")
        held = [numpy_helper.from_array(weight + depth, f"{name}_w")]
        if not depth:
            last = helper.make_node("Relu", [f"{name}_h"], [f"{name}_y"], name=f"{name}_r")
            return helper.make_graph([product, last], name, [], [out], held)
        inner = [branch(depth - 1, f"{name}{side}") for side in "ab"]
        choice = helper.make_node(
            "If",
            ["c"],
            [f"{name}_i"],
            then_branch=inner[0],
            else_branch=inner[1],
            name=f"{name}_if",
        )
        add = helper.make_node("Add", [f"{name}_h", f"{name}_i"], [f"{name}_y"], name=f"{name}_s")
        return helper.make_graph([product, choice, add], name, [], [out], held)

    body = [branch(1, side) for side in "tf"]
    graph = helper.make_graph(
        [helper.make_node("If", ["c"], ["y"], then_branch=body[0], else_branch=body[1], name="if")],
        "nested",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64]),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = saved(net, tmp_path)
    made = WeightOnly()(model)
    assert made.bytes < 0.4 * model.bytes
    feed = {"x": RNG.standard_normal((1, 64)).astype(np.float32), "c": np.array(True)}
    for name in installed_engines():
        with (
            engine(name).open_model(model.path, settings={}) as before,
            engine(name).open_model(made.path, settings={}) as after,
        ):
            assert cosine(before.run(feed)["y"], after.run(feed)["y"]) > 0.999


def test_a_single_cast_answers_alike_on_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="only this engine is given single Casts")
    model = saved(conv_net(), tmp_path)
    rows = feeds(model.signature)
    found = [
        answers(WeightOnly(least_elements=1, directly=directly)(model).path, rows)
        for directly in (False, True)
    ]
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one["logits"], other["logits"])

"""Weights stored in 8 bits, expanded before an engine sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.errors import EngineFailed
from edgedl.passes.graph import to_ship
from edgedl.passes.weight_only import WeightOnly
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.expand import expand
from tests.models import NETS, Sketch, feeds, if_net, saved

# One has bodies, which are left to the engine, and one lists its weights among its inputs.
WITHOUT = ("if", "old")


def stored(net: onnx.ModelProto, folder: Path) -> bytes:
    """What a bundle's payload holds of a model whose weights are stored in 8 bits."""
    return to_ship(WeightOnly(least_elements=1)(saved(net, folder)))[0]


def by_onnx(data: bytes) -> dict[str, np.ndarray]:
    """Every stored weight, found and expanded by means of the ONNX library."""
    graph = onnx.load_model_from_string(data).graph
    constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    found = {}
    for node in graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "Mul" else None
        if maker is not None and maker.op_type == "Cast":
            codes = constants[makers[maker.input[0]].input[0]]
            found[node.output[0]] = (
                codes.astype(np.int32).astype(np.float32) * constants[node.input[1]]
            )
    return found


@pytest.mark.parametrize("net", [name for name in NETS if name not in WITHOUT])
def test_every_stored_weight_is_taken_out_and_expanded_to_the_bit(net: str, tmp_path: Path) -> None:
    data = stored(NETS[net](), tmp_path)
    lean, weights = expand(data)
    expected = by_onnx(data)
    assert weights.keys() == expected.keys()
    assert expected
    for name, array in weights.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected[name])
    graph = onnx.load_model_from_string(lean).graph
    before = onnx.load_model_from_string(data).graph
    assert "Cast" not in [node.op_type for node in graph.node]
    assert len(graph.node) == len(before.node) - 3 * len(expected)
    placed = {one.name: one for one in graph.initializer}
    assert len(placed) == len(before.initializer) - len(expected)
    for name, array in expected.items():
        assert placed[name].data_location == TensorProto.EXTERNAL
        assert tuple(placed[name].dims) == array.shape
        assert placed[name].data_type == TensorProto.FLOAT


def large() -> onnx.ModelProto:
    """A product, a convolution and another product, of more than a megabyte in 8 bits."""
    net = Sketch()
    net.node("MatMul", ["x", net.weight("first_w", 1024, 1024)], "first")
    net.node("Relu", ["first"], "relu")
    net.node("Reshape", ["relu", net.constant("shape", np.asarray([1, 16, 8, 8]))], "image")
    net.conv("image", "conv", 16, 16)
    net.head("conv", 16)
    return net.model([1, 1024], [1, 5])


@pytest.mark.parametrize("name", installed_engines())
def test_answers_are_those_of_the_file(name: str, tmp_path: Path) -> None:
    data = stored(large(), tmp_path)
    assert len(data) > 1 << 20
    assert len(expand(data)[1]) == 3
    path = tmp_path / "stored.onnx"
    path.write_bytes(data)
    run = engine(name)
    with (
        run.open_model(path, settings={}, threads=1) as before,
        run.open_model(data, settings={}, threads=1) as after,
    ):
        assert after.signature == before.signature
        if name == "onnxruntime":  # which is silently given the file as it is where it must be
            assert type(after._engine).__name__ == "_Holding"
        for feed in feeds(before.signature, 3):
            expected, answers = before.run(feed), after.run(feed)
            for output, array in expected.items():
                np.testing.assert_allclose(answers[output], array, rtol=1e-5, atol=1e-6)


def test_what_holds_no_such_weights_is_given_back(tmp_path: Path) -> None:
    for net in (*(make() for make in NETS.values()), if_net()):
        data = to_ship(saved(net, tmp_path))[0]
        assert expand(data) == (data, {})
    data = stored(if_net(), tmp_path)
    assert expand(data) == (data, {})


def chain(
    wide: int = TensorProto.INT32,
    codes: str = "int8",
    *,
    shown: bool = False,
    shared: bool = False,
    asked: bool = False,
    shape: tuple[int, ...] = (1, 4),
) -> bytes:
    """A product with a weight that is expanded in the way of `weight_only`, or almost."""
    net = Sketch()
    net.nodes.append(helper.make_node("Cast", ["codes"], ["wide"], to=wide))
    net.nodes.append(helper.make_node("Cast", ["wide"], ["real"], to=TensorProto.FLOAT))
    net.nodes.append(helper.make_node("Mul", ["real", "scale"], ["weight"]))
    net.node("MatMul", ["x", "weight"], "product")
    net.node("Add", ["product", "real"] if shared else ["product", "product"], "logits")
    model = net.model([4, 4], [4, 4])
    for name, array in (("codes", np.arange(16).reshape(4, 4).astype(codes)),
                        ("scale", np.full(shape, 0.5, np.float32))):  # fmt: skip
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    if shown:
        model.graph.output.append(helper.make_tensor_value_info("real", TensorProto.FLOAT, [4, 4]))
    if asked:
        model.graph.input.append(helper.make_tensor_value_info("codes", TensorProto.INT8, [4, 4]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (chain(), True),
        (chain(shape=(4, 1)), True),
        (chain(shape=()), True),
        (chain(wide=TensorProto.FLOAT16), False),
        (chain(codes="uint8"), False),
        (chain(shown=True), False),
        (chain(shared=True), False),
        (chain(asked=True), False),
        (chain(shape=(1, 1, 4)), False),
    ],
    ids=[
        "rows",
        "columns",
        "one scale",
        "float16",
        "uint8",
        "an output",
        "shared",
        "an input",
        "widened",
    ],
)
def test_only_what_is_expanded_so_and_read_by_nobody_else_is_taken(
    data: bytes, taken: bool
) -> None:
    lean, weights = expand(data)
    assert list(weights) == (["weight"] if taken else [])
    assert (lean == data) is not taken


WHOLE = chain()


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_left_for_the_engine_to_refuse(at: int, byte: int, cut: bool) -> None:
    damaged = WHOLE[:at] if cut else WHOLE[:at] + bytes([byte]) + WHOLE[at + 1 :]
    lean, weights = expand(damaged)
    assert weights or lean == damaged
    assert sum(array.size for array in weights.values()) in (0, 16)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_model_come_back(data: bytes) -> None:
    assert expand(data) == (data, {})


@pytest.mark.parametrize("name", installed_engines())
def test_a_damaged_payload_is_refused_in_words(name: str) -> None:
    with pytest.raises(EngineFailed, match="refuses the model"):
        engine(name).open_model(WHOLE.replace(b"MatMul", b"MatMuk"), settings={}, threads=1)

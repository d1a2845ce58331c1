"""Arithmetic regrouped: what is folded into convolutions, and which forms of GELU are found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import read, rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan import Decision, Plan
from edgedl.passes.quantize import Quantize
from edgedl.passes.regroup import find_gelus
from edgedl.runtime import engine, installed_engines
from tests.models import answers, feeds, samples, saved

RNG = np.random.default_rng(0)
Nodes = Sequence[tuple[str, list[str], str]]


def net(
    nodes: Nodes, constants: dict[str, np.ndarray], shape: list[int], out: str = "y"
) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node(kind, given, [made], name=f"n_{made}") for kind, given, made in nodes],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def folded(model: onnx.ModelProto, folder: Path) -> tuple[Model, Model]:
    before = saved(model, folder)
    return before, rewrite(before, Clean(), Fold())


def kinds(model: Model) -> Counter[str]:
    return Counter(node.op_type for node in read(model.path).graph)


def same(before: Model, after: Model) -> None:
    rows = feeds(before.signature)
    pairs = zip(answers(before.path, rows), answers(after.path, rows), strict=True)
    for wanted, given in pairs:
        for name, array in wanted.items():
            assert np.allclose(given[name], array, atol=1e-4)


WEIGHT = RNG.standard_normal((6, 4, 3, 3)).astype(np.float32)
BY_CHANNEL = RNG.uniform(0.5, 2, (1, 6, 1, 1)).astype(np.float32)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "constant", [BY_CHANNEL, BY_CHANNEL[0], np.float32(1.5), np.full((1, 1, 1, 1), 1.5, np.float32)]
)
def test_a_constant_a_channel_goes_into_the_convolution(
    operator: str, bias: bool, constant: np.ndarray, tmp_path: Path
) -> None:
    given = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [("Conv", given, "h"), (operator, ["h", "c"], "g"), ("Relu", ["g"], "y")]
    constants = {"w": WEIGHT, "c": np.asarray(constant)}
    if bias:
        constants["b"] = RNG.standard_normal(6).astype(np.float32)
    before, after = folded(net(nodes, constants, [1, 4, 8, 8]), tmp_path)
    assert kinds(after) == {"Conv": 1, "Relu": 1}
    same(before, after)


def test_a_chain_goes_in_whole_and_from_either_side(tmp_path: Path) -> None:
    nodes = [
        ("Conv", ["x", "w"], "h"),
        ("Mul", ["c", "h"], "g"),
        ("Add", ["g", "d"], "f"),
        ("Relu", ["f"], "y"),
    ]
    constants = {"w": WEIGHT, "c": BY_CHANNEL, "d": -BY_CHANNEL}
    before, after = folded(net(nodes, constants, [1, 4, 8, 8]), tmp_path)
    assert kinds(after) == {"Conv": 1, "Relu": 1}
    same(before, after)


def test_a_transposed_convolution_takes_it_along_its_own_axis(tmp_path: Path) -> None:
    weight = RNG.standard_normal((4, 6, 2, 2)).astype(np.float32)
    nodes = [("ConvTranspose", ["x", "w"], "h"), ("Mul", ["h", "c"], "g"), ("Relu", ["g"], "y")]
    before, after = folded(net(nodes, {"w": weight, "c": BY_CHANNEL}, [1, 4, 8, 8]), tmp_path)
    assert kinds(after) == {"ConvTranspose": 1, "Relu": 1}
    same(before, after)


@pytest.mark.parametrize(
    "nodes",
    [
        [("Conv", ["x", "w"], "h"), ("Sub", ["c", "h"], "g"), ("Relu", ["g"], "y")],
        [("Conv", ["x", "w"], "h"), ("Div", ["c", "h"], "g"), ("Relu", ["g"], "y")],
        [("Conv", ["x", "w"], "h"), ("Add", ["h", "wide"], "g"), ("Relu", ["g"], "y")],
        [("Conv", ["x", "w"], "h"), ("Add", ["h", "c"], "g"), ("Mul", ["g", "h"], "y")],
    ],
    ids=["constant minus it", "constant over it", "a constant a column", "read by others"],
)
def test_what_is_not_a_constant_a_channel_stays(nodes: Nodes, tmp_path: Path) -> None:
    wide = RNG.standard_normal((6,)).astype(np.float32)
    constants = {"w": WEIGHT, "c": BY_CHANNEL, "wide": wide}
    used = {name for _, given, _ in nodes for name in given}
    held = {name: array for name, array in constants.items() if name in used}
    before, after = folded(net(nodes, held, [1, 4, 8, 8]), tmp_path)
    assert len(read(after.path).graph) == 3
    same(before, after)


HALF, ONE, ROOT = np.float32(0.5), np.float32(1), np.float32(2**0.5)
FORMS: dict[str, Nodes] = {
    "half last": [("Mul", ["x", "s"], "p"), ("Mul", ["p", "half"], "g")],
    "half first": [("Mul", ["half", "s"], "p"), ("Mul", ["x", "p"], "g")],
    "half of x": [("Mul", ["x", "half"], "p"), ("Mul", ["p", "s"], "g")],
}


def gelu(form: str, inverse: bool) -> tuple[Nodes, dict[str, np.ndarray]]:
    scaling = ("Mul", ["x", "root"], "a") if inverse else ("Div", ["x", "root"], "a")
    head = [scaling, ("Erf", ["a"], "e"), ("Add", ["e", "one"], "s")]
    root = 1 / ROOT if inverse else ROOT
    constants = {name: np.asarray(a) for name, a in (("half", HALF), ("one", ONE), ("root", root))}
    return [*head, *FORMS[form]], constants


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("inverse", [False, True])
def test_every_form_of_gelu_becomes_one_that_onnxruntime_fuses(
    form: str, inverse: bool, tmp_path: Path
) -> None:
    nodes, constants = gelu(form, inverse)
    model = net([*nodes, ("Relu", ["g"], "y")], constants, [1, 6])
    before, after = folded(model, tmp_path)
    same(before, after)
    if "onnxruntime" in installed_engines():
        feed = feeds(before.signature)[0]
        run = engine("onnxruntime").operators(after.path, feed, settings={})
        assert [operator.kind for operator in run] == ["Gelu", "Relu"]


def test_a_gelu_that_makes_the_output_keeps_its_name(tmp_path: Path) -> None:
    nodes, constants = gelu("half first", True)
    before, after = folded(net(nodes, constants, [1, 6], out="g"), tmp_path)
    assert after.signature.outputs[0].name == "g"
    same(before, after)


@pytest.mark.parametrize(
    ("change", "count"),
    [({}, 1), ({"half": np.float32(0.4)}, 0), ({"one": np.float32(2)}, 0), ({"root": ONE}, 0)],
)
def test_other_constants_are_no_gelu(
    change: dict[str, np.ndarray], count: int, tmp_path: Path
) -> None:
    nodes, constants = gelu("half last", False)
    held = {**constants, **{name: np.asarray(array) for name, array in change.items()}}
    model = saved(net([*nodes, ("Relu", ["g"], "y")], held, [1, 6]), tmp_path)
    assert len(find_gelus(read(model.path).graph)) == count


def test_a_sum_that_others_read_is_left_alone(tmp_path: Path) -> None:
    nodes, constants = gelu("half last", False)
    more = [*nodes, ("Add", ["g", "s"], "y")]
    model = saved(net(more, constants, [1, 6]), tmp_path)
    assert find_gelus(read(model.path).graph) == []


def conv_gelu_conv() -> onnx.ModelProto:
    nodes, constants = gelu("half last", False)
    inner = [(k, ["h" if v == "x" else v for v in given], made) for k, given, made in nodes]
    whole = [("Conv", ["x", "w"], "h"), *inner, ("Conv", ["g", "v"], "y")]
    more = {"w": WEIGHT, "v": RNG.standard_normal((4, 6, 3, 3)).astype(np.float32)}
    return net(whole, {**constants, **more}, [1, 4, 12, 12])


def test_between_quantizers_gelu_is_onnxruntimes_own_operator(tmp_path: Path) -> None:
    model = saved(conv_gelu_conv(), tmp_path)
    for scheme, own in (("onnxruntime", 1), ("openvino", 0)):
        made = Quantize(samples(model.signature), scheme=scheme)(model)
        assert kinds(made)["Gelu"] == own
        assert kinds(made)["Erf"] == 1 - own
        if scheme in installed_engines():
            feed = feeds(model.signature)[0]
            with engine(scheme).open_model(made.path, settings={}) as session:
                given = session.run(feed)["y"]
            wanted = answers(model.path, [feed])[0]["y"]
            assert np.corrcoef(given.ravel(), wanted.ravel())[0, 1] > 0.99


def test_a_bias_behind_a_matrix_product_gets_leading_dimensions(tmp_path: Path) -> None:
    """So that onnxruntime keeps its integer kernel instead of a Gemm with expanded weights."""
    weight = RNG.standard_normal((16, 24)).astype(np.float32)
    bias = RNG.standard_normal(24).astype(np.float32)
    nodes = [("MatMul", ["x", "w"], "h"), ("Add", ["h", "b"], "y")]
    model = saved(net(nodes, {"w": weight, "b": bias}, [1, 5, 16]), tmp_path)
    made = Quantize(samples(model.signature), scheme="onnxruntime")(model)
    shapes = [tuple(t.dims) for t in onnx.load(made.path).graph.initializer]
    assert (1, 1, 24) in shapes
    if "onnxruntime" in installed_engines():
        run = engine("onnxruntime").operators(made.path, feeds(model.signature)[0], settings={})
        assert {o.precision for o in run if "MatMul" in o.kind or "Gemm" in o.kind} == {"int8"}


def test_an_empty_plan_places_nothing(tmp_path: Path) -> None:
    model = saved(conv_gelu_conv(), tmp_path)
    plan = Plan("openvino", (Decision("n_h", "Conv", "float", "asked"),), {}, {}, {})
    assert kinds(rewrite(model, Place(plan))) == kinds(model)

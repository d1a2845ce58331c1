"""Models in other float types: they compute in float32, and what they take and give stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.model import Model
from edgedl.core.stats import cosine
from edgedl.passes.clean import Clean
from edgedl.passes.fold import Fold
from edgedl.passes.graph import rewrite
from edgedl.passes.quantize import Quantize
from edgedl.passes.shapes import Shapes
from edgedl.passes.widen import Widen, computed_in
from edgedl.search.ready import widened
from tests.models import answers, feeds, residual_net, samples, saved

NUMPY = {TensorProto.FLOAT16: np.float16, TensorProto.DOUBLE: np.float64}


def narrow(dtype: int, *, cast: bool = False, folder: Path) -> Model:
    """A product, an addition of what overflows float32 where it can, and a scaled output."""
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((16, 8)),
        "least": np.full(8, np.finfo(NUMPY[dtype]).min),
        "half": np.asarray(0.5),
    }
    nodes = [
        helper.make_node("MatMul", ["x" if not cast else "x_cast", "w"], ["product"], "product"),
        helper.make_node("Max", ["product", "least"], ["bounded"], "bound"),
        helper.make_node("Mul", ["bounded", "half"], ["y"], "scale"),
    ]
    if cast:
        nodes.insert(0, helper.make_node("Cast", ["x"], ["x_cast"], "cast", to=dtype))
    given = TensorProto.FLOAT if cast else dtype
    graph = helper.make_graph(
        nodes,
        "narrow",
        [helper.make_tensor_value_info("x", given, ["n", 16])],
        [helper.make_tensor_value_info("y", dtype, ["n", 8])],
        [numpy_helper.from_array(v.astype(NUMPY[dtype]), k) for k, v in constants.items()],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return rewrite(saved(net, folder), Clean(), Shapes({}), Fold(), Shapes({}))


@pytest.mark.parametrize("dtype", NUMPY)
@pytest.mark.parametrize("cast", [False, True])
def test_products_go_to_int8_and_the_ends_keep_their_types(
    dtype: int, cast: bool, tmp_path: Path
) -> None:
    model = narrow(dtype, cast=cast, folder=tmp_path)
    assert computed_in(model) == {np.dtype(NUMPY[dtype]).name}
    wide, [doubt] = widened(model)
    assert np.dtype(NUMPY[dtype]).name in doubt
    assert wide.signature == model.signature
    net = onnx.load(wide.path)
    assert {one.data_type for one in net.graph.initializer} == {TensorProto.FLOAT}
    assert [n.op_type for n in net.graph.node].count("Cast") == 2 - cast
    plan = Quantize(samples(wide.signature)).plan(wide)
    assert [d.precision for d in plan.decisions if d.node == "product"] == ["int8"]
    rows = feeds(model.signature, 3, seed=1)
    for wanted, given in zip(answers(model.path, rows), answers(wide.path, rows), strict=True):
        assert given["y"].dtype == NUMPY[dtype]
        assert np.isfinite(given["y"]).all()
        assert cosine(wanted["y"], given["y"]) > 0.9999


def test_a_model_in_float32_is_given_back(tmp_path: Path) -> None:
    model = rewrite(saved(residual_net(), tmp_path), Clean(), Shapes({}))
    assert widened(model) == (model, [])


def test_what_double_alone_holds_stays_finite_and_other_than_zero(tmp_path: Path) -> None:
    net = onnx.load(narrow(TensorProto.DOUBLE, folder=tmp_path).path)
    for one in net.graph.initializer:
        if one.name == "half":
            one.CopyFrom(numpy_helper.from_array(np.asarray(1e-300), "half"))
    wide = onnx.load(Widen()(saved(net, tmp_path)).path)
    kept = {one.name: numpy_helper.to_array(one) for one in wide.graph.initializer}
    assert np.isfinite(kept["least"]).all()
    assert 0 < kept["half"] < 1e-37

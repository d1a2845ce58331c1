"""Fusions of an engine that are left out where that is faster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgedl
from edgedl.backends import backend
from edgedl.runtime import engine, installed_engines
from tests.models import saved


def normed() -> onnx.ModelProto:
    """A residual sum and a layer norm, as transformers have them."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 16)).astype(np.float32)
    ones, zeros = np.ones(16, np.float32), np.zeros(16, np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Add", ["x", "h"], ["s"], name="sum"),
            helper.make_node("LayerNormalization", ["s", "g", "b"], ["y"], name="norm", axis=-1),
        ],
        "normed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 5, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5, 16])],
        [
            numpy_helper.from_array(array, name)
            for name, array in (("w", weight), ("g", ones), ("b", zeros))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="onnxruntime is missing")
def test_onnxruntime_runs_without_the_fusion_and_answers_the_same(tmp_path: Path) -> None:
    model, built = saved(normed(), tmp_path), backend("onnxruntime")
    feed = {"x": np.random.default_rng(1).standard_normal((1, 5, 16)).astype(np.float32)}
    run = engine("onnxruntime")
    kinds = {o.kind for o in run.operators(model.path, feed, settings={})}
    assert "SkipLayerNormalization" in kinds
    [settings] = built.variants({}, kinds).values()
    again = {o.kind for o in run.operators(model.path, feed, settings=settings)}
    assert "SkipLayerNormalization" not in again
    assert built.variants(settings, again) == {}
    assert built.variants({}, {"Conv"}) == {}
    with (
        run.open_model(model.path, settings={}) as fused,
        run.open_model(model.path, settings=settings) as apart,
    ):
        assert np.allclose(fused.run(feed)["y"], apart.run(feed)["y"], atol=1e-5)


@pytest.mark.parametrize("name", installed_engines())
def test_a_payload_keeps_the_settings_that_it_was_timed_with(name: str, tmp_path: Path) -> None:
    data = saved(normed(), tmp_path).path.read_bytes()
    settings = {**backend(name).settings("float32"), "unfused": ["SkipLayerNormFusion"]}
    assert backend(name).compile(data, "float32", settings).settings == settings


def test_compress_tries_both(tmp_path: Path) -> None:
    model = saved(normed(), tmp_path)
    arrays = {"x": np.random.default_rng(2).standard_normal((24, 5, 16)).astype(np.float32)}
    found = edgedl.compress(model.path, arrays, tmp_path / "out.edl", seconds=0.5)
    tried = [choice.name for choice in found.choices]
    with_it = [name for name in tried if name.endswith("norms unfused")]
    assert bool(with_it) == ("onnxruntime" in installed_engines())
    assert not any("as given" in name for name in with_it)
    assert edgedl.check(tmp_path / "out.edl").ok

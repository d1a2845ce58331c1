"""Engines that are asked first whether they compute a model in float as the others do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.backends import backend
from edgedl.core.errors import WrongAnswers
from edgedl.core.samples import from_arrays
from edgedl.core.stats import cosine
from edgedl.passes.graph import open_model
from edgedl.runtime import installed_engines
from edgedl.search.ready import SAME_ANSWERS, of_one_mind, proven_clean
from tests.models import Sketch, answers, residual_net, samples, saved

both = pytest.mark.skipif(
    not {"onnxruntime", "openvino"} <= set(installed_engines()), reason="it takes both engines"
)


def sequences(folder: Path) -> Path:
    """A layer that is told how long its sequences are; OpenVINO 2026.4 reads all of them to the
    end."""
    net = Sketch()
    weights = (net.weight("W", 1, 12, 4), net.weight("R", 1, 12, 4))
    net.node("GRU", ["x", *weights, "", "lengths"], "y", hidden_size=4, direction="reverse")
    graph = helper.make_graph(
        net.nodes,
        "sequences",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 1, 4]),
            helper.make_tensor_value_info("lengths", TensorProto.INT32, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        net.weights,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, folder / "sequences.onnx")
    return folder / "sequences.onnx"


@both
def test_an_engine_that_answers_otherwise_in_float_is_left_out(tmp_path: Path) -> None:
    model = open_model(sequences(tmp_path))
    x = np.random.default_rng(0).standard_normal((3, 6, 1, 4)).astype(np.float32)
    given = from_arrays({"x": x, "lengths": np.asarray([[2], [3], [4]], np.int32)})
    bound = given.bind(model.signature)
    rows = [bound.feed(i) for i in range(3)]
    wanted, found = (answers(model.path, rows, name) for name in ("onnxruntime", "openvino"))
    alike = [cosine(one["y"], other["y"]) for one, other in zip(wanted, found, strict=True)]
    wrong = float(np.mean(alike)) < SAME_ANSWERS

    engines = [backend("openvino"), backend("onnxruntime")]
    kept, doubts = of_one_mind(engines, model, model, bound, force=False)
    assert kept == (engines[1:] if wrong else engines)
    assert [("left out" in one) for one in doubts] == [True] * wrong
    kept, doubts = of_one_mind(engines[:1], model, model, bound, force=True)
    assert kept == engines[:1]
    assert [("check its answers" in one) for one in doubts] == [True] * wrong
    if wrong:
        with pytest.raises(WrongAnswers, match="wrongly before anything is quantized") as told:
            of_one_mind(engines[:1], model, model, bound, force=False)
        assert "--target onnxruntime" in str(told.value.hint)


@both
def test_engines_that_answer_alike_stay(tmp_path: Path) -> None:
    model = saved(residual_net(), tmp_path)
    engines, bound = [backend("openvino"), backend("onnxruntime")], samples(model.signature, 4)
    assert of_one_mind(engines, model, model, bound, force=False) == (engines, [])


def test_what_cleaning_made_refusable_is_undone(tmp_path: Path) -> None:
    """As where a branch that is never taken does not bear the shapes that were fixed."""
    given = saved(residual_net(), tmp_path)
    folder = tmp_path / "clean"
    folder.mkdir()
    broken = residual_net()
    broken.graph.node[0].attribute.append(helper.make_attribute("no_such_attribute", 1))
    onnx.save(broken, folder / "model.onnx")
    few = samples(given.signature, 2)
    kept, said = proven_clean(given, open_model(folder / "model.onnx"), few)
    assert kept is given
    assert "cleaning was undone" in said[0]
    assert proven_clean(given, given, few) == (given, [])

"""Sessions of every installed engine: whose memory is whose, and which shapes fit."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedl.core.errors import BadModel, BadOption, EngineFailed, WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import any_engine, engine, installed_engines
from edgedl.runtime.artifact import engine_of_target, find_artifact
from edgedl.runtime.session import InputCheck, Session
from tests import models


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(net: onnx.ModelProto, name: str) -> Session:
    return engine(name).open_model(net.SerializeToString(), settings={}, threads=1)


@pytest.fixture
def dynamic(name: str) -> Iterator[Session]:
    with opened(models.dynamic_net(), name) as session:
        yield session


def image(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_the_signature_is_the_models(name: str, tmp_path: Path) -> None:
    for make in models.NETS.values():
        model = models.saved(make(), tmp_path)
        with opened(onnx.load(model.path), name) as session:
            found = session.signature
        for mine, theirs in ((found.inputs, model.signature.inputs),
                             (found.outputs, model.signature.outputs)):  # fmt: skip
            assert [(t.name, t.dtype) for t in mine] == [(t.name, t.dtype) for t in theirs]
            for one, other in zip(mine, theirs, strict=True):
                assert one.shape is not None
                assert other.shape is not None
                fixed = [d if isinstance(d, int) else None for d in other.shape]
                assert [d if isinstance(d, int) else None for d in one.shape] == fixed


def test_shapes_may_change_from_run_to_run(dynamic: Session) -> None:
    many = image(3, 3, 8, 8)
    together = dynamic.run({"x": many})["logits"]
    for i in range(3):
        alone = dynamic.run({"x": many[i : i + 1]})["logits"]
        np.testing.assert_allclose(alone, together[i : i + 1], atol=1e-5)
    assert dynamic.run({"x": image(2, 3, 16, 8)})["logits"].shape == (2, 5)


@pytest.mark.parametrize("shape", [(1, 4, 8, 8), (3, 8, 8), (1, 3, 8, 8, 1), ()])
def test_fixed_axes_stay_fixed(dynamic: Session, shape: tuple[int, ...]) -> None:
    with pytest.raises(WrongInput, match="has shape") as caught:
        dynamic.run({"x": np.zeros(shape, np.float32)})
    assert "(?, 3, ?, ?)" in str(caught.value)
    assert caught.value.hint


def test_outputs_are_the_callers(dynamic: Session) -> None:
    first = dynamic.run({"x": image(1, 3, 8, 8)})["logits"]
    kept = first.copy()
    second = dynamic.run({"x": -image(1, 3, 8, 8)})["logits"]
    np.testing.assert_array_equal(first, kept)
    assert not np.shares_memory(first, second)
    first[:] = 7
    np.testing.assert_array_equal(dynamic.run({"x": image(1, 3, 8, 8)})["logits"], kept)


def test_outputs_outlive_the_session(name: str) -> None:
    with opened(models.conv_net(), name) as session:
        answer = session.run({"x": image(1, 3, 8, 8)})["logits"]
        kept = answer.copy()
    del session
    np.testing.assert_array_equal(answer, kept)


def test_inputs_are_only_read(dynamic: Session) -> None:
    given = image(1, 3, 8, 8)
    kept = given.copy()
    expected = dynamic.run({"x": given})["logits"]
    np.testing.assert_array_equal(given, kept)
    whole = np.zeros((2, 3, 8, 16), np.float32)
    whole[1:, :, :, ::2] = given
    np.testing.assert_array_equal(dynamic.run({"x": whole[1:, :, :, ::2]})["logits"], expected)
    given.flags.writeable = False
    np.testing.assert_array_equal(dynamic.run({"x": given})["logits"], expected)


def test_several_threads_may_run_at_once(dynamic: Session) -> None:
    rows = [image(1, 3, 8, 8) * (i + 1) for i in range(40)]
    expected = [dynamic.run({"x": row})["logits"] for row in rows]
    with ThreadPoolExecutor(4) as pool:
        given = list(pool.map(lambda row: dynamic.run({"x": row})["logits"], rows))
    for mine, theirs in zip(given, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)


def typed_net() -> onnx.ModelProto:
    """A scalar, integers and truth values, in and out."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["n", "n"], ["twice"]),
            helper.make_node("Not", ["flag"], ["other"]),
            helper.make_node("Mul", ["x", "x"], ["square"]),
        ],
        "typed",
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, [1, 3]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("twice", TensorProto.INT64, [2]),
            helper.make_tensor_value_info("other", TensorProto.BOOL, [1, 3]),
            helper.make_tensor_value_info("square", TensorProto.FLOAT, []),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_scalars_integers_and_truth_values(name: str) -> None:
    feed = {
        "n": np.array([3, -4]),
        "flag": np.array([[True, False, True]]),
        "x": np.array(1.5, np.float32),
    }
    with opened(typed_net(), name) as session:
        for _ in range(2):
            answer = session.run(feed)
            assert {key: (v.dtype.name, v.shape) for key, v in answer.items()} == {
                "twice": ("int64", (2,)), "other": ("bool", (1, 3)), "square": ("float32", ()),
            }  # fmt: skip
            assert answer["twice"].tolist() == [6, -8]
            assert answer["other"].tolist() == [[False, True, False]]
            assert answer["square"] == 2.25


def test_every_input_is_wanted(name: str) -> None:
    feed = {"n": np.array([3, -4]), "flag": np.zeros((1, 3), bool)}
    with opened(typed_net(), name) as session:
        with pytest.raises(WrongInput, match="`x`"):
            session.run(feed)
        for number in (1.5, np.float32(1.5)):
            with pytest.raises(WrongInput, match="not an array"):
                session.run({**feed, "x": number})  # type: ignore[dict-item]
        with pytest.raises(WrongInput, match="`nn` is not an input") as caught:
            session.run({**feed, "nn": feed["n"]})
    assert "did you mean `n`?" in (caught.value.hint or "")


def test_closing_twice_is_closing_once(name: str) -> None:
    session = opened(models.conv_net(), name)
    session.close()
    session.close()
    with pytest.raises(WrongInput, match="closed"):
        session.run({"x": image(1, 3, 8, 8)})


def test_a_closed_sessions_error_does_not_grow(name: str) -> None:
    session = opened(models.conv_net(), name)
    session.close()
    depths = []
    for _ in range(5):
        with pytest.raises((WrongInput, EngineFailed)) as caught:
            session.run({"x": image(1, 3, 8, 8)})
        depths.append(len(caught.traceback))
    assert len(set(depths)) == 1


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="onnxruntime is not installed")
def test_a_failure_within_the_engine_is_its_own() -> None:
    """On onnxruntime alone: OpenVINO does not look whether sizes known only at run time fit."""
    net = models.Sketch()
    net.node("Add", ["x", net.constant("seven", np.ones(7, np.float32))], "y")
    with opened(net.model(["n"], ["m"], output="y"), "onnxruntime") as session:
        with pytest.raises(EngineFailed, match="onnxruntime failed"):
            session.run({"x": image(3)})
        assert session.run({"x": image(1)})["y"].shape == (7,)


def test_input_check_of_unknown_rank() -> None:
    check = InputCheck(Signature((Tensor("x", "float32", None),), ()))
    check({"x": image(1, 2, 3)})
    with pytest.raises(WrongInput, match="float64"):
        check({"x": np.zeros(3)})


def test_engines_by_name() -> None:
    assert any_engine().name in installed_engines()
    with pytest.raises(BadOption, match="unknown engine `openvin`"):
        engine("openvin")
    assert engine_of_target(None) is None
    assert engine_of_target("cpu") is None
    assert engine_of_target(installed_engines()[0]) == installed_engines()[0]
    with pytest.raises(BadOption, match="unknown target"):
        engine_of_target("tpu")


def test_artifacts_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="no such file"):
        find_artifact(tmp_path / "none.onnx")
    with pytest.raises(BadModel, match="no models in this folder"):
        find_artifact(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(BadModel, match="neither a bundle nor an ONNX file"):
        find_artifact(tmp_path / "a.txt")


def test_an_onnx_file_is_an_artifact(tmp_path: Path, name: str) -> None:
    model = models.saved(models.conv_net(), tmp_path)
    for path in (model.path, tmp_path):
        found = find_artifact(path, name)
        assert (found.path, found.engine, found.precision) == (model.path, name, "float32")
        with found.open(1) as session:
            assert session.run({"x": image(1, 3, 8, 8)})["logits"].shape == (1, 5)


@pytest.mark.parametrize("name", installed_engines())
def test_outputs_keep_their_names_where_the_last_operator_does_nothing(name: str) -> None:
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    shape = numpy_helper.from_array(np.array([-1, 4]), "shape")
    value = helper.make_tensor_value_info
    net = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("MatMul", ["x", "weight"], ["inside"]),
                helper.make_node("Reshape", ["inside", "shape"], ["y"]),
            ],
            "g", [value("x", 1, [1, 4])], [value("y", 1, [1, 4])], [weight, shape],
        ),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=9,
    )  # fmt: skip
    with engine(name).open_model(net.SerializeToString(), settings={}, threads=1) as session:
        assert [tensor.name for tensor in session.signature.outputs] == ["y"]
        assert list(session.run({"x": np.ones((1, 4), np.float32)})) == ["y"]

"""Answers written into the caller's arrays, by sessions of every installed engine."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import pytest

from edgedl.core.errors import WrongInput
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import EngineSession
from tests import models
from tests.runtime.test_session import typed_net


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(net: onnx.ModelProto, name: str) -> EngineSession:
    return engine(name).open_model(net.SerializeToString(), settings={}, threads=1)


def image(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def logits(rows: int = 1) -> dict[str, np.ndarray]:
    return {"logits": np.full((rows, 5), np.nan, np.float32)}


def test_the_answers_are_those_of_run_bit_for_bit(name: str) -> None:
    with opened(models.conv_net(), name) as session:
        rows = [image(1, 3, 8, 8, seed=i) for i in range(6)]
        wanted = [session.run({"x": row})["logits"] for row in rows]
        outputs = [logits() for _ in range(3)]
        for i, row in enumerate(rows):
            session.run_into({"x": row}, outputs[i % 3])
            np.testing.assert_array_equal(outputs[i % 3]["logits"], wanted[i])
            again = session.run({"x": rows[0]})["logits"]
            np.testing.assert_array_equal(again, wanted[0])
            np.testing.assert_array_equal(outputs[i % 3]["logits"], wanted[i])


def test_scalars_integers_and_truth_values(name: str) -> None:
    feed = {"n": np.array([3, -4]), "flag": np.array([[True, False, True]]),
            "x": np.array(1.5, np.float32)}  # fmt: skip
    outputs = {"twice": np.zeros(2, np.int64), "other": np.ones((1, 3), bool),
               "square": np.zeros((), np.float32)}  # fmt: skip
    with opened(typed_net(), name) as session:
        for factor in (1, 2):
            feed["n"] *= factor
            feed["x"][...] *= factor
            session.run_into(feed, outputs)
            assert outputs["twice"].tolist() == [6 * factor, -8 * factor]
            assert outputs["other"].tolist() == [[False, True, False]]
            assert outputs["square"] == 2.25 * factor**2


def test_shapes_that_are_known_only_when_it_runs(name: str) -> None:
    with opened(models.dynamic_net(), name) as session:
        for rows in (1, 3, 2):
            given, output = image(rows, 3, 8, 8), logits(rows)
            for _ in range(2):
                session.run_into({"x": given}, output)
                np.testing.assert_array_equal(output["logits"], session.run({"x": given})["logits"])
        for rows in (1, 3):
            with pytest.raises(WrongInput, match="came out") as caught:
                session.run_into({"x": image(2, 3, 8, 8)}, logits(rows))
            assert caught.value.hint
        session.run_into({"x": given}, output)
        np.testing.assert_array_equal(output["logits"], session.run({"x": given})["logits"])


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "another type": (lambda: np.zeros((1, 5)), "is float64"),
    "another order of bytes": (lambda: np.zeros((1, 5), ">f4"), "other byte order"),
    "another shape": (lambda: np.zeros((1, 6), np.float32), r"\(1, 6\)"),
    "fewer axes": (lambda: np.zeros(5, np.float32), r"\(5,\)"),
    "gaps": (lambda: np.zeros((1, 10), np.float32)[:, ::2], "one piece"),
    "read-only": (lambda: _read_only(np.zeros((1, 5), np.float32)), "read-only"),
    "read-only gaps": (lambda: _read_only(np.zeros((1, 10), np.float32)[:, ::2]), "read-only"),
    "unaligned": (lambda: np.zeros(21, np.uint8)[1:].view(np.float32).reshape(1, 5), "one piece"),
    "masked": (lambda: np.ma.zeros((1, 5), np.float32), "masked"),
    "a list": (lambda: [[0.0] * 5], "is list"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_arrays_that_cannot_be_written_into(name: str, kind: str) -> None:
    make, message = WRONG[kind]
    given = image(1, 3, 8, 8)
    with opened(models.conv_net(), name) as session:
        with pytest.raises(WrongInput, match=message) as caught:
            session.run_into({"x": given}, {"logits": make()})
        assert "output `logits`" in str(caught.value)
        assert caught.value.hint
        good = logits()
        session.run_into({"x": given}, good)
        good["logits"].flags.writeable = False
        with pytest.raises(WrongInput, match="read-only"):
            session.run_into({"x": given}, good)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "no array for output `logits`"),
        ({"logit": np.zeros((1, 5), np.float32)}, "`logit` is not an output"),
        ([np.zeros((1, 5), np.float32)], "by name, not as list"),
    ],
)
def test_every_output_by_its_name(name: str, outputs: Any, message: str) -> None:
    with opened(models.conv_net(), name) as session, pytest.raises(WrongInput, match=message):
        session.run_into({"x": image(1, 3, 8, 8)}, outputs)


@pytest.mark.parametrize("net", [models.conv_net, models.dynamic_net])
def test_outputs_share_no_memory_with_inputs(name: str, net: Callable[[], onnx.ModelProto]) -> None:
    room = np.zeros(192, np.float32)
    given, inside = room.reshape(1, 3, 8, 8), room[:5].reshape(1, 5)
    with opened(net(), name) as session:
        for _ in range(2):
            with pytest.raises(WrongInput, match="shares memory with input `x`"):
                session.run_into({"x": given}, {"logits": inside})
        assert not room.any()


def test_no_two_outputs_share_memory(name: str) -> None:
    net = models.Sketch()
    net.node("Relu", ["x"], "a")
    net.node("Neg", ["x"], "b")
    made = net.model([1, 4], [1, 4], output="a")
    made.graph.output.append(onnx.helper.make_tensor_value_info("b", 1, [1, 4]))
    one = np.zeros((1, 4), np.float32)
    with opened(made, name) as session:
        with pytest.raises(WrongInput, match="output `b` shares memory with output `a`"):
            session.run_into({"x": image(1, 4)}, {"a": one, "b": one})
        other = np.zeros((1, 4), np.float32)
        session.run_into({"x": image(1, 4)}, {"a": one, "b": other})
        np.testing.assert_array_equal(other, -image(1, 4))


def test_threads_with_arrays_of_their_own(name: str) -> None:
    with opened(models.conv_net(), name) as session:
        rows = [image(1, 3, 8, 8, seed=i) for i in range(8)]
        wanted = [session.run({"x": row})["logits"] for row in rows]

        def many(i: int) -> int:
            output, right = logits(), 0
            for _ in range(40):
                output["logits"][:] = np.nan
                session.run_into({"x": rows[i]}, output)
                right += np.array_equal(output["logits"], wanted[i])
            return right

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(many, range(8))) == [40] * 8


def test_a_closed_session_holds_no_array(name: str) -> None:
    given, output = image(1, 3, 8, 8), logits()
    kept = [weakref.ref(given), weakref.ref(output["logits"])]
    session = opened(models.conv_net(), name)
    session.run({"x": given})
    session.run_into({"x": given}, output)
    session.close()
    with pytest.raises(WrongInput, match="closed"):
        session.run_into({"x": given}, output)
    del given, output
    gc.collect()
    assert [one() for one in kept] == [None, None]

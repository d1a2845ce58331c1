"""Streams: states by name, series apart from one another, and names that do not fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgedl.core.errors import BadOption, EdgeError, EngineFailed, Late, WrongInput
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import EngineSession
from edgedl.runtime.stream import Stream

Shape = list[int | str]


def summing_net(
    state: str = "state", after: str = "new_state", shape: Shape | None = None
) -> onnx.ModelProto:
    """`new_state = state + x` and `output = 2 new_state`; `count` counts calls beside it."""
    value, floats, whole = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
    shape = shape or [1, 2]
    one = helper.make_tensor("one", whole, [1], [1])
    nodes = [
        helper.make_node("Add", [state, "x"], [after]),
        helper.make_node("Add", [after, after], ["output"]),
        helper.make_node("Add", ["count", "one"], ["new_count"]),
    ]
    graph = helper.make_graph(
        nodes, "sums",
        [value("x", floats, shape), value(state, floats, shape), value("count", whole, [1])],
        [value("output", floats, shape), value(after, floats, shape),
         value("new_count", whole, [1])],
        [one],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Open = Callable[..., EngineSession]


@pytest.fixture
def opened(name: str) -> Iterator[Open]:
    held: list[EngineSession] = []

    def open_(*words: Any, **more: Any) -> EngineSession:
        data = summing_net(*words, **more).SerializeToString()
        held.append(engine(name).open_model(data, settings={}, threads=1))
        return held[-1]

    yield open_
    for session in held:
        session.close()


def step(a: float, b: float) -> dict[str, np.ndarray]:
    return {"x": np.array([[a, b]], np.float32)}


def test_states_go_from_call_to_call(opened: Open) -> None:
    stream = Stream(opened())
    assert stream.states == {"new_state": "state", "new_count": "count"}
    assert [t.name for t in stream.signature.inputs] == ["x"]
    assert [t.name for t in stream.signature.outputs] == ["output"]
    for i, wanted in enumerate(([2, 4], [4, 8], [6, 12])):
        found = stream.run(step(1, 2))
        assert list(found) == ["output"]
        assert found["output"].tolist() == [wanted]
        assert stream.snapshot()["count"].tolist() == [i + 1]
    stream.reset()
    assert stream.run(step(1, 2))["output"].tolist() == [[2, 4]]


def test_streams_on_one_session_do_not_meet(opened: Open) -> None:
    session = opened()
    one, other = Stream(session), Stream(session)
    for i in range(1, 4):
        assert one.run(step(1, 0))["output"].tolist() == [[2 * i, 0]]
        assert other.run(step(0, 3))["output"].tolist() == [[0, 6 * i]]


def test_a_snapshot_is_a_place_to_go_back_to(opened: Open) -> None:
    session = opened()
    stream = Stream(session)
    stream.run(step(1, 2))
    kept = stream.snapshot()
    ahead = [stream.run(step(3, 3))["output"].tolist() for _ in range(3)]
    for array in stream.snapshot().values():
        array[...] = 77
    other = Stream(session)
    for one in (stream, other):
        one.restore(kept)
        assert [one.run(step(3, 3))["output"].tolist() for _ in range(3)] == ahead
    kept["state"][...] = 99
    stream.restore({"state": np.zeros((1, 2), np.float32), "count": np.array([5])})
    stream.run(step(0, 0))
    assert stream.snapshot()["count"].tolist() == [6]


def test_states_named_by_the_caller(opened: Open) -> None:
    session = opened("h", "h_out")
    with pytest.raises(BadOption, match="cannot be fed back"):
        Stream(session, {"new_count": "h"})
    stream = Stream(session, {"h_out": "h"}, initial={"h": np.array([[10, 20]], np.float32)})
    first = {**step(1, 1), "count": np.array([0])}
    found = stream.run(first)
    assert found["output"].tolist() == [[22, 42]]
    assert found["new_count"].tolist() == [1]
    assert [t.name for t in stream.signature.inputs] == ["x", "count"]
    stream.reset()
    assert stream.run(first)["output"].tolist() == [[22, 42]]


@pytest.mark.parametrize(
    ("states", "message", "hint"),
    [
        ({"h_ou": "h"}, "`h_ou` is not an output", "did you mean `h_out`"),
        ({"h_out": "hh"}, "`hh` is not an input", "did you mean `h`"),
        ({"h_out": "count"}, "cannot be fed back to `count", "'h_out'"),
        ({"h_out": "h", "output": "h"}, "two outputs are fed back to `h`", "one"),
        ({}, "no output is named as a state", "'h_out'"),
    ],
)
def test_names_that_do_not_fit(
    opened: Open, states: dict[str, str], message: str, hint: str
) -> None:
    with pytest.raises(BadOption, match=message) as caught:
        Stream(opened("h", "h_out"), states)
    assert hint in (caught.value.hint or "")


def test_only_what_is_named_so_is_found(opened: Open) -> None:
    session = opened("h", "h_out")
    assert Stream(session).states == {"new_count": "count"}
    made = Stream(session, {"h_out": "h", "new_count": "count"})
    assert made.run(step(1, 1))["output"].tolist() == [[2, 2]]


def test_a_state_is_not_given_and_other_inputs_are(opened: Open) -> None:
    stream = Stream(opened())
    state = {"state": np.zeros((1, 2), np.float32)}
    with pytest.raises(WrongInput, match="`state` is a state, which the stream carries"):
        stream.run({**step(1, 2), **state})
    with pytest.raises(WrongInput, match="no array for input `x`"):
        stream.run({})
    with pytest.raises(WrongInput, match="not as list"):
        stream.run([1])  # type: ignore[arg-type]
    assert stream.run(step(1, 2))["output"].tolist() == [[2, 4]]


def test_a_call_that_fails_leaves_the_states(opened: Open) -> None:
    session = opened(shape=["n", "m"])
    stream = Stream(session, initial={"state": np.zeros((1, 2), np.float32)})
    stream.run(step(1, 2))
    for deadline_ms in (0.0, -math.inf):
        with pytest.raises(Late):
            stream.run(step(5, 5), deadline_ms=deadline_ms)
    with pytest.raises(WrongInput):
        stream.run({"x": np.zeros(2, np.float32)})
    assert stream.run(step(1, 2), deadline_ms=1e6)["output"].tolist() == [[4, 8]]
    session.close()
    with pytest.raises(WrongInput, match="closed"):
        stream.run(step(1, 2))
    assert stream.snapshot()["state"].tolist() == [[2, 4]]


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="onnxruntime is not installed")
def test_a_failure_within_the_engine_leaves_the_states() -> None:
    data = summing_net(shape=["n", "m"]).SerializeToString()
    with engine("onnxruntime").open_model(data, settings={}, threads=1) as session:
        stream = Stream(session, initial={"state": np.zeros((1, 2), np.float32)})
        stream.run(step(1, 2))
        with pytest.raises(EngineFailed):
            stream.run({"x": np.zeros((1, 3), np.float32)})
        assert stream.run(step(1, 2))["output"].tolist() == [[4, 8]]


def test_open_sizes_of_states(opened: Open) -> None:
    begun = Stream(opened(shape=["n", 2]))
    assert begun.snapshot()["state"].tolist() == [[0, 0]]
    session = opened(shape=["n", "m"])
    with pytest.raises(BadOption, match="open") as caught:
        Stream(session)
    assert "initial={'state'" in (caught.value.hint or "")


WRONG: list[tuple[Any, str]] = [
    ({"state": np.zeros((1, 3), np.float32)}, "cannot have the shape"),
    ({"state": np.zeros((1, 2))}, "cannot be float64"),
    ({"state": [[0.0, 0.0]]}, "cannot be list"),
    ({"stat": np.zeros((1, 2), np.float32)}, "`stat` is not a state"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_states_that_cannot_be(opened: Open, given: Any, message: str) -> None:
    session = opened()
    with pytest.raises(BadOption, match=message) as caught:
        Stream(session, initial=given)
    assert caught.value.hint
    stream = Stream(session)
    stream.run(step(1, 2))
    with pytest.raises(WrongInput, match=message):
        stream.restore({"count": np.array([0]), **given})
    with pytest.raises(WrongInput, match="no array for state `state`"):
        stream.restore({"count": np.array([0])})
    assert stream.run(step(1, 2))["output"].tolist() == [[4, 8]]


def test_errors_are_ours(opened: Open) -> None:
    with pytest.raises(EdgeError):
        Stream(opened(), {3: 4})  # type: ignore[dict-item]

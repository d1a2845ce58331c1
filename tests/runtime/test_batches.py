"""Many samples in one go, a refusal of what is not finite, and sessions that are warm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import edgedl
from edgedl.core.errors import BadOption, Late, WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.batches import run_batch, takes_batches
from edgedl.runtime.finite import Finite
from edgedl.runtime.golden import Answer, Golden
from edgedl.runtime.payload import Payload
from edgedl.runtime.session import EngineSession
from edgedl.runtime.warm import warm
from edgedl.runtime.writing import Contents, write_bundle
from tests import models
from tests.runtime.slow import endless_net, many_rounds, rounds
from tests.runtime.test_session import typed_net


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(net: onnx.ModelProto, name: str) -> EngineSession:
    return engine(name).open_model(net.SerializeToString(), settings={}, threads=1)


def images(rows: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 3, 8, 8)).astype(np.float32)


class Counted:
    """A session, and how many rows each of its calls had."""

    def __init__(self, session: EngineSession) -> None:
        self.signature = session.signature
        self._session = session
        self.rows: list[int] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.rows.append(len(next(iter(inputs.values()))))
        return self._session.run(inputs)


@pytest.mark.parametrize(
    ("net", "most", "rows"),
    [
        (models.conv_net(), None, [1] * 5),
        (models.conv_net(), 4, [1] * 5),
        (models.dynamic_net(), None, [5]),
        (models.dynamic_net(), 2, [2, 2, 1]),
        (models.dynamic_net(), 1, [1] * 5),
        (models.dynamic_net(), 9, [5]),
    ],
)
def test_a_row_a_sample_however_the_batch_axis_is(
    name: str, net: onnx.ModelProto, most: int | None, rows: list[int]
) -> None:
    given = images(5)
    with opened(net, name) as session:
        counted = Counted(session)
        found = run_batch(counted, {"x": given}, most=most)["logits"]  # type: ignore[arg-type]
        assert counted.rows == rows
        assert found.shape == (5, 5)
        for i in range(5):
            alone = session.run({"x": given[i : i + 1]})["logits"]
            np.testing.assert_allclose(found[i : i + 1], alone, rtol=1e-5, atol=1e-6)


def test_elements_of_arrays_without_a_batch_axis(name: str) -> None:
    feed = {
        "n": np.array([[3, -4], [5, 6]]),
        "flag": np.array([[True, False, True], [False, False, True]]),
        "x": np.array([1.5, 2], np.float32),
    }
    with opened(typed_net(), name) as session:
        found = run_batch(session, feed)
    assert found["twice"].tolist() == [[6, -8], [10, 12]]
    assert found["other"].tolist() == [[False, True, False], [True, True, False]]
    assert found["square"].tolist() == [2.25, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": images(0)}, "there are no samples"),
        ({}, "there are no samples"),
        ({"x": images(2), "y": images(3)}, "2 of `x`, 3 of `y`"),
        ({"y": images(2)}, "`y` is not an input"),
        ({"x": images(2).tolist()}, "`x` is no array"),
        ({"x": np.array(1.0)}, "`x` has no axis of samples"),
        ({"x": images(2)[:, :2]}, "has shape"),
        (images(2), "not as ndarray"),
    ],
)
@pytest.mark.parametrize("net", [models.conv_net, models.dynamic_net])
def test_samples_that_do_not_fit(name: str, net: Any, given: Any, message: str) -> None:
    with opened(net(), name) as session, pytest.raises(WrongInput, match=message) as caught:
        run_batch(session, given)
    assert caught.value.hint


def test_at_least_one_sample_a_call(name: str) -> None:
    with opened(models.conv_net(), name) as session, pytest.raises(BadOption, match="`most` is 0"):
        run_batch(session, {"x": images(2)}, most=0)


class Answering:
    """A session that answers what a function makes of its inputs."""

    def __init__(self, x: Any, y: Any, answer: Any) -> None:
        self.signature = Signature((Tensor("x", "float32", x),), (Tensor("y", "float32", y),))
        self._answer = answer

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": self._answer(inputs["x"])}


def test_a_first_axis_that_counts_no_samples_is_told() -> None:
    session: Any = Answering(("n", 2), ("m", 2), lambda x: x[:1])
    with pytest.raises(WrongInput, match="1 rows for 3 samples"):
        run_batch(session, {"x": np.zeros((3, 2), np.float32)})
    ragged: Any = Answering((1, 2), (None,), lambda x: x[0, : int(x[0, 0])])
    with pytest.raises(WrongInput, match="another shape from sample to sample"):
        run_batch(ragged, {"x": np.array([[1, 1], [2, 2]], np.float32)})
    assert not takes_batches(ragged.signature)
    assert not takes_batches(Signature((), session.signature.outputs))
    unknown: Any = Answering(None, None, lambda x: x)
    assert run_batch(unknown, {"x": np.eye(2, dtype=np.float32)})["y"].tolist() == [[1, 0], [0, 1]]


class Timed:
    """A session that keeps the deadlines it is given, and is late from call `late_at` on."""

    def __init__(self, first: Any, late_at: int = 99) -> None:
        tensor = Tensor("x", "float32", (first, 2))
        self.signature = Signature((tensor,), (tensor,))
        self.given: list[float | None] = []
        self._late_at = late_at

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        self.given.append(deadline_ms)
        if len(self.given) > self._late_at:
            raise Late(f"no answer within {deadline_ms} ms", hint="more")
        return dict(inputs)


@pytest.mark.parametrize("first", [1, "batch"])
def test_a_deadline_is_for_all_calls_together(first: Any) -> None:
    session: Any = Timed(first)
    given = {"x": np.eye(3, 2, dtype=np.float32)}
    assert run_batch(session, given, most=1)["x"].tolist() == given["x"].tolist()
    assert session.given == [None] * 3
    session.given.clear()
    run_batch(session, given, most=1, deadline_ms=1e7)
    assert len(session.given) == 3
    assert session.given == sorted(session.given, reverse=True)
    assert 0 < session.given[2] <= session.given[0] <= 1e7
    session.given.clear()
    for passed in (0, -5.0):
        with pytest.raises(Late, match=f"no answer within {passed:g} ms"):
            run_batch(session, given, most=1, deadline_ms=passed)
    assert session.given == []
    slow: Any = Timed(first, late_at=1)
    with pytest.raises(Late, match="no answer within 500000 ms") as caught:
        run_batch(slow, given, most=1, deadline_ms=5e5)
    assert caught.value.hint
    assert len(slow.given) == 2
    for wrong in (float("nan"), "soon"):
        with pytest.raises(WrongInput, match="a deadline of"):
            run_batch(session, given, deadline_ms=wrong)  # type: ignore[arg-type]


def test_an_engine_without_end_is_stopped_within_a_batch(name: str) -> None:
    one = rounds(many_rounds(name))
    feed = {"x": np.repeat(one["x"], 2, 0), "n": np.repeat(one["n"], 2)}
    data = endless_net().SerializeToString()
    with (
        engine(name).open_model(data, settings={}, threads=1) as session,
        pytest.raises(Late, match="no answer within 1 ms"),
    ):
        run_batch(session, feed, deadline_ms=1)


def bundle(folder: Path, name: str) -> Path:
    data, given = models.conv_net().SerializeToString(), images(1)
    with opened(models.conv_net(), name) as session:
        answer = session.run({"x": given})["logits"]
        signature = session.signature
    write_bundle(
        folder / "net.edl",
        Contents(
            signature=signature,
            payloads=[(Payload(name, "onnx", "models/a.onnx", "float32", {}), data)],
            golden=Golden(({"x": given},), ({"logits": Answer.of(answer)},), 0.01),
            history=(),
            notes={},
        ),
    )
    return folder / "net.edl"


def test_what_is_not_finite_is_refused_where_that_is_asked_for(name: str, tmp_path: Path) -> None:
    path, output = bundle(tmp_path, name), {"logits": np.zeros((1, 5), np.float32)}
    with edgedl.open(path, threads=1) as session:
        bad = images(1)
        bad[0, 1, 2, 3] = np.nan
        assert session.run({"x": bad})["logits"].shape == (1, 5)
    with edgedl.open(path, threads=1, finite=True, warm=True, at_once=2) as careful:
        assert isinstance(careful, Finite)
        wanted = careful.run({"x": images(1)}, deadline_ms=1e6)["logits"]
        careful.run_into({"x": images(1)}, output)
        np.testing.assert_array_equal(output["logits"], wanted)
        for value in (np.nan, np.inf, -np.inf):
            bad[0, 1, 2, 3] = value
            for call in (careful.run, lambda feed: careful.run_into(feed, output)):
                with pytest.raises(WrongInput, match=r"input `x` has 1 values .* \[0, 1, 2, 3\]"):
                    call({"x": bad})
        with pytest.raises(WrongInput, match="is list"):
            careful.run({"x": bad.tolist()})
        with pytest.raises(WrongInput, match="no array"):
            careful.run({})
        with pytest.raises(WrongInput, match="not as list"):
            careful.run([bad])  # type: ignore[arg-type]
    with pytest.raises(WrongInput, match="closed"):
        careful.run({"x": images(1)})


def test_integers_and_truth_values_are_finite(name: str) -> None:
    feed = {"n": np.array([3, -4]), "flag": np.zeros((1, 3), bool), "x": np.array(2, np.float32)}
    with Finite(opened(typed_net(), name)) as session:
        assert session.run(feed)["square"] == 4
        with pytest.raises(WrongInput, match="not finite"):
            session.run({**feed, "x": np.array(np.inf, np.float32)})


@pytest.mark.parametrize("wrong", [0, -2])
def test_at_least_one_call_at_once(tmp_path: Path, wrong: int) -> None:
    path = bundle(tmp_path, installed_engines()[0])
    with pytest.raises(BadOption, match=f"`at_once` is {wrong}"):
        edgedl.open(path, at_once=wrong)


class Seen(Answering):
    """A session that keeps what it was run with."""

    def __init__(self, shape: Any) -> None:
        super().__init__(shape, shape, lambda x: x)
        self.seen: list[np.ndarray] = []

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.seen.append(inputs["x"])
        return super().run(inputs)


def test_warm_runs_zeros_or_what_it_is_given() -> None:
    session: Any = Seen(("batch", 3))
    warm(session)
    assert [array.tolist() for array in session.seen] == [[[0, 0, 0]]] * 2
    session.seen.clear()
    given = np.ones((4, 3), np.float32)
    warm(session, {"x": given}, calls=3)
    assert [one is given for one in session.seen] == [True] * 3
    for shape in ((1, "width"), None):
        with pytest.raises(WrongInput, match="sizes of input") as caught:
            warm(Seen(shape))  # type: ignore[arg-type]
        assert caught.value.hint

"""A session that gives way to another: who answers, who is closed, and what if it never comes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from edgedl.core.errors import EngineFailed, Late, WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime.meanwhile import Meanwhile
from edgedl.runtime.session import EngineSession, Session, closed

X = {"x": np.zeros(1, np.float32)}


class Answering:
    """Answers with a number; a closed one raises, and being closed twice is an error."""

    def __init__(self, number: float, dtype: str = "float32", name: str = "x") -> None:
        self.number = number
        tensor = Tensor(name, dtype, (1,))
        self.signature = Signature((tensor,), (Tensor("y", dtype, (1,)),))
        self.is_closed = False
        self.inside: threading.Event | None = None
        self.go_on = threading.Event()

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        if deadline_ms == 0:
            raise Late("late")
        if self.is_closed:
            raise closed()
        if self.inside is not None:
            self.inside.set()
            self.go_on.wait()
        if self.is_closed:
            raise AssertionError("closed while it ran")
        return {"y": np.full(1, self.number)}

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        outputs["y"][...] = self.run(inputs, deadline_ms)["y"]

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def later() -> Future[EngineSession]:
    made: Future[EngineSession] = Future()
    made.set_running_or_notify_cancel()
    return made


def answer(session: Session) -> float:
    return float(session.run(X)["y"][0])


def test_the_other_one_answers_as_soon_as_it_is_there(later: Future[EngineSession]) -> None:
    first, other, told = Answering(1), Answering(2), []
    session = Meanwhile(first, later, switched=lambda: told.append("switched"))
    assert (answer(session), session.ready, session.signature) == (1, False, first.signature)
    later.set_result(other)
    assert (answer(session), session.ready, told) == (2, True, ["switched"])
    assert first.is_closed
    assert session.wait(0)
    session.close()
    session.close()
    assert other.is_closed
    with pytest.raises(WrongInput, match="closed"):
        session.run(X)


def test_whoever_answers_is_given_deadlines_and_outputs(later: Future[EngineSession]) -> None:
    out = np.zeros(1)
    with Meanwhile(Answering(1), later) as session:
        session.run_into(X, {"y": out})
        assert out == 1
        with pytest.raises(Late):
            session.run(X, deadline_ms=0)
        later.set_result(Answering(2))
        session.run_into(X, {"y": out}, deadline_ms=5)
        assert out == 2
        with pytest.raises(Late):
            session.run_into(X, {"y": out}, deadline_ms=0)


def test_one_that_is_there_from_the_beginning() -> None:
    ready: Future[EngineSession] = Future()
    ready.set_result(Answering(2))
    with Meanwhile(Answering(1), ready) as session:
        assert answer(session) == 2


def test_a_run_under_way_ends_on_the_first_one(later: Future[EngineSession]) -> None:
    first, other = Answering(1), Answering(2)
    first.inside = threading.Event()
    session = Meanwhile(first, later)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answer, session)
        first.inside.wait()
        later.set_result(other)
        assert not first.is_closed
        assert answer(session) == 2
        first.go_on.set()
        assert running.result() == 1
    assert first.is_closed
    session.close()


def test_closing_waits_for_the_run_under_way(later: Future[EngineSession]) -> None:
    first = Answering(1)
    first.inside = threading.Event()
    session = Meanwhile(first, later)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answer, session)
        first.inside.wait()
        session.close()
        assert not first.is_closed
        first.go_on.set()
        assert running.result() == 1
    assert first.is_closed


def test_many_threads_get_one_answer_or_the_other(later: Future[EngineSession]) -> None:
    first, other = Answering(1), Answering(2)
    session = Meanwhile(first, later)
    seen: list[list[float]] = [[] for _ in range(4)]
    half = threading.Barrier(5)

    def ask(mine: list[float]) -> None:
        mine += [answer(session) for _ in range(200)]
        half.wait()
        mine += [answer(session) for _ in range(200)]

    threads = [threading.Thread(target=ask, args=(mine,)) for mine in seen]
    for thread in threads:
        thread.start()
    half.wait()
    later.set_result(other)
    for thread in threads:
        thread.join()
    for mine in seen:
        assert mine == sorted(mine)
        assert mine[0] == 1
        assert len(mine) == 400
    assert first.is_closed
    session.close()


def test_where_the_build_fails_the_first_one_goes_on(later: Future[EngineSession]) -> None:
    first = Answering(1)
    with Meanwhile(first, later) as session:
        later.set_exception(EngineFailed("no such operator"))
        assert not session.wait(0)
        assert str(session.problem) == "no such operator"
        assert answer(session) == 1
    assert first.is_closed


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Answering(2, name="z"), "`z` for `x`"),
        (Answering(2, "float16"), "`x` is float16 for float32"),
    ],
)
def test_a_session_of_another_model_never_answers(
    later: Future[EngineSession], other: Answering, words: str
) -> None:
    with Meanwhile(Answering(1), later) as session:
        later.set_result(other)
        assert other.is_closed
        assert answer(session) == 1
        assert words in str(session.problem)


def test_closed_while_the_other_is_built(later: Future[EngineSession]) -> None:
    first, other, cancelled = Answering(1), Answering(2), threading.Event()
    session = Meanwhile(first, later, cancel=cancelled.set)
    session.close()
    assert cancelled.is_set()
    assert first.is_closed
    later.set_result(other)
    assert other.is_closed
    with pytest.raises(WrongInput, match="closed"):
        session.run(X)


def test_closed_before_the_build_began() -> None:
    waiting: Future[EngineSession] = Future()
    session = Meanwhile(Answering(1), waiting)
    session.close()
    assert waiting.cancelled()
    assert "cancelled" in str(session.problem)
    assert not session.wait(0)

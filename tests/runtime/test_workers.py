"""Calls handed over to workers: their order, their bounds, and what becomes of them at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadOption, Busy, EngineFailed, Late, WrongInput
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.alarm import late
from edgedl.runtime.workers import Workers
from tests import models
from tests.runtime.slow import endless_net
from tests.runtime.test_closing import forks, in_child


class Held:
    """A session that answers `x` when it is let; it keeps what it ran, in order."""

    signature = Signature((Tensor("x", "int64", ()),), (Tensor("y", "int64", ()),))

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.ran: list[int] = []
        self.deadlines: list[float | None] = []

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        self.ran.append(int(inputs["x"]))
        self.deadlines.append(deadline_ms)
        self.begun.release()
        self.let.acquire()
        if inputs["x"] < 0:
            raise EngineFailed("a negative number")
        return {"y": inputs["x"]}


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def workers(held: Held) -> Iterator[Workers]:
    with Workers(held, most_waiting=3) as made:  # type: ignore[arg-type]
        yield made
        held.let.release(100)


def number(i: int) -> dict[str, np.ndarray]:
    return {"x": np.array(i)}


def fill(workers: Workers, held: Held) -> list[Future[Any]]:
    """One call that runs, and as many that wait as may."""
    futures = [workers.submit(number(0))]
    held.begun.acquire()
    return futures + [workers.submit(number(i)) for i in (1, 2, 3)]


def test_calls_are_answered_in_the_order_in_which_they_came(workers: Workers, held: Held) -> None:
    futures = fill(workers, held)
    ended: list[int] = []
    for i, future in enumerate(futures):
        future.add_done_callback(lambda _, i=i: ended.append(i))  # type: ignore[misc]
    held.let.release(4)
    assert [int(future.result()["y"]) for future in futures] == [0, 1, 2, 3]
    workers.close()
    assert held.ran == ended == [0, 1, 2, 3]
    assert held.deadlines == [None] * 4


def test_one_call_too_many_is_refused_at_once(workers: Workers, held: Held) -> None:
    futures = fill(workers, held)
    for _ in range(3):
        with pytest.raises(Busy, match="3 calls wait already") as caught:
            workers.submit(number(4))
        assert "most_waiting" in (caught.value.hint or "")
    held.let.release()
    futures[0].result()
    held.begun.acquire()
    last = workers.submit(number(5))
    held.let.release(100)
    assert int(last.result()["y"]) == 5
    assert held.ran == [0, 1, 2, 3, 5]


def test_a_cancelled_call_is_not_run_and_makes_room(workers: Workers, held: Held) -> None:
    futures = fill(workers, held)
    assert not futures[0].cancel()
    assert futures[2].cancel()
    last = workers.submit(number(6))
    held.let.release(100)
    assert int(last.result()["y"]) == 6
    with pytest.raises(CancelledError):
        futures[2].result()
    assert held.ran == [0, 1, 3, 6]


def test_an_error_is_in_the_future_and_the_next_call_is_answered(
    workers: Workers, held: Held
) -> None:
    futures = [workers.submit(number(i)) for i in (-1, 2)]
    held.let.release(2)
    with pytest.raises(EngineFailed, match="a negative number"):
        futures[0].result()
    assert int(futures[1].result()["y"]) == 2


def test_a_deadline_counts_the_waiting(workers: Workers, held: Held) -> None:
    first = workers.submit(number(0), deadline_ms=1e6)
    held.begun.acquire()
    late = workers.submit(number(1), deadline_ms=0)
    held.let.release(100)
    first.result()
    with pytest.raises(Late, match="0 ms"):
        late.result()
    assert held.ran == [0]
    [given] = held.deadlines
    assert given is not None
    assert 0 < given < 1e6
    with pytest.raises(WrongInput, match="a deadline of"):
        workers.submit(number(1), deadline_ms=float("nan"))


def test_closing_waits_for_calls_or_cancels_them(held: Held) -> None:
    for waits, ran in ((True, [0, 1, 2, 3]), (False, [0])):
        held.ran.clear()
        workers = Workers(held, most_waiting=3)  # type: ignore[arg-type]
        futures = fill(workers, held)
        closing = threading.Thread(target=workers.close, kwargs={"wait": waits})
        closing.start()
        if not waits:
            for future in futures[1:]:
                with pytest.raises(CancelledError):
                    future.result()
        held.let.release(4 if waits else 1)
        closing.join()
        assert [future.cancelled() for future in futures] == [False] + [not waits] * 3
        assert all(future.done() for future in futures)
        assert held.ran == ran
        workers.close()
        with pytest.raises(WrongInput, match="the workers are closed"):
            workers.submit(number(1))
        while held.begun.acquire(blocking=False):
            pass
    assert not [t for t in threading.enumerate() if t.name.startswith("edgedl worker")]


def test_leaving_by_an_error_cancels_what_waits(held: Held) -> None:
    with pytest.raises(KeyError), Workers(held) as workers:  # type: ignore[arg-type]
        futures = [workers.submit(number(i)) for i in range(2)]
        held.begun.acquire()
        futures[1].add_done_callback(lambda _: held.let.release())
        raise KeyError
    assert futures[1].cancelled()
    assert int(futures[0].result()["y"]) == 0
    assert held.ran == [0]


def test_whoever_waits_for_several_is_told_of_the_cancelled(workers: Workers, held: Held) -> None:
    futures = fill(workers, held)
    for future in futures[1:]:
        future.cancel()
    held.let.release(1)
    assert wait(futures).not_done == set()
    again = [futures[0], *[workers.submit(number(i)) for i in range(3)]]
    held.begun.acquire()
    again[2].cancel()
    again[3].cancel()
    more = [workers.submit(number(i)) for i in range(2)]
    held.let.release(10)
    assert wait([*again, *more]).not_done == set()


def test_a_callback_may_submit_and_close(held: Held) -> None:
    workers = Workers(held)  # type: ignore[arg-type]
    done = threading.Event()

    def after(_: Future[Any]) -> None:
        workers.submit(number(1)).add_done_callback(lambda _: (workers.close(), done.set()))

    workers.submit(number(0)).add_done_callback(after)
    held.let.release(2)
    done.wait()
    workers.close()
    assert held.ran == [0, 1]


def test_two_callbacks_may_close_at_once(held: Held) -> None:
    workers = Workers(held, threads=2)  # type: ignore[arg-type]
    both, closed = threading.Barrier(2), threading.Semaphore(0)

    def after(_: Future[Any]) -> None:
        both.wait()
        workers.close()
        closed.release()

    for i in range(2):
        workers.submit(number(i)).add_done_callback(after)
    held.let.release(2)
    assert all(closed.acquire(timeout=10) for _ in range(2)), "they wait for one another"
    workers.close()


def test_a_late_answer_says_the_whole_deadline() -> None:
    class Slow(Held):
        def run(
            self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
        ) -> dict[str, np.ndarray]:
            assert deadline_ms is not None
            raise late(deadline_ms)

    with Workers(Slow()) as workers:  # type: ignore[arg-type]
        future = workers.submit(number(0), deadline_ms=1000)
        with pytest.raises(Late, match="no answer within 1000 ms"):
            future.result()


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"most_waiting": 0}, {"threads": -1}])
def test_bounds_are_numbers_from_one(held: Held, wrong: dict[str, int]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(BadOption, match=f"`{name}` is {value}"):
        Workers(held, **wrong)  # type: ignore[arg-type]


def test_forgotten_workers_end(held: Held) -> None:
    workers = Workers(held, threads=2)  # type: ignore[arg-type]
    threads = [t for t in threading.enumerate() if t.name.startswith("edgedl worker")]
    assert len(threads) == 2
    del workers
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("name", installed_engines())
def test_a_closed_session_says_so_in_the_future(name: str) -> None:
    data = models.conv_net().SerializeToString()
    rows = [np.full((1, 3, 8, 8), i, np.float32) for i in range(20)]
    with engine(name).open_model(data, settings={}, threads=1) as session:
        wanted = [session.run({"x": row})["logits"] for row in rows]
        with Workers(session, threads=3) as workers:
            assert workers.signature == session.signature
            futures = [workers.submit({"x": row}) for row in rows]
            for future, answer in zip(futures, wanted, strict=True):
                np.testing.assert_array_equal(future.result()["logits"], answer)
            with pytest.raises(WrongInput, match="`y` is not an input"):
                workers.submit({"y": rows[0]}).result()
            session.close()
            with pytest.raises(WrongInput, match="closed"):
                workers.submit({"x": rows[0]}).result()


@forks
def test_workers_of_before_a_fork_are_told_so(held: Held) -> None:
    with Workers(held) as workers:  # type: ignore[arg-type]
        assert "forked" in in_child(lambda: workers.submit(number(0)))
        assert in_child(workers.close) == "nothing"
        held.let.release()
        assert int(workers.submit(number(3)).result()["y"]) == 3


LEFT_OPEN = """
import sys
import numpy as np
import edgedl
from edgedl.runtime import engine
session = engine(sys.argv[1]).open_model(sys.argv[2], settings={}, threads=1)
workers = edgedl.Workers(session, threads=2)
feed = {"x": np.zeros((1, 4), np.float32), "n": np.array(3)}
long = {**feed, "n": np.array(20_000)}
assert workers.submit(feed).result()["y"].shape == (1, 4)
for _ in range(20):
    workers.submit(long)
print("left")
"""


@pytest.mark.parametrize("name", installed_engines())
def test_workers_left_open_do_not_hold_the_interpreter(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(endless_net().SerializeToString())
    command = [sys.executable, "-W", "error", "-c", LEFT_OPEN, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert (done.returncode, done.stdout, done.stderr) == (0, "left\n", "")

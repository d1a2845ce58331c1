"""Calls that are given up when their time has come, and sessions that go on after them."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import Late, WrongInput
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.alarm import Alarm, ends_at
from edgedl.runtime.session import EngineSession
from tests.runtime.slow import endless_net, many_rounds, rounds


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def many(name: str) -> int:
    return many_rounds(name)


@pytest.fixture
def session(name: str) -> Iterator[EngineSession]:
    data = endless_net().SerializeToString()
    with engine(name).open_model(data, settings={}, threads=1) as opened:
        yield opened


def answers(session: EngineSession) -> None:
    """Hold a session to its answers, in every way of asking."""
    feed, output = rounds(3), {"y": np.zeros((1, 4), np.float32)}
    wanted = rounds(0)["x"]
    np.testing.assert_array_equal(session.run(feed)["y"], wanted)
    np.testing.assert_array_equal(session.run(feed, deadline_ms=1e7)["y"], wanted)
    np.testing.assert_array_equal(session.run(feed, deadline_ms=math.inf)["y"], wanted)
    session.run_into(feed, output)
    np.testing.assert_array_equal(output["y"], wanted)
    output["y"][:] = 0
    session.run_into(feed, output, deadline_ms=1e7)
    np.testing.assert_array_equal(output["y"], wanted)


def test_a_call_without_end_is_stopped_and_the_session_goes_on(
    session: EngineSession, many: int
) -> None:
    for _ in range(3):
        with pytest.raises(Late, match="no answer within 1 ms") as caught:
            session.run(rounds(many), deadline_ms=1)
        assert caught.value.hint
    answers(session)


def test_what_came_late_is_not_in_the_outputs(session: EngineSession, many: int) -> None:
    output = {"y": np.full((1, 4), 7, np.float32)}
    with pytest.raises(Late):
        session.run_into(rounds(many), output, deadline_ms=1)
    kept = output["y"].copy()
    answers(session)
    np.testing.assert_array_equal(output["y"], kept)


@pytest.mark.parametrize("passed", [0, -3.5, -math.inf])
def test_a_deadline_that_has_passed_asks_no_engine(
    session: EngineSession, many: int, passed: float
) -> None:
    for _ in range(3):
        with pytest.raises(Late):
            session.run(rounds(many), deadline_ms=passed)
    answers(session)


@pytest.mark.parametrize("wrong", [math.nan, "20", [1]])
def test_a_deadline_is_a_number(session: EngineSession, wrong: Any) -> None:
    with pytest.raises(WrongInput, match="a deadline of") as caught:
        session.run(rounds(1), deadline_ms=wrong)
    assert "milliseconds" in (caught.value.hint or "")
    answers(session)


def test_numbers_of_numpy_are_numbers() -> None:
    assert ends_at(np.float64(5)) > 0
    assert ends_at(np.int64(5)) > 0
    assert ends_at(np.float32(5)) > 0


def test_other_threads_are_answered_meanwhile(session: EngineSession, many: int) -> None:
    def ask(i: int) -> str:
        try:
            slow = i % 2
            session.run(rounds(many if slow else 3), deadline_ms=2 if slow else None)
        except Late:
            return "late"
        return "answered"

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(12))) == ["answered", "late"] * 6
    answers(session)


def test_closing_waits_for_what_was_stopped(session: EngineSession, many: int) -> None:
    with pytest.raises(Late):
        session.run(rounds(many), deadline_ms=1)
    session.close()
    with pytest.raises(WrongInput, match="closed"):
        session.run(rounds(1), deadline_ms=1000)
    assert not [t for t in threading.enumerate() if t.name == "edgedl deadlines"]


def test_an_alarm_rings_each_bell_once_and_what_was_taken_back_never() -> None:
    alarm, rung = Alarm(), []
    far, both = ends_at(1e9), threading.Semaphore(0)
    taken = alarm.set(far, lambda: rung.append("taken back"))
    for i in range(2):
        alarm.set(ends_at(i), lambda i=i: (rung.append(i), both.release()))  # type: ignore[misc]
    both.acquire()
    both.acquire()
    alarm.take_back(taken)
    alarm.take_back(taken)
    alarm.close()
    alarm.close()
    assert sorted(rung, key=str) == [0, 1]
    with pytest.raises(WrongInput, match="closed"):
        alarm.set(far, lambda: None)


def test_an_alarm_that_nobody_uses_any_more_ends_its_thread() -> None:
    alarm = Alarm()
    alarm.set(ends_at(1e9), lambda: None)
    [thread] = [t for t in threading.enumerate() if t.name == "edgedl deadlines"]
    del alarm
    thread.join()


LEFT_OPEN = """
import sys
import numpy as np
from edgedl.runtime import engine
session = engine(sys.argv[1]).open_model(sys.argv[2], settings={}, threads=1)
feed = {"x": np.zeros((1, 4), np.float32), "n": np.array(3)}
session.run(feed, deadline_ms=1e7)
print("answered")
"""


def test_a_session_left_open_does_not_hold_the_interpreter(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(endless_net().SerializeToString())
    command = [sys.executable, "-W", "error", "-c", LEFT_OPEN, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "answered\n", "")

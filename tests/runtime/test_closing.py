"""Sessions of every installed engine that are closed, or forked, while others use them."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edgedl.core.errors import EdgeError, Late, WrongInput
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import EngineSession
from tests import models
from tests.runtime.slow import endless_net, rounds


@pytest.fixture(params=installed_engines())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(name: str) -> EngineSession:
    data = models.conv_net().SerializeToString()
    return engine(name).open_model(data, settings={}, threads=1)


def image() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)}


def logits() -> dict[str, np.ndarray]:
    return {"logits": np.zeros((1, 5), np.float32)}


def test_every_call_to_a_closed_session_is_refused(name: str) -> None:
    session = opened(name)
    with session as same:
        assert same is session
        session.run(image())
    session.close()
    for call in (
        lambda: session.run(image()),
        lambda: session.run(image(), deadline_ms=5),
        lambda: session.run_into(image(), logits()),
        lambda: session.run_into(image(), logits(), deadline_ms=5),
    ):
        with pytest.raises(WrongInput, match="the session is closed") as caught:
            call()
        assert caught.value.hint == "open it again"


def test_closing_lets_calls_that_run_end(name: str) -> None:
    """Every call ends with its answer or a refusal, and none is answered after closing returned."""
    wanted = opened(name).run(image())["logits"]
    for _ in range(5):
        session, begun, over = opened(name), threading.Barrier(5), threading.Event()

        def call(
            session: EngineSession = session,
            begun: threading.Barrier = begun,
            over: threading.Event = over,
        ) -> list[bool]:
            seen = []
            begun.wait()
            while True:
                refused = over.is_set()
                try:
                    answer = session.run(image())["logits"]
                except WrongInput as error:
                    assert "closed" in str(error)
                    return seen
                assert not refused
                seen.append(np.array_equal(answer, wanted))

        with ThreadPoolExecutor(4) as pool:
            found = [pool.submit(call) for _ in range(4)]
            begun.wait()
            session.close()
            over.set()
            assert all(all(one.result()) for one in found)


def test_several_threads_may_close(name: str) -> None:
    session = opened(name)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(session.close) for _ in range(8)]:
            done.result()
    with pytest.raises(WrongInput, match="closed"):
        session.run(image())


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino is not installed")
@pytest.mark.parametrize("at_once", [1, 3])
def test_openvino_runs_as_many_calls_at_once_as_it_was_opened_for(at_once: int) -> None:
    data = models.conv_net().SerializeToString()
    settings = {"at_once": at_once}
    with engine("openvino").open_model(data, settings=settings, threads=1) as session:
        rows = [{"x": image()["x"] * i} for i in range(8)]
        wanted = [session.run(row)["logits"] for row in rows]
        output = [logits() for _ in rows]

        def call(i: int) -> bool:
            for _ in range(30):
                session.run_into(rows[i], output[i])
                answer = session.run(rows[i])["logits"]
                if not np.array_equal(answer, wanted[i]):
                    return False
                if not np.array_equal(output[i]["logits"], wanted[i]):
                    return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(call, range(8)))
    with pytest.raises(WrongInput, match="closed"):
        session.run(rows[0])


@pytest.mark.skipif("openvino" not in installed_engines(), reason="openvino is not installed")
def test_a_call_that_waits_for_its_turn_may_be_late() -> None:
    data = endless_net().SerializeToString()
    with (
        engine("openvino").open_model(data, settings={}, threads=1) as session,
        ThreadPoolExecutor(1) as pool,
    ):
        long = pool.submit(session.run, rounds(10**5))
        with pytest.raises(Late):
            session.run(rounds(10**5), deadline_ms=1)
        np.testing.assert_array_equal(long.result()["y"], rounds(0)["x"])


def in_child(what: Callable[[], object]) -> str:
    """What a forked child says of `what`."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # From Python 3.12 on it warns of threads, which is what these tests are about.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            what()
            said = "nothing"
        except EdgeError as error:
            said = f"{type(error).__name__}: {error} ({error.hint})"
        except BaseException as error:  # noqa: BLE001
            said = repr(error)
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    return said


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@forks
@pytest.mark.parametrize("used", [False, True])
def test_a_forked_child_is_told_in_words(name: str, used: bool) -> None:
    with opened(name) as session:
        if used:
            session.run(image(), deadline_ms=1e6)
            session.run_into(image(), logits())
        for call in (
            lambda: session.run(image()),
            lambda: session.run(image(), deadline_ms=1000),
            lambda: session.run_into(image(), logits()),
            lambda: session.run_into(image(), logits(), deadline_ms=1000),
        ):
            said = in_child(call)
            assert "WrongInput: the session was opened before this process was forked" in said
            assert "spawn" in said
        assert in_child(session.close) == "nothing"
        assert session.run(image())["logits"].shape == (1, 5)


@forks
def test_a_child_may_forget_what_it_was_born_with(name: str) -> None:
    held = [opened(name)]
    held[0].run(image())
    assert in_child(held.clear) == "nothing"
    with held[0] as session:
        assert session.run(image())["logits"].shape == (1, 5)


@forks
def test_a_fork_in_the_midst_of_a_call(name: str) -> None:
    data = endless_net().SerializeToString()
    session = engine(name).open_model(data, settings={}, threads=1)
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            session.run(rounds(1000))

    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(busy) for _ in range(2)]
        try:
            for _ in range(5):
                assert "forked" in in_child(lambda: session.run(rounds(3)))
                assert in_child(session.close) == "nothing"
        finally:
            stop.set()
        for one in done:
            one.result()
    session.close()

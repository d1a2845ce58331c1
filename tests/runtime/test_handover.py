"""A bundle answers at once where the engine that stands first is still being built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import EdgeError, EngineFailed, Unsupported, WrongAnswers
from edgedl.runtime import ENGINES, GivesWay, any_engine
from edgedl.runtime.handover import WAITS
from edgedl.runtime.meanwhile import Meanwhile
from edgedl.runtime.session import EngineSession
from tests.runtime.engines import TABLE, Plain
from tests.runtime.shipped import answered, payload, written


class Slow(Plain):
    """Is built when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.refuses = False

    def open_meanwhile(
        self,
        model: bytes,
        first: EngineSession,
        *,
        settings: Mapping[str, Any],
        check: Callable[[EngineSession], object],
    ) -> Meanwhile:
        if self.refuses:
            raise Unsupported("slow has no GPU here", hint="another machine")
        later: Future[EngineSession] = Future()

        def build() -> None:
            try:
                session = any_engine().open_model(model, settings={}, threads=1)
                check(session)
                later.set_result(session)
            except EdgeError as error:
                later.set_exception(error)

        self.waiting.append(build)
        return Meanwhile(first, later)


SLOW = Slow()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    for name, place in TABLE.items():
        monkeypatch.setitem(ENGINES, name, place)
    monkeypatch.setitem(ENGINES, "slow", f"{__name__}:SLOW")
    monkeypatch.delenv("EDGEDL_CACHE", raising=False)
    SLOW.waiting, SLOW.refuses = [], False
    assert isinstance(SLOW, GivesWay)
    return SLOW


@pytest.mark.parametrize("finite", [False, True])
def test_the_one_behind_answers_until_the_other_is_built(
    finite: bool, slow: Slow, tmp_path: Path
) -> None:
    path = written(tmp_path / "net.edl", [payload("refusing"), payload("slow"), payload()])
    with edgedl.open(path, threads=1, meanwhile=True, finite=finite) as session:
        before = session.opened
        assert before.engine == any_engine().name
        reasons = ["refusing refuses the model", WAITS]
        assert [one.reason for one in before.skipped] == reasons
        early = session.run(answered()[0])["logits"]
        slow.waiting[0]()
        assert session.opened.engine == "slow"
        assert (session.opened.payload, session.opened.golden_samples) == (1, 1)
        assert [one.reason for one in session.opened.skipped] == reasons[:1]
        np.testing.assert_array_equal(session.run(answered()[0])["logits"], early)


def test_without_the_wish_it_waits(slow: Slow, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("slow"), payload()])
    with edgedl.open(path, threads=1) as session:
        assert session.opened.engine == "slow"
    assert not slow.waiting


def test_what_answers_wrongly_never_takes_over(slow: Slow, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("slow"), payload()], later=1.0)
    with edgedl.open(path, threads=1, meanwhile=True, golden="first") as session:
        slow.waiting[0]()
        assert session.opened.engine == "slow"
    wrong = written(tmp_path / "wrong.edl", [payload("slow"), payload()], wrong=1.0)
    with pytest.raises(WrongAnswers):
        edgedl.open(wrong, threads=1, meanwhile=True)
    with edgedl.open(wrong, threads=1, meanwhile=True, golden="none") as session:
        slow.waiting[-1]()
        assert (session.opened.engine, session.opened.proven) == ("slow", False)


def test_where_no_other_is_there_it_waits(slow: Slow, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("slow"), payload("refusing")])
    with edgedl.open(path, threads=1, meanwhile=True) as session:
        assert session.opened.engine == "slow"
    only = written(tmp_path / "only.edl", [payload("slow")])
    with edgedl.open(only, threads=1, meanwhile=True) as session:
        assert session.opened.engine == "slow"


def test_what_stands_before_it_and_opens_is_taken(slow: Slow, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("plain"), payload("slow")])
    with edgedl.open(path, threads=1, meanwhile=True) as session:
        assert session.opened.engine == "plain"
    assert not slow.waiting


def test_where_it_can_never_be_built_the_reason_stands_in_opened(
    slow: Slow, tmp_path: Path
) -> None:
    slow.refuses = True
    path = written(tmp_path / "net.edl", [payload("slow"), payload()])
    with edgedl.open(path, threads=1, meanwhile=True) as session:
        [skipped] = session.opened.skipped
        assert (skipped.reason, skipped.hint) == ("slow has no GPU here", "another machine")
        assert session.run(answered()[0])


def test_a_build_that_fails_leaves_the_other_answering(slow: Slow, tmp_path: Path) -> None:
    path = written(tmp_path / "net.edl", [payload("slow"), payload()])
    with edgedl.open(path, threads=1, meanwhile=True) as session:
        assert isinstance(session, Meanwhile)
        session._later.set_exception(EngineFailed("the build crashed"))
        assert "the build crashed" in str(session.problem)
        assert session.opened.engine == any_engine().name
        assert session.run(answered()[0])

"""Fresh processes: real engines, crashes, and contestants that fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.benchmark.compare import Comparison
from edgedl.benchmark.contest import Contestant, contest, must
from edgedl.benchmark.rounds import TWIN, YARDSTICK
from edgedl.benchmark.worker import Yardstick, read_feeds, read_rounds, write_feeds, write_rounds
from edgedl.core.errors import EngineFailed
from edgedl.runtime import engine, installed_engines
from edgedl.runtime.session import Session
from tests.benchmark.test_compare import rounds
from tests.models import conv_net, saved

ME = "tests.benchmark.test_contest"


class DiesLater:
    """Answers some calls, then takes its process down."""

    def __init__(self, inner: Session, calls: int) -> None:
        self.inner, self.left, self.signature = inner, calls, inner.signature

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        return self.inner.run(inputs)

    def close(self) -> None:
        self.inner.close()


class FailsLater(DiesLater):
    """Answers some calls, then raises."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.left <= 0:
            raise EngineFailed("out of memory")
        return super().run(inputs)


def open_model(entry: Mapping[str, Any], threads: int) -> Session:
    return engine(entry["engine"]).open_model(Path(entry["path"]), settings={}, threads=threads)


def open_dying(entry: Mapping[str, Any], threads: int) -> DiesLater:
    return DiesLater(open_model(entry, threads), 40)


def open_failing(entry: Mapping[str, Any], threads: int) -> FailsLater:
    return FailsLater(open_model(entry, threads), 40)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return saved(conv_net(), tmp_path).path


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))


def feeds(path: Path) -> list[dict[str, np.ndarray]]:
    with engine(installed_engines()[0]).open_model(path, settings={}) as session:
        given = session.signature.inputs[0]
    shape = [d if isinstance(d, int) else 1 for d in given.shape or ()]
    return [{given.name: np.full(shape, i, np.float32)} for i in range(4)]


def entered(path: Path, name: str, opener: str = "open_model") -> Contestant:
    return Contestant(name, path, installed_engines()[0], {}, f"{ME}:{opener}")


def test_several_processes_and_a_twin(net: Path) -> None:
    told: list[int] = []
    found = contest(
        [entered(net, "a"), entered(net, "b")],
        feeds(net),
        seconds=0.5,
        progress=lambda _, done, __: told.append(done),
    )
    assert found.failures == {}
    comparison = must(found, "")
    assert len(comparison.processes) == 3
    for one in comparison.processes:
        assert list(one.samples_ns) == ["a", "b", TWIN, YARDSTICK]
        assert len(one.forth_ns["a"]) >= 4
        assert all((times > 0).all() for times in one.samples_ns.values())
    assert comparison.ratio("a", "b").freedom == 2
    assert told[-1] == 100


def test_three_processes_do_where_they_answer_the_question(net: Path) -> None:
    asked: list[int] = []

    def enough(found: Comparison) -> bool:
        asked.append(len(found.processes))
        return len(found.processes) > 3

    found = contest([entered(net, "a"), entered(net, "b")], feeds(net), seconds=5, enough=enough)
    assert asked == [3, 4]
    assert len(must(found, "").processes) == 4


@pytest.mark.parametrize(
    ("opener", "reason"),
    [("open_dying", "SIGSEGV"), ("open_failing", "out of memory"), ("nowhere", "nowhere")],
)
def test_one_that_fails_is_named_and_the_others_are_kept(
    net: Path, opener: str, reason: str
) -> None:
    three = [entered(net, "a"), entered(net, "bad", opener), entered(net, "c")]
    found = contest(three, feeds(net), seconds=0.5)
    assert list(found.failures) == ["bad"]
    assert reason in found.failures["bad"]
    assert found.comparison is not None
    assert found.comparison.names == ("a", "c")
    with pytest.raises(EngineFailed, match="`bad` failed"):
        must(found, "hint")


def test_the_first_may_fail_too(net: Path) -> None:
    found = contest([entered(net, "bad", "open_dying"), entered(net, "b")], feeds(net), seconds=0.5)
    assert list(found.failures) == ["bad"]
    assert found.comparison is not None
    assert found.comparison.names == ("b",)
    assert contest([entered(net, "bad", "open_dying")], feeds(net)).comparison is None


def test_feeds_and_rounds_survive_their_files(tmp_path: Path) -> None:
    given = [{"a/b": np.float32([1, 2]), "sr": np.array(16, np.int64)} for _ in range(2)]
    names = write_feeds(tmp_path / "feeds.npz", given)
    read = read_feeds(tmp_path / "feeds.npz", names, 2)
    assert [list(feed) for feed in read] == [["a/b", "sr"]] * 2
    assert read[1]["sr"].shape == ()
    assert read[1]["sr"] == 16
    one = rounds(a=[1.5, 2.5], b=[3, 4])
    write_rounds(tmp_path / "rounds.npz", one)
    again = read_rounds(tmp_path / "rounds.npz")
    assert again.steady == one.steady
    for kind in ("samples_ns", "warm_up_ns", "forth_ns", "back_ns"):
        for name in "ab":
            assert (getattr(again, kind)[name] == getattr(one, kind)[name]).all()


def test_the_yardstick_works_on_nothing() -> None:
    with Yardstick() as session:
        assert session.run({}) == {}

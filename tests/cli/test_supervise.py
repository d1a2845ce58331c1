"""A crash of an engine ends a process, and not the command."""

from __future__ import annotations

import faulthandler
import os
import signal
from pathlib import Path

import pytest

from edgedl.cli.supervise import MOST_CRASHES, supervised
from edgedl.core.errors import EngineFailed

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked here")


def crashing(marks: Path, times: int, then: int) -> int:
    """Crash so many times, by the marks of earlier calls, then give a status."""
    if len(list(marks.iterdir())) < times:
        (marks / str(os.getpid())).touch()
        faulthandler.disable()  # pytest's would fill the log with a trace of each
        os.kill(os.getpid(), signal.SIGSEGV)
    return then


@pytest.mark.parametrize("status", [0, 1, 3])
def test_a_status_is_handed_on(status: int) -> None:
    said: list[str] = []
    assert supervised(lambda: status, said.append) == status
    assert said == []


def test_what_crashed_is_tried_again_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    assert supervised(lambda: crashing(tmp_path, 2, 3), said.append) == 3
    assert len(said) == 2
    assert "SIGSEGV" in said[0]


def test_what_goes_on_crashing_ends(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(EngineFailed, match="crashed 8 times") as error:
        supervised(lambda: crashing(tmp_path, 100, 0), said.append)
    assert "--target" in str(error.value.hint)
    assert len(said) == MOST_CRASHES


def test_a_kill_is_no_crash() -> None:
    def killed() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert supervised(killed, lambda _: pytest.fail("said")) == 128 + signal.SIGKILL


def test_a_signal_to_end_reaches_what_runs(tmp_path: Path) -> None:
    parent = os.getpid()

    def ended() -> int:
        os.kill(parent, signal.SIGTERM)
        signal.pause()
        return 0

    assert supervised(ended, lambda _: pytest.fail("said")) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_is_our_fault_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def wrong() -> int:
        raise ZeroDivisionError("ours")

    assert supervised(wrong, lambda _: pytest.fail("said")) == 1
    told = capfd.readouterr().err
    assert "Traceback" in told
    assert "ZeroDivisionError: ours" in told

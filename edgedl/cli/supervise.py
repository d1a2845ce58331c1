"""Commands that go on where an engine brings the process down."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from edgedl.core.errors import EngineFailed

CRASHES = tuple(
    getattr(signal, name)
    for name in ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
    if hasattr(signal, name)
)
MOST_CRASHES = 8
HANDED_ON = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n))
PR_SET_PDEATHSIG = 1  # prctl(2), Linux


def supervised(run: Callable[[], int], say: Callable[[str], None]) -> int:
    """The exit status of `run`, called in a process of its own and again where an engine's crash
    ended that: what crashed is noted by then, and left out the next time.

    Where processes cannot be forked, `run` is called here.

    Raises:
        EngineFailed: it crashed eight times.
    """
    if not hasattr(os, "fork"):
        return run()
    for _ in range(MOST_CRASHES):
        sys.stdout.flush()
        sys.stderr.flush()
        ended = _ended(run)
        if not os.WIFSIGNALED(ended):
            return os.WEXITSTATUS(ended)
        number = os.WTERMSIG(ended)
        if number not in CRASHES:
            return 128 + number
        say(f"an engine crashed ({signal.Signals(number).name}); going on without what it was at")
    raise EngineFailed(
        f"engines crashed {MOST_CRASHES} times, and leaving out what they were at did not help",
        hint="--target onnxruntime or --target openvino takes one engine alone",
    )


def _ended(run: Callable[[], int]) -> int:
    """How a child that calls `run` ended. Signals that would end this process go to the child
    instead, those that come while it is forked, too; an interrupt from the keyboard reaches both,
    and the child says so."""
    children: list[int] = []
    early: list[int] = []

    def hand_on(number: int, _: object) -> None:
        early.append(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    before = {number: signal.signal(number, hand_on) for number in HANDED_ON}
    try:
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)
        child = os.fork()
        if not child:
            _be_child(run, mask)
        children.append(child)
        for number in early:
            os.kill(child, number)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return os.waitpid(child, 0)[1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _be_child(run: Callable[[], int], mask: set[int | signal.Signals]) -> NoReturn:
    status = 1
    try:
        _end_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = run()
    finally:
        kind, error, trace = sys.exc_info()
        if kind is not None and error is not None:
            sys.excepthook(kind, error, trace)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _end_with_parent() -> None:
    """End this process when its parent is killed, where the system can."""
    for number in HANDED_ON:
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

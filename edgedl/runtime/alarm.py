"""Deadlines of calls: until when, what is said of one that passed, and who stops the engine."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping
from numbers import Real
from time import monotonic

import numpy as np

from edgedl.core.errors import Late, WrongInput
from edgedl.runtime.session import EngineSession, closed

LONGEST_WAIT_S = 1e6


def ends_at(deadline_ms: float) -> float:
    """The `time.monotonic` at which a call that begins now is late; past where it is 0 or less.

    Raises:
        WrongInput: it is no number.
    """
    number = type(deadline_ms) is float or isinstance(deadline_ms, Real)
    if not number or math.isnan(deadline_ms):
        raise WrongInput(
            f"a deadline of {deadline_ms!r}", hint="deadline_ms=20.0, milliseconds from now on"
        )
    return monotonic() + deadline_ms / 1e3


def late(deadline_ms: float) -> Late:
    """What a call raises whose deadline passed."""
    return Late(f"no answer within {deadline_ms:g} ms", hint="give it more, or a smaller model")


def run_until(
    session: EngineSession, inputs: Mapping[str, np.ndarray], *, ends: float, deadline_ms: float
) -> dict[str, np.ndarray]:
    """A session's answers, where they are there at `ends`, on `time.monotonic`.

    Args:
        deadline_ms: the whole of the time that was given, of which some is spent: what an error
            says.

    Raises:
        Late: they are not. WrongInput, EngineFailed: as `EngineSession.run`.
    """
    left_ms = (ends - monotonic()) * 1e3
    if left_ms <= 0:
        raise late(deadline_ms)
    try:
        return session.run(inputs, left_ms)
    except Late as error:
        raise late(deadline_ms) from error


class _Bells:
    """What the alarm and its thread share, so that the thread does not keep the alarm alive."""

    def __init__(self) -> None:
        # Reentrant, since the collector may end the alarm while its own thread has the lock.
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.bells: dict[object, tuple[float, Callable[[], None]]] = {}
        self.wakes = math.inf
        self.closed = False
        self.thread: threading.Thread | None = None


class Alarm:
    """Calls a function at its time, from one thread that is begun with the first of them.

    The thread ends when the alarm is closed or no longer used, and at the end of the interpreter.
    """

    def __init__(self) -> None:
        self._renew()

    def _renew(self) -> None:
        self._of = _Bells()
        self._end = weakref.finalize(self, _close, self._of)

    def set(self, ends: float, ring: Callable[[], None]) -> object:
        """Have `ring` called at `ends` of `time.monotonic`; the token takes that back.

        Raises:
            WrongInput: the alarm is closed.
        """
        of, token = self._of, object()
        with of.lock:
            if of.closed:
                raise closed()
            of.bells[token] = ends, ring
            if of.thread is None:
                name = "edgedl deadlines"
                of.thread = threading.Thread(target=_watch, args=(of,), name=name, daemon=True)
                of.thread.start()
            elif ends < of.wakes:
                of.changed.notify()
        return token

    def take_back(self, token: object) -> None:
        """What was set does not ring any more; `ring` has returned where it had begun."""
        of = self._of
        with of.lock:
            of.bells.pop(token, None)

    def close(self) -> None:
        """End the thread; nothing rings any more."""
        self._end()

    def forked(self) -> None:
        """In a forked child there is no thread to wait for."""
        self._end.detach()
        self._renew()


def _watch(of: _Bells) -> None:
    with of.changed:
        while not of.closed:
            now = monotonic()
            for token, (ends, ring) in list(of.bells.items()):
                if ends <= now:
                    del of.bells[token]
                    ring()
            of.wakes = min((ends for ends, _ in of.bells.values()), default=math.inf)
            of.changed.wait(min(of.wakes - now, LONGEST_WAIT_S))


def _close(of: _Bells) -> None:
    with of.changed:
        of.closed = True
        of.changed.notify()
    if of.thread is not None and of.thread is not threading.current_thread():
        of.thread.join()

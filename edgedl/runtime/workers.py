"""Calls of a session that are handed over now and answered later, by a few threads."""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType

import numpy as np

from edgedl.core.errors import BadOption, Busy, WrongInput
from edgedl.core.model import Signature
from edgedl.runtime import forks
from edgedl.runtime.alarm import ends_at, run_until
from edgedl.runtime.session import EngineSession

Answer = dict[str, np.ndarray]


class Job:
    """A call that waits: its inputs, until when, and where its answer goes."""

    __slots__ = ("deadline_ms", "ends", "future", "inputs")

    def __init__(self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None) -> None:
        self.inputs = inputs
        self.deadline_ms = deadline_ms
        self.ends = None if deadline_ms is None else ends_at(deadline_ms)
        self.future: Future[Answer] = Future()


class _Line:
    """What workers and their threads share, so that the threads do not keep the workers alive."""

    def __init__(self, session: EngineSession) -> None:
        self.session = session
        self.changed = threading.Condition()
        self.waiting: deque[Job] = deque()
        self.closed = False
        self.threads: list[threading.Thread] = []
        self.process = os.getpid()


class Workers:
    """Runs a session's calls in threads of its own, in the order in which they were handed over.

    With one thread, calls are answered in that order, too; with several, each begins in it and
    ends when it ends. No more than `most_waiting` wait: one more is refused at once, so that
    whoever asks too much finds out, and memory does not grow.

    The session stays the caller's: closing the workers leaves it open. It may be used beside them.
    All members may be called from any thread. In a forked child all calls are refused in words, and
    futures of before the fork are never answered there. Workers that nobody closed give up what
    waits, and end, with the interpreter or when nothing refers to them any more.

    Args:
        threads: calls that are run at once; OpenVINO needs to be opened for as many (`at_once`).
        most_waiting: calls that may wait beside those that run.

    Raises:
        BadOption: there is no thread, or no place to wait.
    """

    def __init__(self, session: EngineSession, *, threads: int = 1, most_waiting: int = 64) -> None:
        for name, value in (("threads", threads), ("most_waiting", most_waiting)):
            if value < 1:
                raise BadOption(f"`{name}` is {value}", hint=f"{name}=1 is the least")
        self._most = most_waiting
        self._line = line = _Line(session)
        self._end = weakref.finalize(self, _close, line, False)
        self._forked = False
        forks.watch(self)
        for i in range(threads):
            name = f"edgedl worker {i}"
            thread = threading.Thread(target=_work, args=(line,), name=name, daemon=True)
            line.threads.append(thread)
            thread.start()

    @property
    def signature(self) -> Signature:
        """The session's."""
        return self._line.session.signature

    def submit(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> Future[Answer]:
        """The answer to come: what `run` gives, or raises.

        A future that is cancelled before its call begins makes room for another, and the call is
        never run; one that runs cannot be cancelled. Functions given to `add_done_callback` run
        in a worker's thread, and hold it up.

        Args:
            inputs: read when the call's turn comes: leave the arrays as they are until then.
            deadline_ms: milliseconds from now, waiting included. A call whose time has passed when
                its turn comes is not run, and raises Late then.

        Raises:
            Busy: as many calls as may wait are waiting; nothing was handed over.
            WrongInput: the workers are closed, or the deadline is no number.
        """
        if self._forked:
            raise forks.of_another_process()
        job, line = Job(inputs, deadline_ms), self._line
        with line.changed:
            if line.closed:
                raise WrongInput("the workers are closed", hint="make others on the same session")
            if len(line.waiting) >= self._most:
                _drop_cancelled(line)
            if len(line.waiting) >= self._most:
                raise Busy(
                    f"{self._most} calls wait already",
                    hint="try again when one is answered, or raise `most_waiting`",
                )
            line.waiting.append(job)
            line.changed.notify()
        return job.future

    def close(self, *, wait: bool = True) -> None:
        """Take no more calls and end the threads; it returns when the last of them has ended.

        Again is nothing; meanwhile, from another thread, it waits as well. From a worker's own
        thread, as in a function given to `add_done_callback`, it returns at once.

        Args:
            wait: answer the calls that wait. Where False, they are cancelled, and only those that
                run already are answered.
        """
        if not self._forked:
            _close(self._line, wait)
            self._end.detach()

    def forked(self) -> None:
        """In a forked child there are no threads to wait for."""
        self._forked = True
        self._end.detach()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(wait=kind is None)


def _drop_cancelled(line: _Line) -> None:
    kept: deque[Job] = deque()
    for job in line.waiting:
        if job.future.cancelled():
            job.future.set_running_or_notify_cancel()
        else:
            kept.append(job)
    line.waiting = kept


def _work(line: _Line) -> None:
    while True:
        with line.changed:
            while not line.waiting and not line.closed:
                line.changed.wait()
            if not line.waiting:
                return
            job = line.waiting.popleft()
        if job.future.set_running_or_notify_cancel():
            _answer(line.session, job)
        del job


def _answer(session: EngineSession, job: Job) -> None:
    try:
        if job.ends is None or job.deadline_ms is None:
            answer = session.run(job.inputs)
        else:
            answer = run_until(session, job.inputs, ends=job.ends, deadline_ms=job.deadline_ms)
    except BaseException as error:
        job.future.set_exception(error)
    else:
        job.future.set_result(answer)


def _close(line: _Line, wait: bool) -> None:
    given_up: list[Job] = []
    with line.changed:
        line.closed = True
        if not wait:
            given_up = list(line.waiting)
            line.waiting.clear()
        line.changed.notify_all()
    for job in given_up:
        job.future.cancel()
        job.future.set_running_or_notify_cancel()
    if threading.current_thread() in line.threads:
        return  # two of them would wait for one another
    for thread in line.threads:
        thread.join()

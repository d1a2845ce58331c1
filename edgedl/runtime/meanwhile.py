"""One session that answers while another one is made ready, and gives way to it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgedl.core.errors import EngineFailed
from edgedl.core.model import Signature, Tensor
from edgedl.runtime import forks
from edgedl.runtime.session import Closing, EngineSession, closed


@dataclass(eq=False)
class _Seat:
    """A session, how many runs are in it now, and whether it goes when the last of them ends."""

    session: EngineSession
    runs: int = 0
    retired: bool = False


def _nothing() -> None:
    """Nothing is to be told, or ended."""


class Meanwhile(Closing):
    """Answers with `first` until `later` is done, and with what that gives from then on.

    Each run is answered by one of them alone. The first session is closed as soon as no run is in
    it any more. Where the other never comes, the first one goes on, and `problem` says why.

    Args:
        first: answers at once; it belongs to this session now.
        later: what makes the other; so does what it gives.
        switched: called once the other one answers.
        cancel: ends the making, where this session is closed before.
    """

    def __init__(
        self,
        first: EngineSession,
        later: Future[EngineSession],
        *,
        switched: Callable[[], None] = _nothing,
        cancel: Callable[[], None] = _nothing,
    ) -> None:
        self.signature = first.signature
        self.problem: BaseException | None = None
        self.origins: tuple[Any, Any] = (None, None)
        self._seat: _Seat | None = _Seat(first)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ready = False
        self._switched, self._cancel, self._later = switched, cancel, later
        forks.watch(self)
        later.add_done_callback(self._arrived)

    @property
    def ready(self) -> bool:
        """Whether the other one answers now."""
        return self._ready

    @property
    def opened(self) -> Any:
        """How the one that answers now came about, of the two `origins`."""
        return self.origins[self._ready]

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the other one answers, or never will; whether it answers."""
        self._over.wait(timeout_seconds)
        return self._ready

    def run(
        self, inputs: Mapping[str, np.ndarray], deadline_ms: float | None = None
    ) -> dict[str, np.ndarray]:
        """`EngineSession.run` of the one that answers now."""
        with self._sitting() as session:
            return session.run(inputs, deadline_ms)

    def run_into(
        self,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        deadline_ms: float | None = None,
    ) -> None:
        """`EngineSession.run_into` of the one that answers now."""
        with self._sitting() as session:
            session.run_into(inputs, outputs, deadline_ms)

    @contextlib.contextmanager
    def _sitting(self) -> Iterator[EngineSession]:
        """The one that answers now, which is not closed meanwhile."""
        with self._lock:
            seat = self._seat
            if seat is None:
                raise closed()
            seat.runs += 1
        try:
            yield seat.session
        finally:
            with self._lock:
                seat.runs -= 1
                empty = seat.retired and not seat.runs
            if empty:
                seat.session.close()

    def forked(self) -> None:
        """A forked child has no thread that could hold the lock; its sessions refuse by
        themselves."""
        self._lock = threading.Lock()

    def _retire(self, seat: _Seat | None) -> EngineSession | None:
        """What is to be closed now, since no run is in it; the lock is held."""
        if seat is None:
            return None
        seat.retired = True
        return None if seat.runs else seat.session

    def _arrived(self, later: Future[EngineSession]) -> None:
        try:
            self._take(later)
        finally:
            self._over.set()
        if self._ready:
            self._switched()

    def _take(self, later: Future[EngineSession]) -> None:
        if later.cancelled():
            self.problem = EngineFailed("the other engine was cancelled")
            return
        self.problem = later.exception()
        if self.problem is not None:
            return
        session = later.result()
        wrong = _unlike(self.signature, session.signature)
        with self._lock:
            if wrong or self._seat is None:
                leaving: EngineSession | None = session
            else:
                leaving = self._retire(self._seat)
                self._seat = _Seat(session)
                self._ready = True
        if wrong:
            self.problem = EngineFailed(f"the other engine's model is another one: {wrong}")
        if leaving is not None:
            leaving.close()

    def close(self) -> None:
        """Close the one that answers, as soon as no run is in it, and end the making of the
        other."""
        with self._lock:
            leaving = self._retire(self._seat)
            self._seat = None
        self._cancel()
        self._later.cancel()
        if leaving is not None:
            leaving.close()


def _unlike(one: Signature, other: Signature) -> str:
    """What the second signature has else; empty where both take and give the same."""
    for mine, theirs in ((one.inputs, other.inputs), (one.outputs, other.outputs)):
        if {tensor.name for tensor in mine} != {tensor.name for tensor in theirs}:
            return f"{_names(theirs)} for {_names(mine)}"
        known = {tensor.name: tensor for tensor in theirs}
        for tensor in mine:
            if tensor.dtype != known[tensor.name].dtype:
                return f"`{tensor.name}` is {known[tensor.name].dtype} for {tensor.dtype}"
    return ""


def _names(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"`{tensor.name}`" for tensor in tensors)

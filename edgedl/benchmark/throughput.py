"""Samples a second with batches and parallel streams: a mode of its own, no latency turned over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from threading import Barrier
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, quiet, warm_up
from edgedl.core.errors import EdgeError
from edgedl.core.model import Signature
from edgedl.runtime.session import Session

BATCHED_FEEDS = 4


@dataclass(frozen=True)
class Rate:
    """Samples a second at one batch size and number of streams; None with the problem in words."""

    batch: int
    streams: int
    per_s: float | None
    samples: int
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def throughput(
    open_session: Callable[[], Session],
    feeds: Sequence[Feed],
    *,
    batches: Sequence[int] = (1, 4, 16),
    streams: Sequence[int] = (1, 2),
    seconds: float = 2.0,
    clock: Clock = perf_counter_ns,
) -> list[Rate]:
    """One row for every batch size and number of streams, each timed for about `seconds`.

    A stream is a thread with a session of its own; all start together and call without pause.
    Samples whose call ended within the time count, up to the last such end of any stream. A row
    that cannot be had, since the batch is fixed or the engine fails, says why; the others stand.
    """
    return [
        _row(open_session, feeds, batch, count, round(seconds * 1e9), clock)
        for batch in batches
        for count in streams
    ]


def _row(
    open_session: Callable[[], Session],
    feeds: Sequence[Feed],
    batch: int,
    streams: int,
    window_ns: int,
    clock: Clock,
) -> Rate:
    try:
        with ExitStack() as stack, quiet():
            sessions = [stack.enter_context(open_session()) for _ in range(streams)]
            problem = _unbatchable(sessions[0].signature, feeds) if batch > 1 else None
            if problem is not None:
                return Rate(batch, streams, None, 0, problem)
            grouped = _batched(sessions[0].signature, feeds, batch) if batch > 1 else feeds
            for session in sessions:
                warm_up(session, grouped, clock)
            calls, spent_ns = _together(sessions, grouped, window_ns, clock)
    except EdgeError as error:
        return Rate(batch, streams, None, 0, str(error))
    if not calls:
        return Rate(
            batch,
            streams,
            None,
            0,
            f"no call ended within {window_ns / 1e9:g} s; give more --seconds",
        )
    return Rate(batch, streams, calls * batch / (spent_ns / 1e9), calls * batch)


def _unbatchable(signature: Signature, feeds: Sequence[Feed]) -> str | None:
    """Why samples cannot be put into one call, or None."""
    for tensor in signature.inputs:
        first = tensor.shape[0] if tensor.shape else None
        if isinstance(first, int):
            return (
                f"the batch axis of `{tensor.name}` is fixed at {first};"
                " export with a dynamic batch"
            )
        if len({feed[tensor.name].shape[1:] for feed in feeds}) > 1:
            return f"samples of `{tensor.name}` differ in shape; a batch needs equal ones"
    return None


def _batched(signature: Signature, feeds: Sequence[Feed], batch: int) -> list[Feed]:
    """Some feeds of `batch` samples each, in turn; a scalar input has no batch axis and stays."""
    turn = cycle(feeds)
    groups = [list(islice(turn, batch)) for _ in range(BATCHED_FEEDS)]
    return [
        {
            t.name: group[0][t.name]
            if t.shape == ()
            else np.concatenate([feed[t.name] for feed in group])
            for t in signature.inputs
        }
        for group in groups
    ]


def _together(
    sessions: Sequence[Session], feeds: Sequence[Feed], window_ns: int, clock: Clock
) -> tuple[int, int]:
    """How many calls ended within the window, and nanoseconds from its start to the last end."""
    began: list[int] = []
    barrier = Barrier(len(sessions), action=lambda: began.append(clock()))

    def stream(session: Session) -> tuple[int, int]:
        run, turn = session.run, cycle(feeds)
        calls, last = 0, 0
        barrier.wait()
        while True:
            run(next(turn))
            spent = clock() - began[0]
            if spent > window_ns:
                return calls, last
            calls, last = calls + 1, spent

    with ThreadPoolExecutor(len(sessions)) as pool:
        done = [future.result() for future in [pool.submit(stream, s) for s in sessions]]
    return sum(calls for calls, _ in done), max(last for _, last in done)

"""Time one session's calls."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns

import numpy as np

from edgedl.core.stats import percentiles
from edgedl.runtime.session import Session

Clock = Callable[[], int]
Feed = Mapping[str, np.ndarray]

WARM_WINDOW_NS = 50_000_000
WARM_TOLERANCE = 0.02
WARM_CAP_NS = 2_000_000_000


@dataclass(frozen=True)
class Measurement:
    """Every raw sample of one session's calls, in nanoseconds, and the warm-up apart from them.

    `steady` is False where the warm-up's cap was reached before two windows agreed.
    """

    samples_ns: np.ndarray
    warm_up_ns: np.ndarray
    steady: bool

    def latency_ms(self) -> dict[str, float | int | None]:
        """min, p50, p90, p99, mean in milliseconds, and the number of samples."""
        return percentiles(self.samples_ns / 1e6)


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection inside."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def warm_up(
    session: Session, feeds: Sequence[Feed], clock: Clock = perf_counter_ns
) -> tuple[np.ndarray, bool]:
    """Run until the medians of two windows of 50 ms agree to 2 %, or for 2 s.

    Returns:
        The calls' times in nanoseconds, int64 of shape [calls], and whether it became steady.
    """
    times: list[int] = []
    previous: float | None = None
    turn = cycle(feeds)
    began = clock()
    while clock() - began < WARM_CAP_NS:
        window = timed(session, turn, WARM_WINDOW_NS, clock)
        times.extend(window)
        median = float(np.median(window))
        if previous is not None and abs(median - previous) <= WARM_TOLERANCE * previous:
            return np.asarray(times), True
        previous = median
    return np.asarray(times), False


def timed(
    session: Session, feeds: Iterator[Feed], at_least_ns: int, clock: Clock = perf_counter_ns
) -> list[int]:
    """Times of single calls in nanoseconds, one at least, until they sum up to `at_least_ns`."""
    run = session.run
    times: list[int] = []
    total = 0
    while total < at_least_ns:
        feed = next(feeds)
        start = clock()
        run(feed)
        end = clock()
        times.append(end - start)
        total += end - start
    return times


def measure(
    session: Session,
    feeds: Sequence[Feed],
    *,
    seconds: float = 2.0,
    clock: Clock = perf_counter_ns,
) -> Measurement:
    """Warm up, then time single calls for about `seconds`, the inputs in rotation."""
    with quiet():
        before, steady = warm_up(session, feeds, clock)
        times = timed(session, cycle(feeds), round(seconds * 1e9), clock)
    return Measurement(np.asarray(times), before, steady)

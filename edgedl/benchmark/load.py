"""Latency under an offered load: requests that come when they come, whether or not there is time.

Calls made one after another wait for a slow answer before the next one is sent, and so leave out
the very requests that would have queued (coordinated omission: Tene, How NOT to Measure Latency,
2013). Here arrivals are laid out in advance and do not heed the answers (an open system: Schroeder,
Wierman and Harchol-Balter, Open Versus Closed: A Cautionary Tale, NSDI 2006).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from time import perf_counter_ns, sleep
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, quiet, warm_up
from edgedl.core.errors import BadOption
from edgedl.core.stats import FLOORS, percentiles
from edgedl.runtime.session import Session

Wait = Callable[[int], None]

SPIN_NS = 1_000_000
GIVE_UP_SHARE = 0.25
KEPT_SHARE = 0.98
GROWING_SERVICES = 5
# Poisson counts scatter by their root: with four of them to spare, p99's floor is met.
POINT_SAMPLES = FLOORS["p99"] + math.ceil(4.2 * FLOORS["p99"] ** 0.5)
FIRST_SHARE = 0.5
LOWEST_SHARE = 1 / 32
CLOSE_ENOUGH = 1.05


@dataclass(frozen=True)
class LoadPoint:
    """Latencies at one offered rate, each counted from when its request was due.

    Attributes:
        achieved_per_s: requests answered a second, over the run.
        p50_ms: as p90 and p99, None below the floors of `core.stats`.
        kept: False where the answers fell behind the requests: the run was given up, the rate
            stayed below 98 % of the offered one, or the queue was still growing at the end.
    """

    rate_per_s: float
    achieved_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    samples: int
    kept: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class HighestRate:
    """The highest rate within a limit, and every point on the way there.

    `reason` says why there is none (`rate_per_s` None), or why it may lie higher.
    """

    points: tuple[LoadPoint, ...]
    rate_per_s: float | None
    reason: str | None

    def to_json(self) -> dict[str, Any]:
        points = [point.to_json() for point in self.points]
        return {"points": points, "rate_per_s": self.rate_per_s, "reason": self.reason}


def wait_until(due_ns: int) -> None:
    """Sleep until 1 ms before `due_ns` of `perf_counter_ns`, then spin, since sleep is late."""
    ahead = due_ns - perf_counter_ns() - SPIN_NS
    if ahead > 0:
        sleep(ahead / 1e9)
    while perf_counter_ns() < due_ns:
        pass


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int) -> np.ndarray:
    """Nanoseconds after the start at which requests fall due within `seconds`, int64, in order.

    The gaps are exponential; those of two rates with one seed differ by a factor only.
    """
    mean = rate_per_s * seconds
    count = math.ceil(mean + 8 * mean**0.5 + 16)
    gaps = np.random.default_rng(seed).exponential(1.0, count)
    due = np.cumsum(gaps) * (1e9 / rate_per_s)
    return due[due < seconds * 1e9].astype(np.int64)


def serve(
    session: Session,
    feeds: Sequence[Feed],
    due_ns: np.ndarray,
    give_up_ns: int,
    *,
    clock: Clock = perf_counter_ns,
    wait: Wait = wait_until,
) -> tuple[np.ndarray, np.ndarray]:
    """Answer requests first come, first served, each when it is due or as soon as there is time.

    One server takes one request at a time, so that a loop is the whole queue: a request begins at
    the later of its due time and the end of the one before (Lindley, The theory of queues with a
    single server, 1952).

    Returns:
        The start and the end of each answer, in nanoseconds after the begin, as int64; fewer than
        `due_ns` where a request was late by more than `give_up_ns`, which ends the run.
    """
    run = session.run
    starts: list[int] = []
    ends: list[int] = []
    begin = clock()
    for due, feed in zip(due_ns.tolist(), cycle(feeds), strict=False):
        start = clock() - begin
        if start < due:
            wait(begin + due)
            start = clock() - begin
        elif start - due > give_up_ns:
            break
        run(feed)
        ends.append(clock() - begin)
        starts.append(start)
    return np.asarray(starts, np.int64), np.asarray(ends, np.int64)


def offered_load(
    session: Session,
    feeds: Sequence[Feed],
    rate_per_s: float,
    *,
    seconds: float = 10.0,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    wait: Wait = wait_until,
) -> LoadPoint:
    """Warm up, then answer Poisson arrivals at this rate for about `seconds`.

    A run in which a request is late by more than a quarter of `seconds` ends there.

    Raises:
        BadOption: the rate or the time is not positive, or no request falls due.
    """
    if not rate_per_s > 0 or not seconds > 0:
        raise BadOption(
            f"{rate_per_s:g} requests a second for {seconds:g} s is no load",
            hint="give a rate and a time above 0",
        )
    with quiet():
        warm_up(session, feeds, clock)
        return _point(session, feeds, rate_per_s, seconds, seed, clock, wait)


def _point(
    session: Session,
    feeds: Sequence[Feed],
    rate_per_s: float,
    seconds: float,
    seed: int,
    clock: Clock,
    wait: Wait,
) -> LoadPoint:
    due = poisson_arrivals(rate_per_s, seconds, seed)
    if not len(due):
        raise BadOption(
            f"at {rate_per_s:g} requests a second none falls due within {seconds:g} s",
            hint=f"give {20 / rate_per_s:.3g} s or more",
        )
    window_ns = round(seconds * 1e9)
    give_up_ns = round(GIVE_UP_SHARE * window_ns)
    starts, ends = serve(session, feeds, due, give_up_ns, clock=clock, wait=wait)
    given_up = len(ends) < len(due)
    row = percentiles((ends - due[: len(ends)]) / 1e6)
    elapsed_ns = int(ends[-1]) if given_up else max(int(ends[-1]), window_ns)
    return LoadPoint(
        rate_per_s=rate_per_s,
        achieved_per_s=len(ends) / (elapsed_ns / 1e9),
        p50_ms=row["p50"],
        p90_ms=row["p90"],
        p99_ms=row["p99"],
        samples=len(ends),
        kept=not given_up and _keeps_up(due, starts, ends, window_ns),
    )


def _keeps_up(due: np.ndarray, starts: np.ndarray, ends: np.ndarray, window_ns: int) -> bool:
    """Whether the queue was empty soon after the last arrival, and did not grow all along.

    What came within the window is answered within 1/98 % of it, the last answer's own time aside.
    """
    service_ns = float(np.median(ends - starts))
    if ends[-1] - service_ns > window_ns / KEPT_SHARE:
        return False
    if len(due) < FLOORS["p90"]:
        return True
    waits = [float(np.median(quarter)) for quarter in np.array_split(starts - due, 4)]
    rising = waits[0] < waits[1] < waits[2] < waits[3]
    return not (rising and waits[3] > 2 * waits[1] and waits[3] > GROWING_SERVICES * service_ns)


def highest_rate(
    session: Session,
    feeds: Sequence[Feed],
    p99_limit_ms: float,
    *,
    seconds: float = 60.0,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    wait: Wait = wait_until,
) -> HighestRate:
    """The highest rate that is kept with a p99 within the limit, to 5 %.

    It starts at half the closed-loop rate, doubles or halves until one rate holds and one fails,
    then bisects between them on a logarithmic scale. Every point has 662 samples or more and the
    same arrivals but for their scale; no point begins that could end beyond `seconds`.

    Raises:
        BadOption: the limit or the time is not positive.
    """
    if not p99_limit_ms > 0 or not seconds > 0:
        raise BadOption(
            f"a p99 of {p99_limit_ms:g} ms within {seconds:g} s cannot be looked for",
            hint="give a limit and a time above 0",
        )
    began = clock()
    points: list[LoadPoint] = []
    with quiet():
        times, _ = warm_up(session, feeds, clock)
        closed_per_s = 1e9 / float(np.median(times))
        if 1e3 / closed_per_s > p99_limit_ms:
            call = f"one call alone takes {1e3 / closed_per_s:.3g} ms"
            return HighestRate((), None, f"{call}, the limit is {p99_limit_ms:g} ms")
        low = high = None
        rate = FIRST_SHARE * closed_per_s
        reason = None
        while rate >= LOWEST_SHARE * closed_per_s:
            window = POINT_SAMPLES / rate
            longest = (1 + GIVE_UP_SHARE) * window
            if (clock() - began) / 1e9 + longest > seconds:
                reason = f"the next point, {rate:.3g}/s, needs {longest:.3g} s, more than is left"
                break
            point = _point(session, feeds, rate, window, seed, clock, wait)
            points.append(point)
            if point.kept and point.p99_ms is not None and point.p99_ms <= p99_limit_ms:
                low = rate
            else:
                high = rate
            if low is not None and high is not None and high / low <= CLOSE_ENOUGH:
                break
            rate = _next(low, high)
    if low is None and reason is None:
        reason = f"even {points[-1].rate_per_s:.3g}/s {_failure(points[-1], p99_limit_ms)}"
    return HighestRate(tuple(points), low, reason)


def _next(low: float | None, high: float | None) -> float:
    if low is None:
        assert high is not None
        return high / 2
    return 2 * low if high is None else math.sqrt(low * high)


def _failure(point: LoadPoint, limit_ms: float) -> str:
    if not point.kept or point.p99_ms is None:
        return "is not kept up with"
    return f"has a p99 of {point.p99_ms:.3g} ms, the limit is {limit_ms:g} ms"

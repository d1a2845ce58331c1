"""Queues worked out by hand, on a clock that only waiting and answering move."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import pytest

from edgedl.benchmark.load import (
    POINT_SAMPLES,
    _keeps_up,
    highest_rate,
    offered_load,
    poisson_arrivals,
    serve,
)
from edgedl.core.errors import BadOption
from edgedl.core.model import Signature
from edgedl.core.stats import FLOORS

MS = 1_000_000
FEEDS: list[dict[str, np.ndarray]] = [{}]


class Server:
    """A session on a clock of its own, whose answer to call `i` takes `service_ns(i)`."""

    def __init__(self, service_ns: Callable[[int], int]) -> None:
        self.signature = Signature((), ())
        self.service_ns = service_ns
        self.now = 5 * MS
        self.calls = 0

    def clock(self) -> int:
        return self.now

    def wait(self, due_ns: int) -> None:
        assert due_ns > self.now, "nobody waits for what is past"
        self.now = due_ns

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.now += self.service_ns(self.calls)
        self.calls += 1
        return {}

    def close(self) -> None: ...

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...


def steady(service_ms: float) -> Server:
    return Server(lambda _: round(service_ms * MS))


def latencies_ms(server: Server, due_ms: list[float], give_up_ms: float = 1e6) -> list[float]:
    due = np.asarray([round(t * MS) for t in due_ms], np.int64)
    _, ends = serve(
        server, FEEDS, due, round(give_up_ms * MS), clock=server.clock, wait=server.wait
    )
    return [float(value) for value in (ends - due[: len(ends)]) / MS]


def test_three_arrivals_by_hand() -> None:
    # Served from 1 to 5, from 5 to 9 (2 was due 3 ms earlier), and from 20 to 24.
    assert latencies_ms(steady(4), [1, 2, 20]) == [4, 7, 4]


def test_a_server_that_is_fast_enough_adds_nothing() -> None:
    assert latencies_ms(steady(2), [2, 4, 6]) == [2, 2, 2]


def test_a_stall_shows_in_every_request_that_was_due_meanwhile() -> None:
    server = Server(lambda call: 100 * MS if call == 2 else MS)
    found = latencies_ms(server, [10.0 * i for i in range(1, 15)])
    # The third, due at 30, ends at 130; those due at 40 ... 120 follow it a millisecond apart.
    queued = [131 + i - (40 + 10 * i) for i in range(11)]
    assert found == [1, 1, 100, *queued]
    assert found[3] == 91
    assert found[13] == 1


def test_a_hopeless_queue_is_given_up() -> None:
    # Request i ends at 10 + 10 i, its lateness grows by 9 ms a request: 45 ms at the sixth.
    assert len(latencies_ms(steady(10), [1.0 + i for i in range(50)], give_up_ms=40)) == 5


def test_feeds_come_in_turn() -> None:
    server, seen = steady(1), []
    server.run = lambda inputs: seen.append(int(inputs["x"])) or {}  # type: ignore[method-assign]
    feeds = [{"x": np.array(i)} for i in range(2)]
    due = np.arange(1, 6, dtype=np.int64)
    serve(server, feeds, due, 10, clock=server.clock, wait=server.wait)
    assert seen == [0, 1, 0, 1, 0]


def test_arrivals_are_poisson() -> None:
    due = poisson_arrivals(1000, 50, 0)
    gaps = np.diff(due) / 1e9
    assert due.dtype == np.int64
    assert (gaps >= 0).all()
    assert due[-1] < 50e9
    assert len(due) == pytest.approx(50_000, abs=4 * 50_000**0.5)
    assert gaps.mean() == pytest.approx(1e-3, rel=0.02)
    assert gaps.std() == pytest.approx(1e-3, rel=0.02)
    assert np.mean(gaps > 1e-3) == pytest.approx(np.exp(-1), abs=0.01)


def test_arrivals_of_another_rate_are_the_same_but_for_their_scale() -> None:
    slow, fast = poisson_arrivals(10, 20, 3), poisson_arrivals(40, 5, 3)
    assert len(slow) == len(fast)
    assert np.allclose(slow, 4 * fast, atol=8)
    assert not np.array_equal(slow, poisson_arrivals(10, 20, 4))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_pollaczek_and_khinchines(load: float) -> None:
    # Constant service S: the mean wait in the queue is load S / (2 (1 - load)).
    server, service_ms = steady(1), 1.0
    due = poisson_arrivals(1000 * load, 200, 7)
    starts, _ = serve(server, FEEDS, due, 10**15, clock=server.clock, wait=server.wait)
    wanted = load * service_ms / (2 * (1 - load))
    assert float(np.mean(starts - due)) / MS == pytest.approx(wanted, rel=0.06)


def test_a_light_load_is_kept() -> None:
    server = steady(2)
    point = offered_load(
        server, FEEDS, 100, seconds=20, seed=1, clock=server.clock, wait=server.wait
    )
    assert point.kept
    assert point.achieved_per_s == pytest.approx(100, rel=0.06)
    assert point.samples == len(poisson_arrivals(100, 20, 1))
    assert point.p50_ms is not None
    assert point.p99_ms is not None
    assert 2 <= point.p50_ms < 2.5 < point.p99_ms
    assert point.to_json()["kept"] is True


def test_the_latency_holds_what_a_closed_loop_would_hide() -> None:
    # One stall of 500 ms in 10 s: calls in turn see it once, 100 requests a second 50 times.
    server = Server(lambda call: 500 * MS if call == 1000 else MS)
    point = offered_load(
        server, FEEDS, 100, seconds=10, seed=0, clock=server.clock, wait=server.wait
    )
    assert point.kept
    assert point.p50_ms == pytest.approx(1)
    assert point.p99_ms is not None
    assert point.p99_ms > 300


def test_saturation_ends_early_and_says_so() -> None:
    server = steady(10)
    began = server.now
    point = offered_load(
        server, FEEDS, 200, seconds=4, seed=0, clock=server.clock, wait=server.wait
    )
    assert not point.kept
    assert point.achieved_per_s == pytest.approx(100, rel=0.03)
    # Late by t / 2 after t seconds: a quarter of the time is reached after 2 s.
    assert point.samples == pytest.approx(200, rel=0.15)
    assert server.now - began < 5e9


def test_a_queue_that_still_grows_is_not_kept() -> None:
    server = steady(10)
    point = offered_load(
        server, FEEDS, 115, seconds=20, seed=0, clock=server.clock, wait=server.wait
    )
    assert not point.kept
    assert point.samples == len(poisson_arrivals(115, 20, 0))


@pytest.mark.parametrize(
    ("service_ms", "kept"),
    [
        (9.9, True),
        (10.0, True),
        (10.15, False),  # done at 101.5 % of the window, 7.6 services late in its third quarter
        (10.3, False),  # done at 103 % of the window
    ],
)
def test_requests_every_10_ms_need_answers_within_10_ms(service_ms: float, kept: bool) -> None:
    server = steady(service_ms)
    due = np.arange(1, 1001, dtype=np.int64) * 10 * MS
    starts, ends = serve(server, FEEDS, due, 10**12, clock=server.clock, wait=server.wait)
    assert _keeps_up(due, starts, ends, 10_000 * MS) == kept


def test_what_is_answered_late_at_the_end_is_not_kept() -> None:
    server = Server(lambda call: 500 * MS if call == 990 else 5 * MS)
    due = np.arange(1, 1001, dtype=np.int64) * 10 * MS
    starts, ends = serve(server, FEEDS, due, 10**12, clock=server.clock, wait=server.wait)
    assert ends[-1] == (9910 + 500 + 9 * 5) * MS
    assert not _keeps_up(due, starts, ends, 10_000 * MS)


def test_a_stall_that_was_made_up_for_is_no_growing_queue() -> None:
    server = Server(lambda call: 100 * MS if call == 800 else 5 * MS)
    due = np.arange(1, 1001, dtype=np.int64) * 10 * MS
    starts, ends = serve(server, FEEDS, due, 10**12, clock=server.clock, wait=server.wait)
    assert _keeps_up(due, starts, ends, 10_000 * MS)


def test_few_samples_make_no_percentile() -> None:
    server = steady(1)
    point = offered_load(server, FEEDS, 20, seconds=1, seed=0, clock=server.clock, wait=server.wait)
    assert FLOORS["p50"] <= point.samples < FLOORS["p90"]
    assert point.p50_ms == pytest.approx(1, abs=0.5)
    assert (point.p90_ms, point.p99_ms) == (None, None)


@pytest.mark.parametrize(("rate", "seconds"), [(0, 1), (-1, 1), (10, 0), (float("nan"), 1)])
def test_no_load_is_an_error(rate: float, seconds: float) -> None:
    with pytest.raises(BadOption, match="no load"):
        offered_load(steady(1), FEEDS, rate, seconds=seconds)


def test_a_rate_too_low_for_the_time_is_an_error() -> None:
    server = steady(1)
    with pytest.raises(BadOption, match="none falls due"):
        offered_load(server, FEEDS, 1e-6, seconds=1, clock=server.clock, wait=server.wait)


def found(server: Server, limit_ms: float, seconds: float = 600):
    return highest_rate(
        server, FEEDS, limit_ms, seconds=seconds, clock=server.clock, wait=server.wait
    )


def test_the_highest_rate_is_where_the_limit_begins_to_break() -> None:
    server = steady(1)
    began = server.now
    best = found(server, 3.0)
    assert best.reason is None
    assert best.rate_per_s is not None
    # At load 0.5 the p99 of M/D/1 is about 3 services, at 0.9 it is about 20.
    assert 400 < best.rate_per_s < 700
    for point in best.points:
        within = point.kept and point.p99_ms is not None and point.p99_ms <= 3
        assert within == (point.rate_per_s <= best.rate_per_s)
        assert point.samples >= FLOORS["p99"]
    failed = min(p.rate_per_s for p in best.points if p.rate_per_s > best.rate_per_s)
    assert failed / best.rate_per_s <= 1.05
    # Doubling brackets the rate by 2, and five halvings of log 2 come below log 1.05.
    assert len(best.points) <= 7
    assert server.now - began < 600e9
    assert best.to_json()["rate_per_s"] == best.rate_per_s


def test_a_longer_limit_allows_a_higher_rate() -> None:
    rates = [found(steady(1), limit).rate_per_s for limit in (2.5, 4, 10)]
    assert all(rate is not None for rate in rates)
    assert all(a < b for a, b in pairwise(rates))  # type: ignore[operator]
    assert rates[-1] < 1000  # type: ignore[operator]


def test_a_limit_below_one_call_has_no_rate() -> None:
    best = found(steady(4), 3.0)
    assert (best.points, best.rate_per_s) == ((), None)
    assert best.reason == "one call alone takes 4 ms, the limit is 3 ms"


def test_where_even_the_lowest_rate_fails_it_says_so() -> None:
    server = Server(lambda call: 50 * MS if call % 50 == 0 else MS)
    best = found(server, 20.0)
    assert best.rate_per_s is None
    assert [b.rate_per_s / a.rate_per_s for a, b in pairwise(best.points)] == [0.5] * 4
    assert best.reason is not None
    assert best.reason.startswith("even 31.2/s has a p99 of 50 ms")


def test_the_time_given_bounds_the_search() -> None:
    server = steady(10)
    began = server.now
    best = found(server, 1000.0, seconds=30)
    assert len(best.points) == 2
    assert best.rate_per_s == pytest.approx(50)
    assert best.reason is not None
    assert "needs" in best.reason
    assert server.now - began <= 30e9
    none = found(steady(10), 1000.0, seconds=POINT_SAMPLES / 50)
    assert (none.points, none.rate_per_s) == ((), None)
    assert none.reason is not None


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1), (1, 0), (float("nan"), 1)])
def test_no_limit_is_an_error(limit: float, seconds: float) -> None:
    with pytest.raises(BadOption, match="cannot be looked for"):
        found(steady(1), limit, seconds)

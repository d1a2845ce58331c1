"""Rounds and ratios, on a clock that only the sessions move."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgedl.benchmark.compare import LEAST_FLOOR, Comparison, compare, verdicts
from edgedl.benchmark.rounds import TWIN, YARDSTICK, Rounds, run_rounds
from edgedl.core.stats import Interval
from tests.benchmark.clockwork import Clock, Timed

FEEDS: list[dict[str, np.ndarray]] = [{}, {}]
MS = 1_000_000


def rounds(**by_name: Sequence[float]) -> Rounds:
    """A process in which both turns of a round took the same time, given in nanoseconds."""
    arrays = {name: np.asarray(times, float) for name, times in by_name.items()}
    counts = {name: times.astype(np.int64) for name, times in arrays.items()}
    return Rounds(counts, counts, dict.fromkeys(arrays, True), arrays, arrays)


def test_a_ratio_is_that_of_the_known_times() -> None:
    clock = Clock()
    sessions = {"slow": Timed(clock, 3 * MS), "fast": Timed(clock, 2 * MS)}
    found = compare(sessions, FEEDS, seconds=1, clock=clock)
    ratio = found.ratio("slow", "fast")
    assert ratio.ratio == pytest.approx(1.5, rel=1e-6)
    assert ratio.low == pytest.approx(ratio.high, rel=1e-6)
    assert found.noise_floor == LEAST_FLOOR
    assert found.unsteady == ()
    assert found.names == ("slow", "fast")
    assert found.measurements["fast"].latency_ms()["p50"] == pytest.approx(2, rel=1e-6)


def test_every_round_goes_forth_and_back_through_all() -> None:
    clock, seen = Clock(), []
    sessions = {name: Timed(clock, MS) for name in "abc"}
    found = run_rounds(
        sessions, FEEDS, seconds=0.2, least_rounds=4, clock=clock, seed=3, on_turn=seen.append
    )
    turns = seen[3:]  # the first three are warm-ups
    assert len(turns) % 6 == 0
    for start in range(0, len(turns), 6):
        forth, back = turns[start : start + 3], turns[start + 3 : start + 6]
        assert sorted(forth) == ["a", "b", "c"]
        assert back == forth[::-1]
    assert len({tuple(turns[i : i + 3]) for i in range(0, len(turns), 6)}) > 1
    assert len(found.forth_ns["a"]) == len(turns) // 6 >= 4


def test_rounds_end_with_the_time_or_with_certainty() -> None:
    clock = Clock()
    sessions = {"a": Timed(clock, MS), "b": Timed(clock, MS)}
    run_rounds(sessions, FEEDS, seconds=2, least_rounds=4, clock=clock)
    whole = clock.now_ns
    assert 2e9 < whole < 2.6e9
    run_rounds(sessions, FEEDS, seconds=2, least_rounds=4, clock=clock, precision=0.01)
    assert clock.now_ns - whole < 1.5e9


def test_a_session_that_never_settles_is_said() -> None:
    clock = Clock()
    wild = Timed(clock, *(MS * 2**k for k in range(8)), 500 * MS)
    found = compare({"a": wild, "b": Timed(clock, MS)}, FEEDS, seconds=0.5, clock=clock)
    assert found.unsteady == ("a",)


def test_the_twin_and_the_yardstick_are_no_contestants() -> None:
    one = rounds(a=[10, 10, 10], b=[5, 5, 5], **{TWIN: [10, 10, 10], YARDSTICK: [2, 2, 2]})
    found = Comparison((one, one, one))
    assert found.names == ("a", "b")
    assert set(found.measurements) == {"a", "b"}
    assert found.against_yardstick("a") == (5.0, 5.0, 5.0)
    assert found.round_medians_ms("b") == [[5e-6] * 3] * 3


def test_the_noise_floor_is_how_far_the_twin_may_lie() -> None:
    processes = tuple(
        rounds(a=[100] * 5, b=[50] * 5, **{TWIN: [twin] * 5}) for twin in (100, 102, 104)
    )
    floor = Comparison(processes).noise_floor
    logs = np.log([1.0, 1.02, 1.04])
    half = 4.302653 * logs.std(ddof=1) / np.sqrt(3)  # t of 97.5 % with 2 degrees of freedom
    assert floor == pytest.approx(1 - np.exp(-logs.mean() - half), rel=1e-4)


def test_processes_that_disagree_widen_the_interval() -> None:
    agree = Comparison(tuple(rounds(a=[100] * 9, b=[50] * 9) for _ in range(3)))
    differ = Comparison(tuple(rounds(a=[100] * 9, b=[b] * 9) for b in (48, 50, 52)))
    assert agree.ratio("a", "b") == Interval(2.0, 2.0, 2.0, 2)
    assert differ.ratio("a", "b").width > 0.1


def test_one_of_many_must_clear_more_than_one_alone() -> None:
    weak = Interval(1.05, 1.02, 1.08, 9)
    alone = verdicts([weak], 0.01)
    assert alone[0][0] == "faster" == weak.verdict(0.01)
    among = verdicts([weak, *[Interval(1.0, 0.97, 1.03, 9)] * 9], 0.01)
    assert among[0][0] == "inconclusive"
    assert among[0][1] == pytest.approx(10 * alone[0][1])

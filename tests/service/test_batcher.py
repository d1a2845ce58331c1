"""The queue, with a clock that a test turns and workers that a test lets go."""

from __future__ import annotations

import asyncio
import functools
import heapq
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.errors import Busy, EngineFailed, GoingDown, Late, WrongInput
from edgedl.service.batch import Ran, answered
from edgedl.service.batcher import Batcher, Job, Policy


class Turned:
    """A clock that stands until it is turned, and then calls what is due, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.due: list[tuple[float, int, Any]] = []
        self.number = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Turned.Handle:
        handle = Turned.Handle(functools.partial(callback, *args))
        heapq.heappush(self.due, (when, next(self.number), handle))
        return handle

    def turn(self, seconds: float) -> None:
        end = self.now + seconds
        while self.due and self.due[0][0] <= end + 1e-9:
            when, _, handle = heapq.heappop(self.due)
            self.now = max(self.now, when)
            handle.call()
        self.now = end

    class Handle:
        def __init__(self, call: Callable[[], Any]) -> None:
            self.call = call

        def cancel(self) -> None:
            self.call = lambda: None


class Held:
    """Workers that run nothing before they are let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[Callable[[], Ran], Callable[[Ran], None]]] = []

    def __call__(self, call: Callable[[], Ran], done: Callable[[Ran], None]) -> None:
        self.calls.append((call, done))

    def go(self) -> None:
        call, done = self.calls.pop(0)
        done(call())


class Bench:
    """A batcher before a model that doubles, and fails on a 13."""

    def __init__(self, **policy: Any) -> None:
        self.clock, self.held = Turned(), Held()
        self.batches: list[list[float]] = []
        self.seen: list[tuple[int, int]] = []
        settings = Policy(**{"max_batch": 4, "max_wait_s": 0.002, "max_queue": 100, **policy})
        self.batcher = Batcher(
            self.run, self.held, self.clock, settings,
            lambda rows, ran, waits: self.seen.append((rows, ran.calls)),
        )  # fmt: skip

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = feed["x"]
        self.batches.append(x[:, 0].tolist())
        if (x == 13).any():
            raise EngineFailed("unlucky")
        return {"y": x * 2}

    def ask(self, *values: float, width: int = 1, within: float | None = None) -> Job:
        rows = np.repeat(np.array(values, np.float32)[:, None], width, 1)
        deadline = None if within is None else self.clock.now + within
        return self.batcher.submit({"x": rows}, len(values), deadline)


def looped(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """The test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **more: Any) -> None:
        asyncio.run(test(*args, **more))  # type: ignore[arg-type]

    return run


def answer(job: Job) -> list[float]:
    return job.answer.result()["y"][:, 0].tolist()  # type: ignore[no-any-return]


@looped
async def test_a_first_request_waits_for_others_as_long_as_it_may() -> None:
    bench = Bench()
    jobs = [bench.ask(1)]
    bench.clock.turn(0.0015)
    jobs.append(bench.ask(2))
    assert not bench.held.calls
    bench.clock.turn(0.0005)
    bench.held.go()
    assert bench.batches == [[1, 2]]
    assert [answer(job) for job in jobs] == [[2], [4]]
    assert bench.seen == [(2, 1)]


@looped
async def test_a_full_batch_waits_for_nobody_and_answers_come_in_order() -> None:
    bench = Bench()
    jobs = [bench.ask(i) for i in range(9)]
    assert len(bench.held.calls) == 2, "one that runs, one ahead"
    assert bench.batcher.waiting == 1
    bench.held.go()
    bench.held.go()
    assert bench.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
    bench.clock.turn(0.002)
    bench.held.go()
    assert [answer(job) for job in jobs] == [[2 * i] for i in range(9)]


@looped
async def test_what_waits_behind_a_running_batch_goes_as_soon_as_it_ends() -> None:
    bench = Bench()
    first = bench.ask(1, 2, 3, 4)
    second = bench.ask(5)
    bench.clock.turn(0.01)
    assert len(bench.held.calls) == 1
    bench.held.go()
    assert answer(first) == [2, 4, 6, 8]
    assert len(bench.held.calls) == 1
    bench.held.go()
    assert answer(second) == [10]


@looped
async def test_requests_of_several_samples_stay_whole() -> None:
    bench = Bench()
    jobs = [bench.ask(1, 2), bench.ask(3, 4, 5), bench.ask(*range(9))]
    bench.clock.turn(0.01)
    while bench.held.calls:
        bench.held.go()
    assert bench.batches == [[1, 2], [3, 4, 5], list(range(9))]
    assert answer(jobs[2]) == [2 * i for i in range(9)]


@looped
async def test_only_arrays_that_fit_together_share_a_call() -> None:
    bench = Bench()
    jobs = [bench.ask(i, width=1 + i % 2) for i in range(4)]
    bench.clock.turn(0.002)
    bench.held.go()
    bench.held.go()
    assert bench.batches == [[0, 2], [1, 3]]
    assert [job.answer.result()["y"].shape for job in jobs] == [(1, 1), (1, 2)] * 2


@looped
async def test_a_failing_request_does_not_fail_its_neighbours() -> None:
    bench = Bench()
    jobs = [bench.ask(value) for value in (1, 13, 2, 3)]
    bench.held.go()
    assert bench.batches == [[1, 13, 2, 3], [1], [13], [2], [3]]
    assert [answer(jobs[i]) for i in (0, 2, 3)] == [[2], [4], [6]]
    assert isinstance(jobs[1].answer.exception(), EngineFailed)
    assert bench.seen == [(4, 5)]


@looped
async def test_a_full_queue_says_when_to_come_again() -> None:
    bench = Bench(max_queue=4)
    for value in range(4 + 4 + 4):
        bench.ask(value)
    with pytest.raises(Busy, match="the queue is full: 4 requests") as caught:
        bench.ask(9)
    assert caught.value.retry_s == 0
    assert bench.batcher.waiting == 4
    with pytest.raises(Busy):
        Bench(max_queue=1).batcher.room(1)


@looped
async def test_the_time_to_come_again_is_measured() -> None:
    bench = Bench(max_queue=6)
    for value in range(8):
        bench.ask(value)
    for _ in range(2):
        call, done = bench.held.calls.pop(0)
        ran = call()
        done(Ran(ran.results, ran.calls, 2.0))
    for value in range(8 + 6):
        bench.ask(value)
    with pytest.raises(Busy, match="which take 3 s") as caught:
        bench.ask(9)
    assert caught.value.retry_s == 3, "six samples, at four in two seconds"


@looped
async def test_a_deadline_ends_the_waiting_and_spares_the_engine() -> None:
    bench = Bench()
    running = bench.ask(1, 2, 3, 4, within=1)
    late, patient = bench.ask(5, within=0.5), bench.ask(6, within=5)
    bench.clock.turn(0.7)
    assert isinstance(late.answer.exception(), Late)
    assert bench.batcher.waiting == 1
    bench.clock.turn(0.7)
    assert isinstance(running.answer.exception(), Late)
    bench.held.go()
    bench.held.go()
    assert bench.batches == [[6]]
    assert answer(patient) == [12]


@looped
async def test_who_goes_away_is_not_run() -> None:
    bench = Bench()
    jobs = [bench.ask(value) for value in (1, 2, 3)]
    bench.batcher.cancel(jobs[1])
    bench.batcher.cancel(jobs[1])
    bench.clock.turn(0.002)
    bench.batcher.cancel(jobs[2])
    assert bench.batcher.waiting == 0
    bench.held.go()
    assert bench.batches == [[1]]
    assert jobs[2].answer.cancelled()
    alone = bench.ask(4)
    alone.answer.cancel()
    bench.batcher.cancel(alone)
    assert bench.batcher.waiting == 0


@looped
async def test_draining_answers_what_is_there_and_takes_nothing_new() -> None:
    bench = Bench()
    jobs = [bench.ask(value) for value in range(6)]
    drained = asyncio.ensure_future(bench.batcher.drain())
    await asyncio.sleep(0)
    with pytest.raises(GoingDown):
        bench.ask(9)
    bench.held.go()
    assert not drained.done()
    bench.held.go()
    await drained
    assert [answer(job) for job in jobs] == [[2 * i] for i in range(6)]
    await Bench().batcher.drain()


@looped
async def test_what_is_abandoned_is_told_so() -> None:
    bench = Bench()
    jobs = [bench.ask(value) for value in range(10)]
    bench.held.go()
    assert bench.batcher.abandon() == 6, "four that run, two that wait"
    assert bench.batcher.waiting == 0
    bench.held.go()
    assert [answer(job) for job in jobs[:4]] == [[0], [2], [4], [6]]
    assert all(isinstance(job.answer.exception(), GoingDown) for job in jobs[4:])
    await bench.batcher.drain()
    assert bench.batches == [[0, 1, 2, 3]], "nobody waited for the second any more"


@looped
async def test_several_workers_have_as_many_calls() -> None:
    bench = Bench(max_batch=1, max_wait_s=0.0, workers=3)
    jobs = [bench.ask(value) for value in range(8)]
    assert len(bench.held.calls) == 6, "three that run, three ahead"
    while bench.held.calls:
        bench.held.go()
    assert [answer(job) for job in jobs] == [[2 * i] for i in range(8)]


@given(st.lists(
    st.tuples(st.sampled_from(["ask", "turn", "go", "cancel"]), st.integers(1, 5)), max_size=60
))  # fmt: skip
def test_whatever_happens_each_request_gets_its_own_answer_once(
    steps: list[tuple[str, int]],
) -> None:
    @looped
    async def run() -> None:
        bench = Bench(max_queue=8)
        jobs: list[tuple[Job, list[float]]] = []
        dropped = set()
        for step, size in steps:
            if step == "ask":
                values = [float(100 * len(jobs) + i) for i in range(size)]
                try:
                    jobs.append((bench.ask(*values), values))
                except Busy:
                    assert bench.batcher.waiting == 8
            elif step == "turn":
                bench.clock.turn(size * 0.0005)
            elif step == "go" and bench.held.calls:
                bench.held.go()
            elif step == "cancel" and jobs:
                job = jobs[-1 - size % len(jobs)][0]
                if job.alive:
                    dropped.add(job)
                bench.batcher.cancel(job)
            assert 0 <= bench.batcher.waiting <= 8
        bench.clock.turn(1)
        while bench.held.calls:
            bench.held.go()
        assert bench.batcher.waiting == bench.batcher.running == 0
        for job, values in jobs:
            if job in dropped:
                assert job.answer.cancelled()
            else:
                assert answer(job) == [2 * value for value in values]
        assert all(len(batch) <= 5 for batch in bench.batches)

    run()


def test_a_call_whose_outputs_are_not_rows_is_taken_apart() -> None:
    def mean(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"y": feed["x"].mean(0)}

    feeds = [{"x": np.full((1, 1), value, np.float32)} for value in (2, 4)]
    ran = answered(mean, feeds, [1, 1])
    assert [float(result["y"][0]) for result in ran.results] == [2, 4]  # type: ignore[index]
    assert ran.calls == 3


def test_an_engine_gets_aligned_arrays_that_lie_where_they_came_if_they_can() -> None:
    got: list[np.ndarray] = []

    def keep(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        got.append(feed["x"])
        return {}

    room = np.zeros(17, np.uint8)
    crooked, straight = room[1:].view(np.float32), room[:16].view(np.float32)
    for array in (crooked, straight):
        answered(keep, [{"x": array}], [1])
    assert not crooked.flags.aligned
    assert got[0].flags.aligned
    assert got[1] is straight


def test_any_exception_is_a_result() -> None:
    def odd(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise ZeroDivisionError

    wide = [{"x": np.zeros((1, 1))}, {"x": np.zeros((1, 2))}]
    ran = answered(odd, wide, [1, 1])
    assert [type(result) for result in ran.results] == [ZeroDivisionError] * 2


@looped
async def test_errors_that_are_not_ours_become_ours() -> None:
    bench = Bench()

    def odd(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise (WrongInput("no") if feed["x"][0, 0] else ZeroDivisionError("nought"))

    bench.batcher._run = odd
    jobs = [bench.ask(value) for value in (0, 1)]
    bench.clock.turn(0.002)
    bench.held.go()
    assert isinstance(jobs[0].answer.exception(), EngineFailed)
    assert "ZeroDivisionError: nought" in str(jobs[0].answer.exception())
    assert isinstance(jobs[1].answer.exception(), WrongInput)

"""A bounded queue of requests that share calls of an engine, within a limit of waiting.

It knows neither HTTP nor engines: what runs a batch elsewhere, and the clock, are arguments. All of
it happens on one event loop's thread, except `answered`, which the worker calls.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from time import monotonic
from typing import Any, Protocol

from edgedl.core.errors import Busy, EdgeError, GoingDown, Late
from edgedl.service.batch import Feed, Ran, Run, answered, failure

REMEMBERED = 64
SLOWEST_RETRY_S = 60.0
Key = tuple[Any, ...]


class Handle(Protocol):
    """What can be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """An event loop's: seconds, and calls at one of them."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Handle: ...


@dataclass(frozen=True)
class LoopClock:
    """The machine's monotonic clock, finer than some event loops', with the loop's timers."""

    loop: asyncio.AbstractEventLoop

    def time(self) -> float:
        return monotonic()

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Handle:
        return self.loop.call_later(max(0.0, when - monotonic()), callback, *args)


class Start(Protocol):
    """Runs `call` on a worker, then `done` with its result on the event loop."""

    def __call__(self, call: Callable[[], Ran], done: Callable[[Ran], None]) -> None: ...


@dataclass(frozen=True)
class Policy:
    """How requests are put together.

    Attributes:
        max_batch: samples in a call at most; a single request may bring more. 1 where the model's
            samples cannot share a call.
        max_wait_s: how long the first request waits for others while a worker is free.
        max_queue: requests that may wait.
        workers: calls at once.
    """

    max_batch: int = 8
    max_wait_s: float = 0.002
    max_queue: int = 256
    workers: int = 1


@dataclass(eq=False)
class Job:
    """A request in the queue; `answer` gets its outputs or its error."""

    feed: Feed
    rows: int
    key: Key
    arrived: float
    answer: asyncio.Future[Any]
    timer: Handle | None = None
    queued: bool = True

    @property
    def alive(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.answer.done()


@dataclass(eq=False)
class _Lane:
    """Requests whose arrays fit together, in order; `rows` counts the living ones' samples."""

    jobs: deque[Job] = field(default_factory=deque)
    rows: int = 0


Seen = Callable[[int, Ran, Sequence[float]], None]


class Batcher:
    """Requests in, answers out, in batches.

    A free worker takes a lane's requests once they fill a batch or the first has waited long
    enough; a full batch is handed to a worker one ahead, so that the worker need not come back for
    it. Lanes take turns by their first request's age.
    """

    def __init__(
        self, run: Run, start: Start, clock: Clock, policy: Policy, seen: Seen | None = None
    ) -> None:
        self.policy = policy
        self.waiting = 0
        self.running = 0
        self.closing = False
        self._run, self._start, self._clock, self._seen = run, start, clock, seen
        self._lanes: dict[Key, _Lane] = {}
        self._begun: list[list[Job]] = []
        self._timer: Handle | None = None
        self._timed = math.inf
        self._recent: deque[tuple[int, float]] = deque(maxlen=REMEMBERED)
        self._idle = asyncio.Event()
        self._idle.set()

    def room(self, coming: int = 0) -> None:
        """Return where one more request may wait, with `coming` others on their way.

        Raises:
            GoingDown: nothing new is taken. Busy: the queue is full.
        """
        if self.closing:
            raise GoingDown("the service is going down")
        if self.waiting + coming >= self.policy.max_queue:
            wait = self.backlog_s()
            raise Busy(
                f"the queue is full: {self.waiting + coming} requests"
                + (f", which take {wait:.2g} s" if wait else ""),
                retry_s=wait,
            )

    def backlog_s(self) -> float:
        """Seconds that the waiting requests take at the rate of the last batches; at most 60."""
        seconds = sum(s for _, s in self._recent)
        rows = sum(r for r, _ in self._recent)
        ahead = sum(lane.rows for lane in self._lanes.values())
        if not rows:
            return 0.0
        return min(ahead * seconds / rows / self.policy.workers, SLOWEST_RETRY_S)

    def submit(self, feed: Feed, rows: int, deadline: float | None = None) -> Job:
        """A request of `rows` samples, put into the queue; await its `answer`.

        Args:
            deadline: by the clock; after it, the answer is Late.

        Raises:
            GoingDown: nothing new is taken. Busy: the queue is full.
        """
        self.room()
        now = self._clock.time()
        job = Job(feed, rows, self._key(feed), now, asyncio.get_running_loop().create_future())
        if deadline is not None:
            job.timer = self._clock.call_at(deadline, self._expire, job)
        lane = self._lanes.setdefault(job.key, _Lane())
        lane.jobs.append(job)
        lane.rows += rows
        self.waiting += 1
        self._idle.clear()
        self._dispatch()
        return job

    def cancel(self, job: Job) -> None:
        """Forget a request that nobody waits for; one that runs already is run in vain."""
        self._end(job)
        job.answer.cancel()

    async def drain(self) -> None:
        """Take nothing new, and return when all that was taken is answered."""
        self.closing = True
        self._dispatch()
        await self._idle.wait()

    def abandon(self) -> int:
        """Refuse whatever is not answered yet with GoingDown; how many requests that were."""
        self.closing = True
        queued = [job for lane in self._lanes.values() for job in lane.jobs]
        jobs = [job for job in (*queued, *chain(*self._begun)) if job.alive]
        for job in jobs:
            self._fail(job, GoingDown("the service went down before the answer was there"))
        return len(jobs)

    def _key(self, feed: Feed) -> Key:
        if self.policy.max_batch == 1:
            return ()
        return tuple(array.shape[1:] for array in feed.values())

    def _expire(self, job: Job) -> None:
        if job.alive:
            self._fail(job, Late("the answer was not there in time"))

    def _fail(self, job: Job, error: EdgeError) -> None:
        self._end(job)
        job.answer.set_exception(error)

    def _end(self, job: Job) -> None:
        """Take a request out of the queue, where it is still there, and its deadline off."""
        if job.timer is not None:
            job.timer.cancel()
        if not job.queued:
            return
        job.queued = False
        lane = self._lanes[job.key]
        lane.jobs.remove(job)
        lane.rows -= job.rows
        self.waiting -= 1
        if not lane.jobs:
            del self._lanes[job.key]
        self._rest()

    def _rest(self) -> None:
        if not self.waiting and not self.running:
            self._idle.set()

    def _dispatch(self, late: float = -math.inf) -> None:
        """Start every batch whose time has come, then set the clock for the next.

        Args:
            late: requests that came by then have waited long enough, as those have that the clock
                says so of: timers go off a little early.
        """
        while (key := self._due(late)) is not None:
            self._begin(key)
        first = math.inf
        if self._lanes and self.running < self.policy.workers:
            first = min(lane.jobs[0].arrived for lane in self._lanes.values())
        if first == self._timed:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = first
        if first < math.inf:
            when = first + self.policy.max_wait_s
            self._timer = self._clock.call_at(when, self._wake, first)

    def _wake(self, first: float) -> None:
        self._timer, self._timed = None, math.inf
        self._dispatch(first)

    def _due(self, late: float) -> Key | None:
        """The lane to serve now: of those that are due, the one whose first request is oldest."""
        policy = self.policy
        if not self._lanes or self.running >= 2 * policy.workers:
            return None
        late = max(late, self._clock.time() - policy.max_wait_s)
        free = self.running < policy.workers
        due = [
            (lane.jobs[0].arrived, key)
            for key, lane in self._lanes.items()
            if lane.rows >= policy.max_batch
            or (free and (self.closing or lane.jobs[0].arrived <= late))
        ]
        return min(due, key=_age)[1] if due else None

    def _begin(self, key: Key) -> None:
        lane = self._lanes[key]
        batch: list[Job] = []
        rows = 0
        while lane.jobs and (not batch or rows + lane.jobs[0].rows <= self.policy.max_batch):
            job = lane.jobs.popleft()
            job.queued = False
            batch.append(job)
            rows += job.rows
        lane.rows -= rows
        self.waiting -= len(batch)
        if not lane.jobs:
            del self._lanes[key]
        self.running += 1
        self._begun.append(batch)
        living: list[Job] = []

        def call() -> Ran:
            """On the worker: those whom nobody waits for by now are left out."""
            living.extend(job for job in batch if job.alive)
            return answered(self._run, [job.feed for job in living], [job.rows for job in living])

        self._start(call, lambda ran: self._done(batch, living, ran))

    def _done(self, batch: list[Job], living: list[Job], ran: Ran) -> None:
        self.running -= 1
        self._begun = [other for other in self._begun if other is not batch]
        rows = sum(job.rows for job in living)
        if rows:
            self._recent.append((rows, ran.seconds))
        self._dispatch()
        for job, result in zip(living, ran.results, strict=True):
            if not job.alive:
                continue
            if job.timer is not None:
                job.timer.cancel()
            if isinstance(result, Exception):
                known = isinstance(result, EdgeError)
                job.answer.set_exception(result if known else failure(result))
            else:
                job.answer.set_result(result)
        if self._seen is not None and living:
            now = self._clock.time()
            self._seen(rows, ran, [now - job.arrived - ran.seconds for job in living])
        self._rest()


def _age(due: tuple[float, Key]) -> float:
    return due[0]

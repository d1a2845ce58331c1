"""What the machine did while something was timed on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from statistics import median
from threading import Event, Thread
from types import TracebackType
from typing import Any

from edgedl.benchmark.kernel_files import CPU, ROOT, number, text
from edgedl.benchmark.machine import (
    Ticks,
    clocks_mhz,
    core_deltas,
    core_ticks,
    critical_temperatures,
    family_ticks,
    quota_stops,
    temperatures,
)

PERIOD_S = 0.5
BUSY_SHARE = 0.5
MOST_CLOCK_FALL = 0.05
MOST_STEAL = 0.01
MOST_NEIGHBOUR_CORES = 0.1
MOST_CORES_BEYOND_THREADS = 0.5
MOST_CLOCK_STEP_S = 0.5
HOT_SHARE = 0.9
# A GPU that works hard is at its power cap all the time; its other reasons tell of trouble.
POWER_CAP = "power cap"
# Bits of a Raspberry Pi's get_throttled; the higher ones tell of all the time since its start.
UNDER_VOLTAGE = 1
SLOWED = {2: "a capped clock", 4: "throttling", 8: "the soft temperature limit"}


class Background:
    """Calls `step` about every `period_s` in a daemon thread, from construction until `stop`.

    `wait` sleeps for the seconds it is given and answers whether to stop, as `Event.wait` does.
    """

    def __init__(
        self,
        step: Callable[[], None],
        period_s: float,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._step, self._period_s = step, period_s
        self._done = Event()
        self._wait = wait or self._done.wait
        self._thread = Thread(target=self._loop, daemon=True)
        self._thread.start()

    def _loop(self) -> None:
        while not self._wait(self._period_s):
            self._step()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self._done.set()
        self._thread.join()


@dataclass(frozen=True)
class Spread:
    """The least, the middle and the most of some samples."""

    min: float
    median: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """The spread of one sample at least."""
    return Spread(min(values), median(values), max(values))


@dataclass(frozen=True)
class Reading:
    """The machine at one moment; `own` holds parent and ticks of each of our processes."""

    at_s: float
    wall_s: float
    cores: Mapping[int, Ticks]
    own: Mapping[int, tuple[int, int]]
    mhz: Mapping[int, float]
    celsius: Mapping[str, float]
    load: float | None
    firmware: int | None
    gpu: tuple[str, ...]

    @property
    def ahead_s(self) -> float:
        """How far the wall clock is ahead of the monotonic one, which is the same all the time
        unless one of them steps."""
        return self.wall_s - self.at_s


@dataclass(frozen=True)
class Counters:
    """Counts that only go up: events in which the hardware slowed itself, by counter, and how
    often and for how many milliseconds the cgroup's quota stopped its processes."""

    throttles: Mapping[str, int]
    quota_stops: tuple[int, float] | None


@dataclass(frozen=True)
class Conditions:
    """What the machine did during a measurement; what it hides is None.

    Attributes:
        seconds: how long it was watched, over `samples` readings.
        busy_share: each core's busy share of the time.
        own_cores: how many cores our processes kept busy on average.
        neighbour_cores: how many cores everything else kept busy on average.
        steal: share of the cores' time that the hypervisor gave to others.
        quota_stops: how often the cgroup's quota stopped us, `quota_stopped_ms` for how long.
        mhz: each core's clock.
        clock_fall: how far the clock of core `clock_core`, the worst, fell from the first third of
            the run to the last while it was busy, as a share.
        celsius: temperatures by thermal zone, `critical_celsius` where they shut the machine down.
        throttles: how many events in which the hardware slowed itself each counter saw.
        firmware: what a Raspberry Pi's firmware complained of, as bits of get_throttled.
        gpu_slowdowns: why a GPU ran below its clocks.
        load: the load average of one minute.
        clock_step_s: how far the wall clock strayed from the monotonic one.
    """

    seconds: float
    samples: int
    busy_share: dict[str, float]
    own_cores: float | None
    neighbour_cores: float | None
    steal: float | None
    quota_stops: int | None
    quota_stopped_ms: float | None
    mhz: dict[str, Spread] | None
    clock_fall: float | None
    clock_core: int | None
    celsius: dict[str, Spread] | None
    critical_celsius: dict[str, float] | None
    throttles: dict[str, int] | None
    firmware: int | None
    gpu_slowdowns: tuple[str, ...]
    load: Spread | None
    clock_step_s: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def counters(root: Path = ROOT) -> Counters:
    """The counters now: thermal_throttle of x86 cores, a Jetson's over-current events, cpu.stat."""
    throttles: dict[str, int] = {}
    paths = [*(root / CPU).glob("cpu[0-9]*/thermal_throttle/*_throttle_count")]
    for path in (*paths, *(root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        count = number(path)
        if count is not None:
            throttles[str(path.relative_to(root))] = count
    return Counters(throttles, quota_stops(root))


def read(
    root: Path = ROOT,
    pids: Iterable[int] = (),
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
    gpu: Callable[[], tuple[str, ...]] = tuple,
) -> Reading:
    """The machine now; `pids` are our own processes, `gpu` says why a GPU is slow."""
    flags = next((root / "sys/devices/platform").glob("soc*/soc*:firmware/get_throttled"), None)
    load = text(root / "proc/loadavg").split()
    return Reading(
        at_s=clock(),
        wall_s=wall(),
        cores=core_ticks(root),
        own=family_ticks(pids, root),
        mhz=clocks_mhz(root),
        celsius=temperatures(root),
        load=float(load[0]) if load else None,
        firmware=int(text(flags) or "0", 16) & 15 if flags else None,
        gpu=gpu(),
    )


def used_ticks(readings: Sequence[Mapping[int, tuple[int, int]]]) -> int:
    """Ticks that our processes used over the readings of `family_ticks`.

    What a process used before it ended is its parent's from the moment that this one waited for it;
    where no ancestor is left, its last count is kept.
    """
    used = 0
    for before, after in pairwise(readings):
        gained = sum(ticks for _, ticks in after.values())
        for pid, (above, ticks) in before.items():
            while above in before and above not in after:
                above = before[above][0]
            if pid in after or above in after:
                gained -= ticks
        used += max(0, gained)
    return used


def clock_fall(readings: Sequence[Reading]) -> tuple[float | None, int | None]:
    """How far a busy core's clock fell from the first third of the run to the last, and which.

    The share is of the medians over the readings before which the core was busy half of the time or
    more. Two of them are needed in either third. It is negative where every clock rose.
    """
    start, end = readings[0].at_s, readings[-1].at_s
    first: dict[int, list[float]] = {}
    last: dict[int, list[float]] = {}
    for before, now in pairwise(readings):
        early = now.at_s <= start + (end - start) / 3
        if not early and now.at_s < end - (end - start) / 3:
            continue
        for core, ticks in core_deltas(before.cores, now.cores).items():
            if core in now.mhz and ticks.busy >= BUSY_SHARE * ticks.total:
                (first if early else last).setdefault(core, []).append(now.mhz[core])
    falls = [
        (1 - median(last[core]) / median(first[core]), core)
        for core in sorted(first.keys() & last.keys())
        if min(len(first[core]), len(last[core])) >= 2 and median(first[core]) > 0
    ]
    return max(falls, key=lambda fall: fall[0], default=(None, None))


def summarize(
    readings: Sequence[Reading],
    before: Counters,
    after: Counters,
    critical: Mapping[str, float],
) -> Conditions:
    """The conditions over one reading at least, in order of time."""
    first, last = readings[0], readings[-1]
    cores = core_deltas(first.cores, last.cores)
    busy, ticks = sum(c.busy for c in cores.values()), sum(c.total for c in cores.values())
    wall_ticks = ticks / len(cores) if cores else None
    own = used_ticks([reading.own for reading in readings])
    fall, core_of_fall = clock_fall(readings)
    stops = None
    if before.quota_stops and after.quota_stops:
        stops = tuple(y - x for x, y in zip(before.quota_stops, after.quota_stops, strict=True))
    loads = [reading.load for reading in readings if reading.load is not None]
    seen = [reading.firmware for reading in readings if reading.firmware is not None]
    return Conditions(
        seconds=last.at_s - first.at_s,
        samples=len(readings),
        busy_share={str(core): c.busy / c.total for core, c in cores.items()},
        own_cores=own / wall_ticks if wall_ticks and first.own else None,
        neighbour_cores=max(0, busy - own) / wall_ticks if wall_ticks and first.own else None,
        steal=sum(c.steal for c in cores.values()) / ticks if ticks else None,
        quota_stops=int(stops[0]) if stops else None,
        quota_stopped_ms=stops[1] if stops else None,
        mhz=_spreads([reading.mhz for reading in readings]),
        clock_fall=fall,
        clock_core=core_of_fall,
        celsius=_spreads([reading.celsius for reading in readings]),
        critical_celsius=dict(critical) or None,
        throttles={k: n - before.throttles.get(k, n) for k, n in after.throttles.items()} or None,
        firmware=reduce(or_, seen) if seen else None,
        gpu_slowdowns=tuple(sorted({reason for reading in readings for reason in reading.gpu})),
        load=spread(loads) if loads else None,
        clock_step_s=max((r.ahead_s - first.ahead_s for r in readings), key=abs),
    )


def _spreads(samples: Sequence[Mapping[Any, float]]) -> dict[str, Spread] | None:
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return {str(n): spread([s[n] for s in samples if n in s]) for n in names} or None


def doubts(conditions: Conditions, threads: int) -> tuple[str, ...]:
    """What to think of figures that were taken with so many threads under these conditions."""
    c, found = conditions, []
    if c.steal is not None and c.steal > MOST_STEAL:
        found.append(f"the hypervisor gave {c.steal:.1%} of the cores' time to others")
    if c.neighbour_cores is not None and c.neighbour_cores > MOST_NEIGHBOUR_CORES:
        found.append(f"other processes kept {c.neighbour_cores:.2g} cores busy")
    if c.neighbour_cores is None and c.load is not None and c.load.median > threads + 1:
        found.append(f"the load average was {c.load.median:.2g}")
    if c.own_cores is not None and c.own_cores > threads + MOST_CORES_BEYOND_THREADS:
        asked = f"{threads} thread{'s' * (threads != 1)}"
        found.append(f"what was timed kept {c.own_cores:.2g} cores busy, with {asked} asked for")
    for zone, celsius in (c.celsius or {}).items():
        limit = (c.critical_celsius or {}).get(zone)
        if limit is not None and celsius.max > HOT_SHARE * limit:
            found.append(f"`{zone}` reached {celsius.max:.0f} C, its limit is {limit:.0f} C")
    if (c.firmware or 0) & UNDER_VOLTAGE:
        found.append("the firmware reported under-voltage")
    if POWER_CAP in c.gpu_slowdowns:
        found.append(f"a GPU ran below its clocks: {POWER_CAP}")
    return tuple(found)


def clock_step(conditions: Conditions) -> str | None:
    """That the wall clock stepped, in words; None where it did not.

    Calls are timed by a clock that does not step, but a machine that slept, moved to another host
    or had its clock set in the middle of a run is not the one on which the run began.
    """
    step_s = conditions.clock_step_s
    if abs(step_s) <= MOST_CLOCK_STEP_S:
        return None
    return f"the wall clock stepped by {step_s:+.1f} s: it was set, or the machine slept"


def invalid(conditions: Conditions) -> str | None:
    """Why figures that were taken under these conditions must not be used; None where they may."""
    c, found = conditions, []
    if slowed := {name: count for name, count in (c.throttles or {}).items() if count > 0}:
        worst = max(slowed, key=lambda name: slowed[name])
        found.append(f"the hardware slowed itself: `{worst}` went up by {slowed[worst]}")
    if c.clock_fall is not None and c.clock_fall > MOST_CLOCK_FALL:
        found.append(f"the clock of core {c.clock_core} fell by {c.clock_fall:.0%} during the run")
    if c.quota_stops:
        milliseconds = c.quota_stopped_ms or 0
        found.append(
            f"the processor quota stopped the process {c.quota_stops} times, {milliseconds:.0f} ms"
        )
    if words := [word for bit, word in SLOWED.items() if (c.firmware or 0) & bit]:
        found.append(f"the firmware reported {', '.join(words)}")
    if reasons := [reason for reason in c.gpu_slowdowns if reason != POWER_CAP]:
        found.append(f"a GPU slowed itself: {', '.join(reasons)}")
    if (stepped := clock_step(c)) is not None:
        found.append(stepped)
    return "; ".join(found) or None


class Watch:
    """Reads the machine about twice a second, from the start of a `with` block to its end.

    Args:
        own_pids: the processes whose load is ours, their descendants too; this one where None.
        gpu: says why a GPU runs below its clocks, as `Nvml.slowdowns`.
    """

    def __init__(
        self,
        own_pids: Iterable[int] | None = None,
        *,
        root: Path = ROOT,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        wait: Callable[[float], bool] | None = None,
        gpu: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        self._pids = (os.getpid(),) if own_pids is None else tuple(own_pids)
        self._root, self._period_s, self._wait = root, period_s, wait
        self._clock, self._wall, self._gpu = clock, wall, gpu
        self._readings: list[Reading] = []

    def __enter__(self) -> Watch:
        self._critical = critical_temperatures(self._root)
        self._before = counters(self._root)
        self._readings = []
        self._read()
        self._background = Background(self._read, self._period_s, self._wait)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._background.stop()
        self._read()
        self._after = counters(self._root)

    def _read(self) -> None:
        self._readings.append(read(self._root, self._pids, self._clock, self._wall, self._gpu))

    @property
    def conditions(self) -> Conditions:
        """What was seen, once the block has ended."""
        return summarize(self._readings, self._before, self._after, self._critical)

    def clock_step_s(self) -> float:
        """How far the wall clock has strayed from the monotonic one, in the block or after it."""
        since = self._wall() - self._clock() - self._readings[0].ahead_s
        return max(self.conditions.clock_step_s, since, key=abs)

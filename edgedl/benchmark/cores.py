"""Which cores to time on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedl.benchmark.kernel_files import CPU, ROOT, core_list, number, text
from edgedl.benchmark.machine import clocks_mhz, core_deltas, core_ticks, thread_siblings

READ_S = 0.2
SAME_CAPACITY = 0.9
SAME_LOAD = 0.05


@dataclass(frozen=True)
class Core:
    """One logical core: `capacity` in any unit, 0 where unknown; `busy` as a share of the time."""

    number: int
    capacity: float
    efficient: bool
    siblings: tuple[int, ...]
    busy: float


def choose_cores(cores: Sequence[Core], usable: Iterable[int], count: int) -> tuple[int, ...]:
    """The best `count` of the usable cores to run on, best first; all where they are fewer.

    One thread of each physical core comes first, those of the biggest capacity before others and
    the least busy before busier ones, then the cores' other threads in the same order. Capacities
    within 10 %, as favoured cores have, count as the same; so do loads within 5 %.
    """
    busy = {core.number: round(core.busy / SAME_LOAD) for core in cores}
    tops: list[float] = []
    for capacity in sorted({core.capacity for core in cores}, reverse=True):
        if not tops or capacity < SAME_CAPACITY * tops[-1]:
            tops.append(capacity)
    allowed = set(usable)
    taken: dict[tuple[int, ...], int] = {}
    order = []
    for core in sorted(cores, key=lambda core: (busy[core.number], core.number)):
        if core.number in allowed:
            turn = taken[core.siblings] = taken.get(core.siblings, -1) + 1
            load = sum(busy.get(number, 0) for number in core.siblings)
            order.append((turn, core.efficient, _tier(core.capacity, tops), load, core.number))
    return tuple(number for *_, number in sorted(order)[:count])


def _tier(capacity: float, tops: Sequence[float]) -> int:
    return sum(capacity < SAME_CAPACITY * top for top in tops)


def idle_cores(
    count: int,
    root: Path = ROOT,
    *,
    usable: Iterable[int] | None = None,
    wait: Callable[[float], object] = time.sleep,
) -> tuple[int, ...]:
    """Which cores to pin `count` threads to, by their load over a fifth of a second.

    Only cores of `usable` are chosen, this process's affinity where it is None.
    """
    before = core_ticks(root)
    wait(READ_S)
    loads = core_deltas(before, core_ticks(root))
    siblings = thread_siblings(root)
    atoms = core_list(text(root / "sys/devices/cpu_atom/cpus"))
    limits = clocks_mhz(root, "cpuinfo_max_freq")
    cores = [
        Core(
            number=core,
            capacity=number(root / CPU / f"cpu{core}/cpu_capacity") or limits.get(core, 0.0),
            efficient=core in atoms,
            siblings=siblings.get(core, (core,)),
            busy=loads[core].busy / loads[core].total if core in loads else 0.0,
        )
        for core in before
    ]
    if usable is None:
        affinity = getattr(os, "sched_getaffinity", None)
        usable = affinity(0) if affinity else range(os.cpu_count() or 1)
    return choose_cores(cores, usable, count)

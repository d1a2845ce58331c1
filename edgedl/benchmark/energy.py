"""Energy of a call, net of what the machine draws when it idles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from edgedl.benchmark.meters import Meter
from edgedl.core.errors import BadOption, EngineFailed, Unsupported

MIN_WINDOW_S = 10.0
IDLE_S = 5.0
MOST_DRIFT = 0.2

Drawn = tuple[dict[str, float], float, Any]


@dataclass(frozen=True)
class Energy:
    """Energy of one call, of several windows of work in that of the median net energy.

    Attributes:
        net_mj: millijoules a call beyond what the idle machine draws in the same time.
        gross_mj: millijoules a call, idle draw included.
        idle_w: watts of the idle machine, the mean of before and after.
        work_w: watts during the work, idle draw included.
        window_s: seconds of work, in which `calls` calls ended.
        rails: gross millijoules a call by rail; some rails are parts of others.
        power_mode: the machine's power mode by name, where it has any.
        drift: how much more the idle machine drew after than before, as a share of their mean.
        windows_mj: net millijoules a call in every window, in order.
    """

    net_mj: float
    gross_mj: float
    idle_w: float
    work_w: float
    window_s: float
    calls: int
    rails: dict[str, float]
    power_mode: str | None
    drift: float
    doubts: tuple[str, ...]
    windows_mj: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "least_mj": min(self.windows_mj),
            "most_mj": max(self.windows_mj),
            "windows_mj": list(self.windows_mj),
            "doubts": list(self.doubts),
        }


def energy_per_call(
    meters: Sequence[Meter],
    idle: Callable[[float], object],
    work: Callable[[float], int],
    window_s: float = MIN_WINDOW_S,
    *,
    windows: int = 1,
    idle_s: float = IDLE_S,
    clock: Callable[[], float] = time.perf_counter,
    power_mode: str | None = None,
) -> Energy:
    """Energy of one call, from windows of work, each between two of idleness.

    Of several windows the one of median net energy counts, of an even number the greater of the
    two in the middle; MLPerf Tiny takes the median of five (Banbury et al., MLPerf Tiny Benchmark,
    2021).

    Args:
        idle: lets so many seconds pass with the machine idle, as `time.sleep` does.
        work: runs calls for so many seconds and returns how many it made.
        window_s: seconds of work, at least 10.

    Raises:
        BadOption: the window is too short. Unsupported: there is no meter, or one fails.
        EngineFailed: not one call was made.
    """
    if not meters:
        raise Unsupported("no energy counter can be read here", hint="`edgedl doctor` says why")
    if window_s < MIN_WINDOW_S:
        raise BadOption(
            f"a window of {window_s:g} s is too short to measure energy",
            hint=f"give it {MIN_WINDOW_S:g} s or more",
        )
    counted = [rail for meter in meters for rail in meter.counted]

    def idle_power() -> float:
        joules, seconds, _ = _drawn(meters, lambda: idle(idle_s), clock)
        return sum(joules[rail] for rail in counted) / seconds

    idle_w = [idle_power()]
    works = []
    for _ in range(windows):
        works.append(_drawn(meters, lambda: _work(work, window_s, clock), clock))
        idle_w.append(idle_power())
    found = [
        _window(drawn, counted, powers, power_mode)
        for drawn, powers in zip(works, pairwise(idle_w), strict=True)
    ]
    middle = sorted(found, key=lambda window: window.net_mj)[windows // 2]
    return replace(
        middle,
        windows_mj=tuple(window.net_mj for window in found),
        doubts=tuple(dict.fromkeys(doubt for window in found for doubt in window.doubts)),
    )


def _window(
    drawn: Drawn, counted: Sequence[str], powers: tuple[float, float], power_mode: str | None
) -> Energy:
    """One window of work, and the watts of the idle machine before and after it."""
    gross, seconds, calls = drawn
    gross_j = sum(gross[rail] for rail in counted)
    idle_w = sum(powers) / 2
    drift = (powers[1] - powers[0]) / idle_w if idle_w else 0.0
    net_j = gross_j - idle_w * seconds
    return Energy(
        net_mj=net_j * 1e3 / calls,
        gross_mj=gross_j * 1e3 / calls,
        idle_w=idle_w,
        work_w=gross_j / seconds,
        window_s=seconds,
        calls=calls,
        rails={rail: joules * 1e3 / calls for rail, joules in gross.items()},
        power_mode=power_mode,
        drift=drift,
        doubts=tuple(_doubts(powers, drift, net_j)),
        windows_mj=(net_j * 1e3 / calls,),
    )


def _work(work: Callable[[float], int], window_s: float, clock: Callable[[], float]) -> int:
    calls, start = 0, clock()
    while (left := window_s - (clock() - start)) > 0:
        made = work(left)
        if made < 1:
            raise EngineFailed(
                "no call ended while energy was measured", hint="`edgedl bench` without energy"
            )
        calls += made
    return calls


def _drawn(meters: Sequence[Meter], act: Callable[[], Any], clock: Callable[[], float]) -> Drawn:
    """Joules by rail and the seconds that something took, with what it returned."""
    joules: dict[str, float] = {}
    started: list[Meter] = []
    try:
        for meter in meters:
            meter.start()
            started.append(meter)
        start = clock()
        result = act()
        seconds = clock() - start
    finally:
        for meter in started:
            joules.update(meter.stop())
    return joules, seconds, result


def _doubts(powers: Sequence[float], drift: float, net_j: float) -> list[str]:
    found = []
    if abs(drift) > MOST_DRIFT:
        found.append(
            f"energy: the idle machine drew {powers[0]:.3g} W before and {powers[1]:.3g} W after"
        )
    if net_j < 0:
        found.append("energy: the work drew less than the idle machine; something else was running")
    return found

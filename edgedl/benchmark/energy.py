"""Energy of a call, net of what the machine draws when it idles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgedl.benchmark.meters import Meter
from edgedl.core.errors import BadOption, EngineFailed, Unsupported

MIN_WINDOW_S = 10.0
IDLE_S = 5.0
MOST_DRIFT = 0.2


@dataclass(frozen=True)
class Energy:
    """Energy of one call.

    Attributes:
        net_mj: millijoules a call beyond what the idle machine draws in the same time.
        gross_mj: millijoules a call, idle draw included.
        idle_w: watts of the idle machine, the mean of before and after.
        work_w: watts during the work, idle draw included.
        window_s: seconds of work, in which `calls` calls ended.
        rails: gross millijoules a call by rail; some rails are parts of others.
        power_mode: the machine's power mode by name, where it has any.
        drift: how much more the idle machine drew after than before, as a share of their mean.
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

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "doubts": list(self.doubts)}


def energy_per_call(
    meters: Sequence[Meter],
    idle: Callable[[float], object],
    work: Callable[[float], int],
    window_s: float = MIN_WINDOW_S,
    *,
    idle_s: float = IDLE_S,
    clock: Callable[[], float] = time.perf_counter,
    power_mode: str | None = None,
) -> Energy:
    """Energy of one call, from a window of work between two of idleness.

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
    before, before_s, _ = _drawn(meters, lambda: idle(idle_s), clock)
    gross, seconds, calls = _drawn(meters, lambda: _work(work, window_s, clock), clock)
    after, after_s, _ = _drawn(meters, lambda: idle(idle_s), clock)
    counted = [rail for meter in meters for rail in meter.counted]
    gross_j = sum(gross[rail] for rail in counted)
    powers = [sum(j[r] for r in counted) / s for j, s in ((before, before_s), (after, after_s))]
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


def _drawn(
    meters: Sequence[Meter], act: Callable[[], Any], clock: Callable[[], float]
) -> tuple[dict[str, float], float, Any]:
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

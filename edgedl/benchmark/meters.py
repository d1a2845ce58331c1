"""The machine's own energy counters.

RAPL (Documentation/power/powercap of the kernel), INA3221 and INA238 power monitors as Jetson
boards have them (Documentation/hwmon), and the total energy of NVIDIA's NVML.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from edgedl.benchmark.kernel_files import ROOT, number, text
from edgedl.benchmark.nvml import Nvml
from edgedl.benchmark.watch import Background
from edgedl.core.errors import Unsupported

RAIL_PERIOD_S = 0.1
# Counters wrap after minutes at full load: 65 kJ and 262 kJ are common ranges
COUNTER_PERIOD_S = 20.0
RAPL_ZONE = re.compile(r"(?:intel|amd)-rapl:(\d+)(?::(\d+))?")
WHOLE = re.compile(r"package-[^/]+(?:/dram)?")
BOARD_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
# Fed by VIN_SYS_5V0, which is measured as well
INNER_RAILS = ("VDDQ_VDD2_1V8AO",)


class Meter(Protocol):
    """Measures energy between `start` and `stop`.

    Attributes:
        rails: names of what is measured.
        counted: those of them that together are the whole, each joule once.
    """

    name: str
    rails: tuple[str, ...]
    counted: tuple[str, ...]

    def start(self) -> None:
        """Begin; raises Unsupported where a counter no longer answers."""

    def stop(self) -> dict[str, float]:
        """Joules by rail since `start`; raises Unsupported where a counter no longer answers."""


Sample = tuple[float, float]  # seconds on a clock, and what was read then


class Source(Protocol):
    """Something that tells of one rail, and turns two samples of it into joules."""

    @property
    def rail(self) -> str: ...

    @property
    def read(self) -> Callable[[], float]: ...

    def joules(self, before: Sample, now: Sample) -> float: ...


@dataclass(frozen=True)
class Counter:
    """A rail whose joules are counted; the count begins again at 0 after `span_j`."""

    rail: str
    read: Callable[[], float]
    span_j: float | None = None

    def joules(self, before: Sample, now: Sample) -> float:
        gained = now[1] - before[1]
        return gained + self.span_j if gained < 0 and self.span_j is not None else gained


@dataclass(frozen=True)
class Power:
    """A rail whose watts can be read; they are integrated by the trapezoidal rule."""

    rail: str
    read: Callable[[], float]

    def joules(self, before: Sample, now: Sample) -> float:
        return (now[0] - before[0]) * (now[1] + before[1]) / 2


class SampledMeter:
    """Reads its sources from a thread about every `period_s`, and once at either end."""

    def __init__(
        self,
        name: str,
        sources: Sequence[Source],
        counted: Sequence[str],
        period_s: float,
        clock: Callable[[], float] = time.perf_counter,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self.name, self.counted = name, tuple(counted)
        self.rails = tuple(source.rail for source in sources)
        self._sources, self._period_s, self._clock, self._wait = sources, period_s, clock, wait

    def start(self) -> None:
        self._joules = dict.fromkeys(self.rails, 0.0)
        self._last = {s.rail: (self._clock(), _answer(s)) for s in self._sources}
        self._background = Background(self._sample, self._period_s, self._wait)

    def _sample(self) -> None:
        for source in self._sources:
            try:
                self._add(source, source.read())
            except (OSError, ValueError):
                continue  # the next reading bridges the gap

    def _add(self, source: Source, value: float) -> None:
        now = (self._clock(), value)
        self._joules[source.rail] += source.joules(self._last[source.rail], now)
        self._last[source.rail] = now

    def stop(self) -> dict[str, float]:
        self._background.stop()
        for source in self._sources:
            self._add(source, _answer(source))
        return self._joules


def _answer(source: Source) -> float:
    try:
        return source.read()
    except (OSError, ValueError) as error:
        raise Unsupported(
            f"the energy counter of `{source.rail}` no longer answers: {error}",
            hint="`edgedl doctor` lists those that do",
        ) from error


def _file(path: Path, unit: float) -> Callable[[], float]:
    return lambda: int(path.read_text()) * unit


def rapl(root: Path = ROOT, wait: Callable[[float], bool] | None = None) -> SampledMeter | str:
    """A meter of the processor's RAPL domains, or why there is none.

    Packages and their DRAM are counted. Cores and uncore lie within a package, and psys holds all.
    """
    folder = root / "sys/class/powercap"
    zones = sorted(
        (int(match[1]), int(match[2] or -1), path)
        for path in folder.glob("*-rapl:*")
        if (match := RAPL_ZONE.fullmatch(path.name)) and (path / "energy_uj").exists()
    )
    if not zones:
        return "RAPL: no counter in /sys/class/powercap; virtual machines hide it"
    counters: dict[str, Counter] = {}
    tops = {top: text(path / "name") for top, inner, path in zones if inner < 0}
    for top, inner, path in zones:
        own = text(path / "name")
        rail = own if inner < 0 else f"{tops.get(top, top)}/{own}"
        source = path / "energy_uj"
        span = number(path / "max_energy_range_uj")
        try:
            int(source.read_text())
        except (OSError, ValueError) as error:
            if WHOLE.fullmatch(rail):
                return _refusal(source.relative_to(root), error)
            continue
        counters[rail] = Counter(rail, _file(source, 1e-6), span * 1e-6 if span else None)
    counted = [rail for rail in counters if WHOLE.fullmatch(rail)]
    if not counted:
        return "RAPL: it counts no package of the processor here"
    return SampledMeter("RAPL", [*counters.values()], counted, COUNTER_PERIOD_S, wait=wait)


def _refusal(source: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"RAPL: only root may read /{source}; `sudo chmod a+r /{source}` opens it"
    return f"RAPL: /{source} cannot be read: {error}"


def board(
    root: Path = ROOT,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[float], bool] | None = None,
) -> SampledMeter | str:
    """A meter of the power monitors of a Jetson's board, or why there is none.

    Where a rail feeds the whole board it alone is counted; else all but those fed by others.
    """
    folders = [*(root / "sys/class/hwmon").glob("hwmon*")]
    rails: dict[str, Power] = {}
    silent: list[str] = []
    for folder in sorted(folders, key=lambda f: int(f.name[5:])):
        chip = text(folder / "name")
        found = {"ina3221": _ina3221, "ina238": _ina238}.get(chip, lambda _: [])(folder)
        for rail in found:
            try:
                rail.read()
            except (OSError, ValueError):
                silent.append(rail.rail)
                continue
            rails.setdefault(rail.rail, rail)
    if not rails:
        words = f"rails that do not answer: {', '.join(silent)}" if silent else "no such sensor"
        return f"INA3221, INA238: {words} in /sys/class/hwmon"
    whole = [name for name in BOARD_RAILS if name in rails][:1]
    counted = whole or [name for name in rails if name not in INNER_RAILS]
    return SampledMeter("board", [*rails.values()], counted, RAIL_PERIOD_S, clock, wait)


def _ina3221(folder: Path) -> list[Power]:
    """Up to three channels, mV and mA; those that are switched off or not connected left out."""
    found = []
    for channel in (1, 2, 3):
        volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
        label = text(folder / f"in{channel}_label") or f"{folder.name} channel {channel}"
        if label == "NC" or number(folder / f"in{channel}_enable") == 0 or not volts.exists():
            continue
        found.append(Power(label, _product(_file(volts, 1e-3), _file(amperes, 1e-3))))
    return found


def _product(volts: Callable[[], float], amperes: Callable[[], float]) -> Callable[[], float]:
    return lambda: volts() * amperes()


def _ina238(folder: Path) -> list[Power]:
    """One channel, in uW; on Jetson boards it is the input."""
    label = text(folder / "label") or text(folder / "in1_label") or "VIN"
    return [Power(label, _file(folder / "power1_input", 1e-6))]


def gpus(nvml: Nvml, wait: Callable[[float], bool] | None = None) -> SampledMeter | str:
    """A meter of every GPU that counts its energy (Volta and later), or why there is none."""
    counters = []
    for index, name in enumerate(nvml.names):
        counter = Counter(f"gpu {index} {name}", partial(nvml.energy_j, index))
        try:
            counter.read()
        except (OSError, AttributeError) as error:
            return f"NVML: {error}"
        counters.append(counter)
    rails = [counter.rail for counter in counters]
    if not rails:
        return "NVML: it lists no GPU"
    return SampledMeter("NVML", counters, rails, COUNTER_PERIOD_S, wait=wait)


def find_meters(root: Path = ROOT) -> tuple[list[Meter], list[str]]:
    """Every meter that can be read on this machine, and why the others cannot.

    A board's rails feed its processor and its GPU, whose own counters are left alone then.
    """
    rails = board(root)
    if not isinstance(rails, str):
        return [rails], ["RAPL, NVML: not asked, since the board's rails feed processor and GPU"]
    nvml = Nvml.find(root)
    found = (rapl(root), nvml if isinstance(nvml, str) else gpus(nvml))
    meters: list[Meter] = [meter for meter in found if not isinstance(meter, str)]
    reasons = [rails, *(reason for reason in found if isinstance(reason, str))]
    if "Raspberry Pi" in text(root / "proc/device-tree/model"):
        reasons.append("Raspberry Pi: the kernel shows no power; measure it at the plug")
    return meters, reasons

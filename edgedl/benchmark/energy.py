"""Energy from the machine's own counters, net of what the machine draws when it idles.

Counters: RAPL (Documentation/power/powercap of the kernel), INA3221 and INA238 power monitors as
Jetson boards have them (Documentation/hwmon), and the total energy of NVIDIA's NVML.
"""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edgedl.benchmark.machine import ROOT, number, text
from edgedl.benchmark.watch import Background
from edgedl.core.errors import BadOption, EngineFailed, Unsupported

MIN_WINDOW_S = 10.0
IDLE_S = 5.0
MOST_DRIFT = 0.2
RAIL_PERIOD_S = 0.1
# Counters wrap after minutes at full load: 65 kJ and 262 kJ are common ranges
COUNTER_PERIOD_S = 20.0
RAPL_ZONE = re.compile(r"(?:intel|amd)-rapl:(\d+)(?::(\d+))?")
WHOLE = re.compile(r"package-[^/]+(?:/dram)?")
BOARD_RAILS = ("VDD_IN", "VIN", "POM_5V_IN")
# Fed by VIN_SYS_5V0, which is measured as well
INNER_RAILS = ("VDDQ_VDD2_1V8AO",)
SLOWDOWNS = {0x04: "power cap", 0x08: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


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


class Nvml:
    """NVIDIA's management library, through ctypes; `names` are those of the GPUs."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._call("nvmlInit_v2")
        count = ctypes.c_uint()
        self._call("nvmlDeviceGetCount_v2", ctypes.byref(count))
        self._devices = [self._device(index) for index in range(count.value)]
        self.names = tuple(self._name(device) for device in self._devices)

    @staticmethod
    def find(root: Path = ROOT, load: Callable[[str], Any] = ctypes.CDLL) -> Nvml | str:
        """The library, or why it cannot be used."""
        if not any((root / "dev" / name).exists() for name in ("nvidiactl", "dxg")):
            return "NVML: no NVIDIA GPU is shown in /dev"
        try:
            return Nvml(load("libnvidia-ml.so.1"))
        except (OSError, AttributeError) as error:
            return f"NVML: {error}"

    def _call(self, name: str, *arguments: Any) -> None:
        """Raises OSError where NVML refuses, AttributeError where it is too old."""
        status = getattr(self._library, name)(*arguments)
        if status:
            words = {3: "this GPU does not support it", 4: "no permission"}
            raise OSError(f"{name}: {words.get(status, f'error {status}')}")

    def _device(self, index: int) -> ctypes.c_void_p:
        device = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), ctypes.byref(device))
        return device

    def _name(self, device: ctypes.c_void_p) -> str:
        buffer = ctypes.create_string_buffer(96)
        self._call("nvmlDeviceGetName", device, buffer, ctypes.c_uint(len(buffer)))
        return buffer.value.decode(errors="replace")

    def _energy_j(self, device: ctypes.c_void_p) -> float:
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", device, ctypes.byref(millijoules))
        return millijoules.value / 1e3

    def slowdowns(self) -> tuple[str, ...]:
        """Why GPUs run below their clocks now."""
        found: dict[str, None] = {}
        for device in self._devices:
            reasons = ctypes.c_ulonglong()
            call = "nvmlDeviceGetCurrentClocksThrottleReasons"
            try:
                self._call(call, device, ctypes.byref(reasons))
            except (OSError, AttributeError):
                continue
            found.update({word: None for bit, word in SLOWDOWNS.items() if reasons.value & bit})
        return tuple(found)

    def meter(self, wait: Callable[[float], bool] | None = None) -> SampledMeter | str:
        """A meter of every GPU that counts its energy (Volta and later), or why there is none."""
        counters = []
        for index, (name, device) in enumerate(zip(self.names, self._devices, strict=True)):
            counter = Counter(f"gpu {index} {name}", partial(self._energy_j, device))
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
    found = (rapl(root), nvml if isinstance(nvml, str) else nvml.meter())
    meters: list[Meter] = [meter for meter in found if not isinstance(meter, str)]
    reasons = [rails, *(reason for reason in found if isinstance(reason, str))]
    if "Raspberry Pi" in text(root / "proc/device-tree/model"):
        reasons.append("Raspberry Pi: the kernel shows no power; measure it at the plug")
    return meters, reasons


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

"""What machine this is, read without changing it; what cannot be read is None.

Files of the kernel are told of in proc(5) and in its Documentation/ABI; each reader takes the
folder that holds `proc` and `sys`, so that another machine's files can be read as well.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgedl.benchmark.jetson import Jetson, find_jetson, power_mode
from edgedl.benchmark.kernel_files import CPU, ROOT, core_list, number, text
from edgedl.core.isa import ISA_VARIABLE
from edgedl.core.memory import available_bytes, total_bytes
from edgedl.core.registry import version
from edgedl.core.target import PROCESSORS, Processor

ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm",
    "bf16", "sve", "sve2",
)  # fmt: skip
LIBRARIES = ("numpy", "onnxruntime", "openvino", "onnx", "onnx-ir", "onnxscript", "torch")
INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})
SENSOR_IS_OFF_MC = -100_000


@dataclass(frozen=True)
class Machine:
    """A processor, the share of it that this process may use, and the software on it.

    `steal` is the share of the cores' time since the start of the system that a hypervisor gave to
    others; `clock_mhz` the median of the cores' clocks now, `max_clock_mhz` the fastest core's
    limit; `power_mode` a Jetson's.
    """

    processor: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    physical_cores: int | None
    smt: bool | None
    usable_cores: int
    quota_cores: float | None
    memory_bytes: int | None
    available_bytes: int | None
    governor: str | None
    turbo: bool | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    power_mode: str | None
    celsius: dict[str, float]
    virtual: bool | None
    steal: float | None
    load_per_core: float | None
    gpus: tuple[str, ...]
    system: str
    python: str
    libraries: dict[str, str]
    isa_cap: str | None = None
    jetson: Jetson | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Ticks:
    """One core's time since the start of the system, in the kernel's ticks."""

    busy: int
    steal: int
    total: int


def this_machine(root: Path = ROOT) -> Machine:
    """The machine as it is now."""
    own = own_processor(root)
    try:
        load: float | None = os.getloadavg()[0] / own.usable_cores
    except OSError:
        load = None
    siblings = thread_siblings(root)
    clocks = clocks_mhz(root).values()
    limits = clocks_mhz(root, "cpuinfo_max_freq").values()
    return Machine(
        processor=own.processor,
        architecture=own.architecture,
        isa=own.isa,
        cores=os.cpu_count() or 1,
        physical_cores=len(set(siblings.values())) or None,
        smt=any(len(core) > 1 for core in siblings.values()) if siblings else None,
        usable_cores=own.usable_cores,
        quota_cores=quota_cores(root),
        memory_bytes=total_bytes(),
        available_bytes=available_bytes(),
        governor=text(root / CPU / "cpu0/cpufreq/scaling_governor") or None,
        turbo=_turbo(root),
        clock_mhz=median(clocks) if clocks else None,
        max_clock_mhz=max(limits, default=None),
        power_mode=power_mode(root),
        celsius=temperatures(root),
        virtual=own.virtual,
        steal=_steal(root),
        load_per_core=load,
        gpus=_gpus(root),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        libraries={name: v for name in LIBRARIES if (v := version(name))},
        isa_cap=own.isa_cap,
        jetson=find_jetson(root),
    )


@dataclass(frozen=True)
class OwnProcessor:
    """What of a machine decides how long an operator takes and what its kernels answer.

    Attributes:
        isa, isa_cap, usable_cores: as of `Machine`.
        virtual: whether it is a virtual machine's; None where nothing says so.
    """

    processor: str
    architecture: str
    isa: tuple[str, ...]
    usable_cores: int
    isa_cap: str | None
    virtual: bool | None


def own_processor(root: Path = ROOT) -> OwnProcessor:
    """The processor that this process may use; without all else that `this_machine` reads."""
    cpuinfo = text(root / "proc/cpuinfo")
    flags = set(_field(cpuinfo, "flags|Features").split())
    return OwnProcessor(
        processor=_field(cpuinfo, "model name|Model|Hardware")
        or text(root / "proc/device-tree/model")
        or platform.processor()
        or "unknown",
        architecture=platform.machine(),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        usable_cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        isa_cap=os.environ.get(ISA_VARIABLE),
        virtual="hypervisor" in flags if flags else None,
    )


def processor_of(target: str | None) -> Processor | None:
    """The processor that a target's name stands for, or else a cap that is set; None for this."""
    if target in PROCESSORS:
        return PROCESSORS[target or ""]
    cap = os.environ.get(ISA_VARIABLE)
    return next((one for one in PROCESSORS.values() if cap and one.cap == cap), None)


def _field(cpuinfo: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else ""


def _turbo(root: Path) -> bool | None:
    no_turbo = text(root / CPU / "intel_pstate/no_turbo")
    if no_turbo:
        return no_turbo == "0"
    boost = text(root / CPU / "cpufreq/boost")
    return boost == "1" if boost else None


def _steal(root: Path) -> float | None:
    cores = core_ticks(root).values()
    total = sum(core.total for core in cores)
    return sum(core.steal for core in cores) / total if total else None


def _gpus(root: Path) -> tuple[str, ...]:
    folders = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    names = tuple(name for path in folders if (name := _field(text(path), "Model")))
    if names:
        return names
    from edgedl.benchmark.nvml import Nvml

    nvml = Nvml.find(root)
    return () if isinstance(nvml, str) else nvml.names


def core_ticks(root: Path = ROOT) -> dict[int, Ticks]:
    """Every core's ticks; guest time is part of user time and not counted again."""
    found: dict[int, Ticks] = {}
    for line in text(root / "proc/stat").splitlines():
        match = re.match(r"cpu(\d+) (.+)", line)
        if match:
            fields = [int(word) for word in match[2].split()[:8]]
            user, nice, system, idle, waiting, irq, soft, steal = fields + [0] * (8 - len(fields))
            busy = user + nice + system + irq + soft
            found[int(match[1])] = Ticks(busy, steal, busy + steal + idle + waiting)
    return found


def core_deltas(before: Mapping[int, Ticks], after: Mapping[int, Ticks]) -> dict[int, Ticks]:
    """Each core's ticks between two readings; a core that was off at either is left out."""
    return {
        core: Ticks(
            b.busy - before[core].busy, b.steal - before[core].steal, b.total - before[core].total
        )
        for core, b in sorted(after.items())
        if core in before and b.total > before[core].total
    }


def process_ticks(pid: int, root: Path = ROOT) -> tuple[int, int] | None:
    """A process's parent, and its ticks with those of the children that it has waited for."""
    fields = text(root / "proc" / str(pid) / "stat").rpartition(")")[2].split()
    return (int(fields[1]), sum(map(int, fields[11:15]))) if len(fields) >= 15 else None


def family_ticks(pids: Iterable[int], root: Path = ROOT) -> dict[int, tuple[int, int]]:
    """Parent and ticks of each of these processes and of all their descendants."""
    found: dict[int, tuple[int, int]] = {}
    todo = list(pids)
    every: dict[int, list[int]] | None = None
    while todo:
        pid = todo.pop()
        entry = process_ticks(pid, root)
        if entry is None or pid in found:
            continue
        found[pid] = entry
        tasks = root / "proc" / str(pid) / "task"
        if (tasks / str(pid) / "children").exists():
            todo.extend(int(c) for t in tasks.glob("*/children") for c in text(t).split())
        else:  # a kernel without CONFIG_PROC_CHILDREN
            every = _every_child(root) if every is None else every
            todo.extend(every.get(pid, ()))
    return found


def _every_child(root: Path) -> dict[int, list[int]]:
    children: dict[int, list[int]] = {}
    for folder in (root / "proc").glob("[0-9]*"):
        entry = process_ticks(int(folder.name), root)
        if entry is not None:
            children.setdefault(entry[0], []).append(int(folder.name))
    return children


def thread_siblings(root: Path = ROOT) -> dict[int, tuple[int, ...]]:
    """Every core that is on, with all those that share its physical core, itself included."""
    found: dict[int, tuple[int, ...]] = {}
    for folder in (root / CPU).glob("cpu[0-9]*"):
        siblings = core_list(text(folder / "topology/thread_siblings_list"))
        if siblings:
            found[int(folder.name[3:])] = siblings
    return dict(sorted(found.items()))


def clocks_mhz(root: Path = ROOT, name: str = "scaling_cur_freq") -> dict[int, float]:
    """Every core's clock in MHz, or another of its cpufreq files; empty where none is shown."""
    found: dict[int, float] = {}
    for folder in (root / CPU).glob("cpu[0-9]*"):
        khz = number(folder / "cpufreq" / name)
        if khz is not None:
            found[int(folder.name[3:])] = khz / 1000
    return dict(sorted(found.items()))


def _zones(root: Path) -> dict[str, Path]:
    """Thermal zones by type, numbered where a type comes twice."""
    found: dict[str, Path] = {}
    folders = (root / "sys/class/thermal").glob("thermal_zone*")
    for folder in sorted(folders, key=lambda f: int(f.name[12:])):
        kind = text(folder / "type") or folder.name
        found[kind if kind not in found else f"{kind} {folder.name[12:]}"] = folder
    return found


def temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius by thermal zone; a sensor that is switched off is left out."""
    found = {name: number(folder / "temp") for name, folder in _zones(root).items()}
    return {name: t / 1000 for name, t in found.items() if t is not None and t > SENSOR_IS_OFF_MC}


def critical_temperatures(root: Path = ROOT) -> dict[str, float]:
    """Degrees Celsius at which a thermal zone shuts the machine down, where it says so."""
    found: dict[str, float] = {}
    for name, folder in _zones(root).items():
        for kind in folder.glob("trip_point_*_type"):
            limit = number(kind.with_name(kind.name.removesuffix("type") + "temp"))
            if text(kind) == "critical" and limit is not None and limit > 0:
                found[name] = limit / 1000
    return found


def cgroup_folders(root: Path = ROOT) -> list[Path]:
    """Where the processor quotas that bind this process stand: its cgroup's folder, all above it.

    Inside a container the path in /proc/self/cgroup may be the host's; the mount's root is then
    the container's own.
    """
    mount = root / "sys/fs/cgroup"
    found: list[Path] = []
    for line in text(root / "proc/self/cgroup").splitlines() or ["0::/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        place = Path(path.lstrip("/"))
        for top in (mount / controllers, mount / "cpu") if controllers else (mount,):
            folders = dict.fromkeys([top / place, *(top / above for above in place.parents)])
            shown = [folder for folder in folders if (folder / "cpu.stat").exists()]
            if shown:
                found.extend(shown)
                break
    return found


def quota_cores(root: Path = ROOT) -> float | None:
    """How many cores' worth of time the cgroup may use, the narrowest of those above it, too."""
    quotas: list[float] = []
    for folder in cgroup_folders(root):
        words = text(folder / "cpu.max").split()
        if len(words) == 2 and words[0] != "max":
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = number(folder / "cpu.cfs_quota_us"), number(folder / "cpu.cfs_period_us")
        if quota is not None and quota > 0 and period:
            quotas.append(quota / period)
    return min(quotas, default=None)


def quota_stops(root: Path = ROOT) -> tuple[int, float] | None:
    """How often the cgroup's quota stopped its processes so far, and for how many milliseconds."""
    stops, milliseconds, shown = 0, 0.0, False
    for folder in cgroup_folders(root):
        fields = dict(re.findall(r"^(\w+) (\d+)$", text(folder / "cpu.stat"), re.MULTILINE))
        shown |= "nr_throttled" in fields
        stops += int(fields.get("nr_throttled", 0))
        milliseconds += int(fields.get("throttled_usec", 0)) / 1e3
        milliseconds += int(fields.get("throttled_time", 0)) / 1e6
    return (stops, milliseconds) if shown else None


def energy_counters(root: Path = ROOT) -> tuple[str, ...]:
    """The energy counters of this machine that can be read, each with its rails."""
    from edgedl.benchmark.meters import find_meters

    meters, _ = find_meters(root)
    return tuple(f"{meter.name} ({', '.join(meter.rails)})" for meter in meters)

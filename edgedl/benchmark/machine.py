"""What machine this is, read without changing it; what cannot be read is None."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedl.core.memory import available_bytes, total_bytes
from edgedl.core.registry import version

ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimdhp", "asimddp", "i8mm",
    "bf16", "sve", "sve2",
)  # fmt: skip
LIBRARIES = ("numpy", "onnxruntime", "openvino", "onnx", "onnx-ir", "onnxscript", "torch")
INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"})


@dataclass(frozen=True)
class Machine:
    """A processor, the share of it that this process may use, and the software on it."""

    processor: str
    architecture: str
    isa: tuple[str, ...]
    cores: int
    usable_cores: int
    quota_cores: float | None
    memory_bytes: int | None
    available_bytes: int | None
    governor: str | None
    turbo: bool | None
    virtual: bool | None
    load_per_core: float | None
    system: str
    python: str
    libraries: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def this_machine() -> Machine:
    """The machine as it is now."""
    cpuinfo = _text("/proc/cpuinfo")
    flags = set(_field(cpuinfo, "flags|Features").split())
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        load: float | None = os.getloadavg()[0] / usable
    except OSError:
        load = None
    return Machine(
        processor=_field(cpuinfo, "model name|Model|Hardware") or platform.processor() or "unknown",
        architecture=platform.machine(),
        isa=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cores=os.cpu_count() or 1,
        usable_cores=usable,
        quota_cores=_quota(),
        memory_bytes=total_bytes(),
        available_bytes=available_bytes(),
        governor=_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
        turbo=_turbo(),
        virtual="hypervisor" in flags if flags else None,
        load_per_core=load,
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        libraries={name: v for name in LIBRARIES if (v := version(name))},
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _field(text: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else ""


def _quota() -> float | None:
    words = _text("/sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        return int(words[0]) / int(words[1])
    return None


def _turbo() -> bool | None:
    no_turbo = _text("/sys/devices/system/cpu/intel_pstate/no_turbo").strip()
    if no_turbo:
        return no_turbo == "0"
    boost = _text("/sys/devices/system/cpu/cpufreq/boost").strip()
    return boost == "1" if boost else None


def energy_counters() -> tuple[str, ...]:
    """Files on this machine from which energy or power can be read."""
    rapl = Path("/sys/class/powercap").glob("*/energy_uj")
    rails = Path("/sys/class/hwmon").glob("*/in*_label")
    return tuple(sorted(str(path) for path in (*rapl, *rails) if os.access(path, os.R_OK)))

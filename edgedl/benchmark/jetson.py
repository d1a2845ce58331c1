"""What NVIDIA's system on a Jetson says of its module, its clocks and the memory that is shared.

Read from the device tree, `/etc/nv_tegra_release`, the kernel's devfreq and cpufreq folders
(Documentation/ABI/testing/sysfs-class-devfreq) and `/proc/meminfo`; no program is started.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedl.benchmark.kernel_files import CPU, ROOT, number, text

RELEASE = re.compile(r"R(\d+) \(release\), REVISION: ([\d.]+)")
# The release of NVIDIA's Linux for Tegra that each JetPack stands on.
JETPACKS = {"32": "4", "34": "5", "35": "5", "36": "6", "38": "7"}
GPU = re.compile(r"gpu-gpc-\d+|\d+\.(?:gpu|gv11b|gp10b|gm20b|ga10b)")


@dataclass(frozen=True)
class Jetson:
    """A Jetson as it is now.

    Attributes:
        module: as its device tree says it.
        l4t: the release of Linux for Tegra, such as `36.4.3`; None where it is not told.
        jetpack: its major version, where the release is known.
        power_mode: by name, or its number.
        gpu_mhz, gpu_least_mhz, gpu_most_mhz: the GPU's clock now, and what it moves between.
        clocks_locked: whether the GPU and every core have one clock alone, as after
            `jetson_clocks`; None where that cannot be read.
        swap_bytes, swap_free_bytes: of all swap files and zram.
    """

    module: str
    l4t: str | None
    jetpack: str | None
    power_mode: str | None
    gpu_mhz: float | None
    gpu_least_mhz: float | None
    gpu_most_mhz: float | None
    clocks_locked: bool | None
    swap_bytes: int | None
    swap_free_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def find_jetson(root: Path = ROOT) -> Jetson | None:
    """The Jetson that this is; None where it is none."""
    module = text(root / "proc/device-tree/model")
    release = RELEASE.search(text(root / "etc/nv_tegra_release"))
    if release is None and "jetson" not in module.lower():
        return None
    gpu = _gpu(root)
    clock, least, most = (
        None if gpu is None else _mhz(gpu / name) for name in ("cur_freq", "min_freq", "max_freq")
    )
    return Jetson(
        module=module or "unknown Jetson",
        l4t=f"{release[1]}.{release[2]}" if release else None,
        jetpack=JETPACKS.get(release[1]) if release else None,
        power_mode=power_mode(root),
        gpu_mhz=clock,
        gpu_least_mhz=least,
        gpu_most_mhz=most,
        clocks_locked=_locked(root, least, most),
        swap_bytes=_meminfo(root, "SwapTotal"),
        swap_free_bytes=_meminfo(root, "SwapFree"),
    )


def power_mode(root: Path = ROOT) -> str | None:
    """A Jetson's power mode by name, as nvpmodel keeps it, or its number where it has no name."""
    status = re.search(r"pmode:(\d+)", text(root / "var/lib/nvpmodel/status"))
    if status is None:
        return None
    mode = int(status[1])
    listing = text(root / "etc/nvpmodel.conf")
    name = re.search(rf"^<\s*POWER_MODEL\s+ID={mode}\s+NAME=(\S+)", listing, re.MULTILINE)
    return name[1] if name else str(mode)


def clock_doubt(jetson: Jetson | None) -> str | None:
    """That clocks move while something is timed, in words; None where they do not, or nobody
    knows."""
    if jetson is None or jetson.clocks_locked is not False:
        return None
    return (
        "the clocks of this Jetson are not locked, so that figures depend on what ran before:"
        " `sudo jetson_clocks` locks them"
    )


def _gpu(root: Path) -> Path | None:
    found = sorted((root / "sys/class/devfreq").glob("*"))
    return next((folder for folder in found if GPU.fullmatch(folder.name)), None)


def _mhz(path: Path) -> float | None:
    hertz = number(path)
    return None if hertz is None else hertz / 1e6


def _locked(root: Path, least: float | None, most: float | None) -> bool | None:
    cores = (root / CPU).glob("cpu[0-9]*/cpufreq")
    names = ("scaling_min_freq", "scaling_max_freq")
    bounds = [(least, most), *((_mhz(f / names[0]), _mhz(f / names[1])) for f in cores)]
    known = [(low, high) for low, high in bounds if low is not None and high is not None]
    return all(low == high for low, high in known) if known else None


def _meminfo(root: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None

"""The files that kernels show of some machines, as their documentation says, written to a folder.

Sources: Documentation/power/powercap, Documentation/hwmon/ina3221 and ina238,
Documentation/driver-api/thermal/sysfs-api, Documentation/admin-guide/cgroup-v2 and proc(5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

CPU = "sys/devices/system/cpu"


def write(root: Path, files: Mapping[str, object]) -> Path:
    """Write each file, with the line break that the kernel puts at its end."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


def cpuinfo(model: str, flags: str) -> str:
    """/proc/cpuinfo of an x86 processor."""
    return f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags}"


def stat(root: Path, cores: Mapping[int, tuple[int, int, int]]) -> None:
    """/proc/stat with ticks of user, idle and stolen time of each core."""
    sums = [sum(ticks) for ticks in zip(*cores.values(), strict=True)]
    lines = [f"cpu  {sums[0]} 0 0 {sums[1]} 0 0 0 {sums[2]} 0 0"]
    lines += [
        f"cpu{n} {user} 0 0 {idle} 0 0 0 {stolen} 0 0" for n, (user, idle, stolen) in cores.items()
    ]
    write(root, {"proc/stat": "\n".join([*lines, "intr 6062813 0 0", "ctxt 6467438"])})


def process(
    root: Path, pid: int, parent: int, ticks: int, waited: int = 0, children: str | None = ""
) -> None:
    """/proc/PID/stat with user ticks and those of waited-for children, and the list of children."""
    fields = f"S {parent} {pid} {pid} 0 -1 4194304 99 0 0 0 {ticks} 0 {waited} 0 20 0 1 0 1220506"
    write(root, {f"proc/{pid}/stat": f"{pid} (a (b) c) {fields}"})
    if children is not None:
        write(root, {f"proc/{pid}/task/{pid}/children": children})


class Steps:
    """Instead of sleeping, does one step after another; then it says that it is time to stop."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def __call__(self, seconds: float) -> bool:
        assert seconds > 0
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now: float = 100.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


def _zone(name: str, joules: float, span_uj: int = 262_143_328_850) -> dict[str, object]:
    return {"name": name, "energy_uj": round(joules * 1e6), "max_energy_range_uj": span_uj}


def _under(folder: str, files: Mapping[str, object]) -> dict[str, object]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def intel_desktop(root: Path) -> Path:
    """Two performance cores of two threads, 5.6 and 5.8 GHz, and two efficient ones of 4.3 GHz."""
    files: dict[str, object] = {
        "proc/cpuinfo": cpuinfo("13th Gen Intel(R) Core(TM) i9-13900K", "fpu avx2 avx_vnni"),
        "proc/loadavg": "0.52 0.58 0.59 1/1000 12345",
        "proc/self/cgroup": "0::/user.slice/session-2.scope",
        f"{CPU}/intel_pstate/no_turbo": 0,
        "sys/devices/cpu_core/cpus": "0-3",
        "sys/devices/cpu_atom/cpus": "4-5",
        **_under("sys/class/powercap/intel-rapl:0", _zone("package-0", 1000)),
        **_under("sys/class/powercap/intel-rapl:0:0", _zone("core", 700)),
        **_under("sys/class/powercap/intel-rapl:0:1", _zone("uncore", 20)),
        **_under("sys/class/powercap/intel-rapl:0:2", _zone("dram", 90)),
        **_under("sys/class/powercap/intel-rapl:1", _zone("psys", 3000)),
        **_under("sys/class/powercap/intel-rapl-mmio:0", _zone("package-0", 1000)),
        **_under("sys/class/thermal/thermal_zone0", {"type": "acpitz", "temp": 27800}),
        **_under("sys/class/thermal/thermal_zone1", {"type": "acpitz", "temp": 16800}),
        **_under(
            "sys/class/thermal/thermal_zone2",
            {
                "type": "x86_pkg_temp", "temp": 61000,
                "trip_point_0_type": "passive", "trip_point_0_temp": 0,
                "trip_point_1_type": "critical", "trip_point_1_temp": 100000,
            },
        ),
    }  # fmt: skip
    siblings = ("0-1", "0-1", "2-3", "2-3", "4", "5")
    limits = (5_600_000, 5_600_000, 5_800_000, 5_800_000, 4_300_000, 4_300_000)
    for core, (pair, khz) in enumerate(zip(siblings, limits, strict=True)):
        files |= {
            f"{CPU}/cpu{core}/topology/thread_siblings_list": pair,
            f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": khz,
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": khz,
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "powersave",
            f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count": 7,
            f"{CPU}/cpu{core}/thermal_throttle/package_throttle_count": 9,
        }
    stat(root, dict.fromkeys(range(6), (100, 900, 0)))
    return write(root, files)


def amd_server(root: Path) -> Path:
    """Two sockets, whose RAPL zones bear Intel's name; two cores of two threads."""
    span, group = 65_532_610_987, "sys/fs/cgroup/system.slice"
    files: dict[str, object] = {
        "proc/cpuinfo": cpuinfo("AMD EPYC 9654 96-Core Processor", "fpu avx2 avx512_vnni"),
        "proc/self/cgroup": "0::/system.slice/bench.service",
        f"{group}/bench.service/cpu.max": "400000 100000",
        f"{group}/bench.service/cpu.stat": "usage_usec 5\nnr_throttled 0\nthrottled_usec 0",
        f"{group}/cpu.max": "150000 100000",
        "sys/fs/cgroup/cpu.max": "max 100000",
        f"{group}/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 4500",
        "sys/fs/cgroup/cpu.stat": "usage_usec 900",
        f"{CPU}/cpufreq/boost": 1,
        **_under("sys/class/powercap/intel-rapl:0", _zone("package-0", 65_000, span)),
        **_under("sys/class/powercap/intel-rapl:0:0", _zone("core", 20_000, span)),
        **_under("sys/class/powercap/intel-rapl:1", _zone("package-1", 10_000, span)),
        **_under("sys/class/powercap/intel-rapl:1:0", _zone("core", 3_000, span)),
    }
    for core, pair in enumerate(("0,2", "1,3", "0,2", "1,3")):
        files |= {
            f"{CPU}/cpu{core}/topology/thread_siblings_list": pair,
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "performance",
        }
    stat(root, dict.fromkeys(range(4), (100, 900, 0)))
    return write(root, files)


def jetson_orin(root: Path) -> Path:
    """An Orin NX: the INA3221's first channel feeds the module, the others are parts of it."""
    ina = {
        "name": "ina3221",
        "in1_label": "VDD_IN", "in1_enable": 1, "in1_input": 5000, "curr1_input": 2000,
        "in2_label": "VDD_CPU_GPU_CV", "in2_enable": 1, "in2_input": 5000, "curr2_input": 800,
        "in3_label": "VDD_SOC", "in3_enable": 1, "in3_input": 5000, "curr3_input": 400,
        "in4_input": 10, "in5_input": 4, "in6_input": 2,
        "in7_label": "sum of shunt voltages", "in7_input": 16, "curr4_input": 3200,
    }  # fmt: skip
    files: dict[str, object] = {
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp",
        "proc/device-tree/model": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0",
        "etc/nvpmodel.conf": "# < POWER_MODEL ID=2 NAME=OLD >\n< POWER_MODEL ID=0 NAME=MAXN >\n"
        "CPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=15W >\n< PM_CONFIG DEFAULT=2 >",
        "var/lib/nvpmodel/status": "pmode:0002",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic,"
        " EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025",
        "proc/meminfo": "MemTotal:       16000000 kB\nSwapTotal:       8000000 kB\n"
        "SwapFree:        7000000 kB\n",
        **_under(
            "sys/class/devfreq/17000000.gpu",
            {"cur_freq": 306000000, "min_freq": 306000000, "max_freq": 918000000},
        ),
        "sys/class/devfreq/15340000.vic/cur_freq": 115200000,
        "sys/class/hwmon/hwmon0/name": "pwmfan",
        **_under("sys/class/hwmon/hwmon1", ina),
        "sys/class/hwmon/hwmon2/name": "soctherm_oc",
        "sys/class/hwmon/hwmon2/oc1_event_cnt": 0,
        "sys/class/hwmon/hwmon2/oc3_event_cnt": 5,
        **_under("sys/class/thermal/thermal_zone0", {"type": "cpu-thermal", "temp": 52312}),
        **_under("sys/class/thermal/thermal_zone1", {"type": "gpu-thermal"}),
        **_under("sys/class/thermal/thermal_zone2", {"type": "cv0-thermal", "temp": -256000}),
    }  # fmt: skip
    for core in range(2):
        files |= {
            f"{CPU}/cpu{core}/topology/thread_siblings_list": core,
            f"{CPU}/cpu{core}/cpu_capacity": 1024,
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": 1984000,
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "schedutil",
        }
    stat(root, dict.fromkeys(range(2), (100, 900, 0)))
    return write(root, files)


def raspberry_pi_5(root: Path) -> Path:
    """Four cores; the kernel shows voltages, a temperature and the firmware's complaints."""
    files: dict[str, object] = {
        "proc/cpuinfo": "Features\t: fp asimd asimddp\n\nModel\t: Raspberry Pi 5 Model B Rev 1.0",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        **_under("sys/class/hwmon/hwmon1", {"name": "rp1_adc", "in1_input": 1480}),
        **_under("sys/class/hwmon/hwmon2", {"name": "rpi_volt", "in0_lcrit_alarm": 0}),
        **_under(
            "sys/class/thermal/thermal_zone0",
            {
                "type": "cpu-thermal", "temp": 48500,
                "trip_point_0_type": "critical", "trip_point_0_temp": 110000,
            },
        ),
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50000",
    }  # fmt: skip
    for core in range(4):
        files |= {
            f"{CPU}/cpu{core}/topology/thread_siblings_list": core,
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": 2_400_000,
            f"{CPU}/cpu{core}/cpufreq/cpuinfo_max_freq": 2_400_000,
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "ondemand",
        }
    stat(root, dict.fromkeys(range(4), (100, 900, 0)))
    return write(root, files)


def virtual_machine(root: Path) -> Path:
    """Two cores of a host that shows nothing but stolen time; cgroups of version 1."""
    files: dict[str, object] = {
        "proc/cpuinfo": cpuinfo("AMD EPYC", "fpu avx2 hypervisor"),
        "proc/self/cgroup": "2:cpuacct:/\n1:cpu:/\n0::/",
        "sys/fs/cgroup/cpu/cpu.stat": "nr_periods 0\nnr_throttled 0\nthrottled_time 0",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": -1,
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": 100000,
    }
    for core in range(2):
        files[f"{CPU}/cpu{core}/topology/thread_siblings_list"] = core
    stat(root, dict.fromkeys(range(2), (100, 880, 20)))
    return write(root, files)


def half_a_core(root: Path) -> Path:
    """A container with half a core's time, in a cgroup namespace of its own."""
    virtual_machine(root)
    return write(
        root,
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/cpu.max": "50000 100000",
            "sys/fs/cgroup/cpu.stat": "usage_usec 8000\nnr_throttled 4\nthrottled_usec 120000",
        },
    )

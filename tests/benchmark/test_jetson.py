"""A Jetson's module, release, clocks and swap, read from the files of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgedl.benchmark.jetson import clock_doubt, find_jetson
from edgedl.benchmark.machine import this_machine
from edgedl.benchmark.unlike import unlike
from edgedl.cli.doctor import jetson_rows
from tests.benchmark import trees

CPU = "sys/devices/system/cpu"


def test_an_orin_is_read_whole(tmp_path: Path) -> None:
    found = find_jetson(trees.jetson_orin(tmp_path))
    assert found is not None
    assert found.module.startswith("NVIDIA Jetson Orin NX")
    assert (found.l4t, found.jetpack, found.power_mode) == ("36.4.3", "6", "15W")
    assert (found.gpu_mhz, found.gpu_least_mhz, found.gpu_most_mhz) == (306, 306, 918)
    assert (found.swap_bytes, found.swap_free_bytes) == (8_192_000_000, 7_168_000_000)
    assert found.clocks_locked is False
    rows = dict(jetson_rows(found.to_json()))
    assert rows["jetson"].endswith("L4T 36.4.3, JetPack 6")
    assert rows["clocks"] == "GPU 306 MHz of 306 to 918, not locked: `sudo jetson_clocks`"
    assert rows["swap"] == "7.17 GB free of 8.19 GB"


@pytest.mark.parametrize(("core_least", "locked"), [(1_984_000, True), (729_600, False)])
def test_clocks_are_locked_where_the_gpu_and_every_core_have_one(
    tmp_path: Path, core_least: int, locked: bool
) -> None:
    root = trees.jetson_orin(tmp_path)
    files: dict[str, object] = {"sys/class/devfreq/17000000.gpu/min_freq": 918_000_000}
    for core in range(2):
        files[f"{CPU}/cpu{core}/cpufreq/scaling_min_freq"] = 1_984_000 if core else core_least
        files[f"{CPU}/cpu{core}/cpufreq/scaling_max_freq"] = 1_984_000
    found = find_jetson(trees.write(root, files))
    assert found is not None
    assert found.clocks_locked is locked
    assert (clock_doubt(found) is None) is locked


def test_a_thors_gpu_has_another_name(tmp_path: Path) -> None:
    found = find_jetson(
        trees.write(
            tmp_path,
            {
                "proc/device-tree/model": "NVIDIA Jetson AGX Thor Developer Kit\0",
                "etc/nv_tegra_release": "# R38 (release), REVISION: 2.1, GCID: 1",
                "sys/class/devfreq/gpu-gpc-0/cur_freq": 1_575_000_000,
                "sys/class/devfreq/gpu-nvd-0/cur_freq": 1_692_000_000,
            },
        )
    )
    assert found is not None
    assert (found.jetpack, found.gpu_mhz, found.clocks_locked) == ("7", 1575, None)
    assert clock_doubt(found) is None
    assert (found.power_mode, found.swap_bytes) == (None, None)


def test_what_is_no_jetson_is_none(tmp_path: Path) -> None:
    assert find_jetson(trees.raspberry_pi_5(tmp_path)) is None
    assert clock_doubt(None) is None


def test_figures_of_two_power_modes_are_not_compared(tmp_path: Path) -> None:
    here = this_machine(trees.jetson_orin(tmp_path))
    there = replace(here, power_mode="MAXN")
    assert here.jetson is not None
    assert unlike(here.to_json(), there.to_json()) == ("power mode: 15W against MAXN",)

"""What machines show of themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgedl.benchmark.jetson import power_mode
from edgedl.benchmark.kernel_files import core_list
from edgedl.benchmark.machine import (
    cgroup_folders,
    clocks_mhz,
    critical_temperatures,
    energy_counters,
    family_ticks,
    quota_cores,
    quota_stops,
    temperatures,
    this_machine,
    thread_siblings,
)
from edgedl.benchmark.unlike import library_differences, unlike
from tests.benchmark import trees


def test_an_intel_desktop(tmp_path: Path) -> None:
    machine = this_machine(trees.intel_desktop(tmp_path))
    assert machine.processor == "13th Gen Intel(R) Core(TM) i9-13900K"
    assert machine.isa == ("avx2", "avx_vnni")
    assert (machine.physical_cores, machine.smt) == (4, True)
    assert (machine.governor, machine.turbo, machine.virtual) == ("powersave", True, False)
    assert (machine.clock_mhz, machine.max_clock_mhz) == (5600, 5800)
    assert machine.celsius == {"acpitz": 27.8, "acpitz 1": 16.8, "x86_pkg_temp": 61}
    assert machine.steal == 0
    assert (machine.power_mode, machine.quota_cores, machine.gpus) == (None, None, ())


def test_an_amd_server_is_bound_by_the_quota_of_its_slice(tmp_path: Path) -> None:
    machine = this_machine(trees.amd_server(tmp_path))
    assert (machine.physical_cores, machine.smt) == (2, True)
    assert (machine.governor, machine.turbo) == ("performance", True)
    assert machine.quota_cores == 1.5
    assert quota_stops(tmp_path) == (3, 4.5)


def test_a_jetson(tmp_path: Path) -> None:
    machine = this_machine(trees.jetson_orin(tmp_path))
    assert machine.processor == "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    assert machine.power_mode == "15W"
    assert machine.celsius == {"cpu-thermal": 52.312}
    assert (machine.physical_cores, machine.smt, machine.turbo) == (2, False, None)
    assert (machine.clock_mhz, machine.max_clock_mhz) == (1984, None)


def test_a_power_mode_without_a_name_is_a_number(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    trees.write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0008 fmode:quiet"})
    assert power_mode(tmp_path) == "8"


def test_a_raspberry_pi(tmp_path: Path) -> None:
    machine = this_machine(trees.raspberry_pi_5(tmp_path))
    assert machine.processor == "Raspberry Pi 5 Model B Rev 1.0"
    assert machine.isa == ("asimd", "asimddp")
    assert (machine.clock_mhz, machine.max_clock_mhz) == (2400, 2400)
    assert critical_temperatures(tmp_path) == {"cpu-thermal": 110}


def test_a_virtual_machine_hides_almost_everything(tmp_path: Path) -> None:
    machine = this_machine(trees.virtual_machine(tmp_path))
    assert machine.virtual
    assert machine.steal == 0.02
    assert (machine.governor, machine.turbo, machine.clock_mhz) == (None, None, None)
    assert (machine.celsius, machine.quota_cores) == ({}, None)
    assert quota_stops(tmp_path) == (0, 0)


def test_an_empty_tree_is_a_machine_that_hides_all(tmp_path: Path) -> None:
    machine = this_machine(tmp_path)
    assert (machine.physical_cores, machine.smt, machine.steal) == (None, None, None)
    assert machine.virtual is None
    assert quota_stops(tmp_path) is None
    assert clocks_mhz(tmp_path) == temperatures(tmp_path) == thread_siblings(tmp_path) == {}


def test_a_container_with_half_a_core(tmp_path: Path) -> None:
    assert quota_cores(trees.half_a_core(tmp_path)) == 0.5
    assert quota_stops(tmp_path) == (4, 120)


def test_quotas_of_version_1_below_a_path_that_the_container_does_not_show(tmp_path: Path) -> None:
    trees.virtual_machine(tmp_path)
    trees.write(
        tmp_path,
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc\n0::/docker/abc",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": 250000,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/cpu.stat": "nr_throttled 2\nthrottled_time 3000000",
        },
    )
    assert cgroup_folders(tmp_path) == [tmp_path / "sys/fs/cgroup/cpu,cpuacct"]
    assert quota_cores(tmp_path) == 2.5
    assert quota_stops(tmp_path) == (2, 3)


def test_gpus_by_the_drivers_own_files(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)
    information = "Model: \t\t NVIDIA H200\nIRQ:   \t\t 200\nVideo BIOS: \t 96.00"
    folder = "proc/driver/nvidia/gpus/0000:01:00.0"
    trees.write(tmp_path, {f"{folder}/information": information})
    assert this_machine(tmp_path).gpus == ("NVIDIA H200",)


def test_energy_counters_are_those_that_can_be_read(tmp_path: Path) -> None:
    assert energy_counters(tmp_path) == ()
    trees.jetson_orin(tmp_path)
    assert energy_counters(tmp_path) == ("board (VDD_IN, VDD_CPU_GPU_CV, VDD_SOC)",)


@pytest.mark.parametrize(
    ("listing", "cores"),
    [("", ()), ("3", (3,)), ("0-2", (0, 1, 2)), ("0-1,8,10-11", (0, 1, 8, 10, 11))],
)
def test_lists_of_cores(listing: str, cores: tuple[int, ...]) -> None:
    assert core_list(listing) == cores


def test_a_family_is_found_with_and_without_the_kernels_list_of_children(tmp_path: Path) -> None:
    for children in ("20 30", "", ""), (None, None, None):
        root = tmp_path / str(children[0])
        trees.process(root, 10, 1, 5, waited=2, children=children[0])
        trees.process(root, 20, 10, 3, children=children[1])
        trees.process(root, 30, 10, 4, children=children[2])
        trees.process(root, 40, 1, 99, children=children[2])
        assert family_ticks([10, 77], root) == {10: (1, 7), 20: (10, 3), 30: (10, 4)}


def test_the_document_can_be_written_and_keeps_its_keys(tmp_path: Path) -> None:
    document = json.loads(json.dumps(this_machine(trees.jetson_orin(tmp_path)).to_json()))
    assert document["power_mode"] == "15W"
    assert document["celsius"] == {"cpu-thermal": 52.312}
    assert document.keys() >= {
        "processor", "architecture", "isa", "cores", "usable_cores", "quota_cores", "memory_bytes",
        "available_bytes", "governor", "turbo", "virtual", "load_per_core", "system", "python",
        "libraries",
    }  # fmt: skip


BASE: dict[str, Any] = {
    "processor": "A", "architecture": "x86_64", "isa": ["avx2", "fma"], "usable_cores": 4,
    "quota_cores": None, "governor": "powersave", "turbo": True, "power_mode": None,
    "gpus": ["NVIDIA H200"], "libraries": {"openvino": "2026.4", "numpy": "2.4"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"processor": "B"}, "processor: A against B"),
        ({"architecture": "aarch64"}, "architecture: x86_64 against aarch64"),
        ({"usable_cores": 2}, "usable cores: 4 against 2"),
        ({"governor": "performance"}, "clock governor: powersave against performance"),
        ({"turbo": False}, "turbo: True against False"),
        ({"quota_cores": 0.5}, "quota: none against 0.5 cores"),
        ({"isa": ["avx2", "amx_int8"]}, "instruction sets: fma more against amx_int8 more"),
        ({"isa": ["fma"]}, "instruction sets: avx2 more against none more"),
        ({"gpus": ["NVIDIA L4"]}, "GPUs: NVIDIA H200 against NVIDIA L4"),
    ],
)
def test_what_makes_machines_unlike(change: dict[str, Any], sentence: str) -> None:
    assert unlike(BASE, {**BASE, **change}) == (sentence,)
    assert len(unlike({**BASE, **change}, BASE)) == 1


def test_power_modes_are_compared_where_both_are_known() -> None:
    modes = [{**BASE, "power_mode": mode} for mode in ("MAXN", "15W")]
    assert unlike(*modes) == ("power mode: MAXN against 15W",)


@pytest.mark.parametrize(
    "change",
    [
        {"isa": ["fma", "avx2"]}, {"isa": []}, {"gpus": []}, {"governor": None}, {"turbo": None},
        {"power_mode": "15W"}, {"python": "3.13"}, {"libraries": {}},
    ],
)  # fmt: skip
def test_what_is_not_known_or_does_not_matter_is_not_held_against_them(
    change: dict[str, Any],
) -> None:
    assert unlike(BASE, {**BASE, **change}) == ()


def test_a_document_of_an_older_run_lacks_keys() -> None:
    assert unlike(BASE, {}) == unlike({}, BASE) == ()
    assert library_differences(BASE, {}) == ()


def test_library_differences_are_apart() -> None:
    other = {**BASE, "libraries": {"openvino": "2025.1", "numpy": "2.4", "torch": "2.13"}}
    assert unlike(BASE, other) == ()
    assert library_differences(BASE, other) == ("openvino: 2026.4 against 2025.1",)

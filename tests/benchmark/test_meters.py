"""Energy counters, worked out by hand on recorded machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgedl.benchmark.meters import board, find_meters, rapl
from edgedl.core.errors import Unsupported
from tests.benchmark import trees
from tests.benchmark.trees import Clock, Steps

POWERCAP = "sys/class/powercap"
HWMON = "sys/class/hwmon"


def counts(root: Path, zone: str, joules: float) -> Callable[[], object]:
    name = f"{POWERCAP}/{zone}/energy_uj"
    return lambda: trees.write(root, {name: round(joules * 1e6)})


def test_a_desktop_counts_each_joule_once(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)
    meter = rapl(tmp_path, Steps())
    assert not isinstance(meter, str)
    core, uncore, dram = "package-0/core", "package-0/uncore", "package-0/dram"
    assert meter.rails == ("package-0", core, uncore, dram, "psys")
    assert meter.counted == ("package-0", dram)
    meter.start()
    counts(tmp_path, "intel-rapl:0", 1250)()
    counts(tmp_path, "intel-rapl:0:0", 900)()
    counts(tmp_path, "intel-rapl:0:2", 110)()
    counts(tmp_path, "intel-rapl:1", 3400)()
    expected = {"package-0": 250, core: 200, uncore: 0, dram: 20, "psys": 400}
    assert meter.stop() == pytest.approx(expected)


def test_a_counter_that_wraps_once(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)
    counts(tmp_path, "intel-rapl:0", 262_100)()
    meter = rapl(tmp_path, Steps())
    assert not isinstance(meter, str)
    meter.start()
    counts(tmp_path, "intel-rapl:0", 56.67115)()
    assert meter.stop()["package-0"] == pytest.approx(262_143.32885 - 262_100 + 56.67115)


def test_a_counter_that_wraps_again_and_again_between_readings(tmp_path: Path) -> None:
    trees.amd_server(tmp_path)
    turns = [counts(tmp_path, "intel-rapl:0", joules) for joules in (500, 40_000, 100, 60_000, 30)]
    meter = rapl(tmp_path, Steps(*turns))
    assert not isinstance(meter, str)
    assert meter.counted == ("package-0", "package-1")
    meter.start()
    spent = meter.stop()
    assert spent["package-0"] == pytest.approx(3 * 65_532.610987 - 65_000 + 30)
    assert spent["package-1"] == spent["package-1/core"] == 0


def test_zones_of_amd_under_their_own_name(tmp_path: Path) -> None:
    zone = {"name": "package-0", "energy_uj": 7, "max_energy_range_uj": 100}
    trees.write(tmp_path, {f"{POWERCAP}/amd-rapl:0/{name}": value for name, value in zone.items()})
    meter = rapl(tmp_path, Steps())
    assert not isinstance(meter, str)
    assert meter.rails == meter.counted == ("package-0",)


def test_a_package_that_two_drivers_show_is_counted_once(tmp_path: Path) -> None:
    trees.amd_server(tmp_path)
    zone = {"name": "package-0", "energy_uj": 65_000_000_000, "max_energy_range_uj": 65_532_610_987}
    trees.write(tmp_path, {f"{POWERCAP}/amd-rapl:0/{name}": value for name, value in zone.items()})
    meter = rapl(tmp_path, Steps())
    assert not isinstance(meter, str)
    assert meter.counted == ("package-0", "package-1")


def test_a_counter_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)
    (tmp_path / POWERCAP / "intel-rapl:0/energy_uj").unlink()
    (tmp_path / POWERCAP / "intel-rapl:0/energy_uj").mkdir()
    reason = rapl(tmp_path)
    assert isinstance(reason, str)
    assert reason.startswith("RAPL: /sys/class/powercap/intel-rapl:0/energy_uj cannot be read")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_counter_for_root_alone_says_so(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)
    for path in (tmp_path / POWERCAP).glob("*/energy_uj"):
        path.chmod(0)
    reason = rapl(tmp_path)
    assert isinstance(reason, str)
    assert "only root may read" in reason
    assert "sudo chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj" in reason


def test_a_counter_that_falls_silent_is_an_error_at_the_end_alone(tmp_path: Path) -> None:
    trees.amd_server(tmp_path)
    source = tmp_path / POWERCAP / "intel-rapl:0/energy_uj"
    meter = rapl(tmp_path, Steps(source.unlink, counts(tmp_path, "intel-rapl:0", 65_200)))
    assert not isinstance(meter, str)
    meter.start()
    assert meter.stop()["package-0"] == pytest.approx(200)
    silent = rapl(tmp_path, Steps(source.unlink))
    assert not isinstance(silent, str)
    silent.start()
    with pytest.raises(Unsupported, match="`package-0` no longer answers"):
        silent.stop()


def test_a_jetsons_rails_by_trapezoids(tmp_path: Path) -> None:
    trees.jetson_orin(tmp_path)
    clock = Clock()

    def draws(milliamperes: int) -> Callable[[], object]:
        def step() -> None:
            clock.passes(2)
            trees.write(tmp_path, {f"{HWMON}/hwmon1/curr1_input": milliamperes})

        return step

    meter = board(tmp_path, clock, Steps(draws(4000), draws(6000)))
    assert not isinstance(meter, str)
    assert meter.rails == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")
    assert meter.counted == ("VDD_IN",)
    meter.start()
    # 10 W, 20 W after 2 s, 30 W after 2 s more; 4 W and 2 W all the time
    expected = {"VDD_IN": 30 + 50, "VDD_CPU_GPU_CV": 16, "VDD_SOC": 8}
    assert meter.stop() == pytest.approx(expected)


def test_a_reading_that_fails_is_bridged(tmp_path: Path) -> None:
    trees.jetson_orin(tmp_path)
    clock = Clock()
    volts = f"{HWMON}/hwmon1/in1_input"

    def fails() -> None:
        clock.passes(1)
        (tmp_path / volts).unlink()

    def answers() -> None:
        clock.passes(3)
        trees.write(tmp_path, {volts: 10000})

    meter = board(tmp_path, clock, Steps(fails, answers))
    assert not isinstance(meter, str)
    meter.start()
    assert meter.stop()["VDD_IN"] == pytest.approx((10 + 20) / 2 * 4)


def test_a_board_without_a_whole_rail_leaves_out_what_another_rail_feeds(tmp_path: Path) -> None:
    def channel(n: int, label: str) -> dict[str, object]:
        return {f"in{n}_label": label, f"in{n}_input": 5000, f"curr{n}_input": 1000}

    first = {"name": "ina3221", **channel(1, "VDD_GPU_SOC"), **channel(2, "VDD_CPU_CV")}
    first |= channel(3, "VIN_SYS_5V0")
    second = {"name": "ina3221", **channel(1, "NC"), **channel(2, "VDDQ_VDD2_1V8AO")}
    second |= {**channel(3, "OFF"), "in3_enable": 0}
    for number, chip in ((9, first), (10, second)):
        trees.write(tmp_path, {f"{HWMON}/hwmon{number}/{name}": x for name, x in chip.items()})
    meter = board(tmp_path)
    assert not isinstance(meter, str)
    assert meter.rails == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO")
    assert meter.counted == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")


def test_an_ina238_gives_microwatts(tmp_path: Path) -> None:
    chip = {"name": "ina238", "in1_input": 19000, "curr1_input": 1000, "power1_input": 23_500_000}
    trees.write(tmp_path, {f"{HWMON}/hwmon4/{name}": value for name, value in chip.items()})
    clock = Clock()
    meter = board(tmp_path, clock, Steps(lambda: clock.passes(2)))
    assert not isinstance(meter, str)
    assert meter.rails == meter.counted == ("VIN",)
    meter.start()
    assert meter.stop()["VIN"] == pytest.approx(47)


def test_a_rail_that_never_answers_is_named(tmp_path: Path) -> None:
    trees.jetson_orin(tmp_path)
    for path in (tmp_path / HWMON / "hwmon1").glob("curr*"):
        path.unlink()
    assert board(tmp_path) == (
        "INA3221, INA238: rails that do not answer: VDD_IN, VDD_CPU_GPU_CV, VDD_SOC"
        " in /sys/class/hwmon"
    )


@pytest.mark.parametrize(
    ("tree", "names", "reasons"),
    [
        (trees.intel_desktop, ["RAPL"], ["INA3221, INA238", "NVML"]),
        (trees.amd_server, ["RAPL"], ["INA3221, INA238", "NVML"]),
        (trees.jetson_orin, ["board"], ["RAPL, NVML"]),
        (trees.raspberry_pi_5, [], ["INA3221, INA238", "RAPL", "NVML", "Raspberry Pi"]),
        (trees.virtual_machine, [], ["INA3221, INA238", "RAPL", "NVML"]),
        (trees.half_a_core, [], ["INA3221, INA238", "RAPL", "NVML"]),
    ],
)
def test_every_machine_has_meters_or_reasons(
    tmp_path: Path, tree: Callable[[Path], Path], names: list[str], reasons: list[str]
) -> None:
    meters, why = find_meters(tree(tmp_path))
    assert [meter.name for meter in meters] == names
    assert [reason.split(":")[0] for reason in why] == reasons

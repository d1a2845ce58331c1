"""What a machine did during a run, on recorded machines that are told what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from edgedl.benchmark.machine import Ticks
from edgedl.benchmark.watch import (
    Background,
    Conditions,
    Counters,
    Reading,
    Spread,
    Watch,
    clock_fall,
    clock_step,
    counters,
    doubts,
    invalid,
    summarize,
    used_ticks,
)
from tests.benchmark import trees
from tests.benchmark.trees import Clock, Steps

CPU = trees.CPU
NOTHING = Counters({}, None)
STILL = Conditions(
    seconds=10, samples=21, busy_share={"0": 1.0, "1": 0.0}, own_cores=1.0, neighbour_cores=0.0,
    steal=0.0, quota_stops=0, quota_stopped_ms=0.0, mhz=None, clock_fall=None, clock_core=None,
    celsius=None, critical_celsius=None, throttles=None, firmware=None, gpu_slowdowns=(), load=None,
    clock_step_s=0.0,
)  # fmt: skip


def reading(
    at_s: float,
    cores: Mapping[int, Ticks] | None = None,
    own: Mapping[int, tuple[int, int]] | None = None,
    mhz: Mapping[int, float] | None = None,
    wall_s: float | None = None,
) -> Reading:
    return Reading(
        at_s,
        at_s if wall_s is None else wall_s,
        cores or {},
        own or {},
        mhz or {},
        {},
        None,
        None,
        (),
    )


def test_the_background_steps_until_it_is_told_to_stop() -> None:
    steps: list[int] = []
    background = Background(lambda: steps.append(len(steps)), 1.0, Steps(*[lambda: None] * 3))
    background.stop()
    assert steps == [0, 1, 2]


def test_load_is_ours_or_our_neighbours_or_stolen() -> None:
    first = reading(0, {0: Ticks(100, 10, 1000), 1: Ticks(50, 0, 1000)}, {7: (1, 40)})
    last = reading(10, {0: Ticks(1000, 30, 2000), 1: Ticks(350, 0, 2000)}, {7: (1, 740)})
    found = summarize([first, last], NOTHING, NOTHING, {})
    assert found.busy_share == {"0": 0.9, "1": 0.3}
    assert found.own_cores == pytest.approx(0.7)
    assert found.neighbour_cores == pytest.approx(0.5)
    assert found.steal == pytest.approx(20 / 2000)
    assert (found.seconds, found.samples) == (10, 2)


def test_what_is_hidden_is_none() -> None:
    found = summarize([reading(0), reading(10)], NOTHING, NOTHING, {})
    assert found.busy_share == {}
    assert found.own_cores is found.neighbour_cores is found.steal is found.quota_stops is None
    assert found.mhz is found.celsius is found.throttles is found.firmware is found.load is None
    assert doubts(found, 1) == ()
    assert invalid(found) is None


def test_ticks_of_children_are_counted_once() -> None:
    # the child uses 30, ends, and is waited for; then its parent uses 5 more
    turns = [{1: (0, 10)}, {1: (0, 10), 2: (1, 20)}, {1: (0, 10), 2: (1, 30)}, {1: (0, 45)}]
    assert used_ticks(turns) == 35


def test_ticks_of_a_process_that_ended_without_a_parent_are_kept() -> None:
    assert used_ticks([{1: (0, 10), 5: (0, 0)}, {1: (0, 10), 5: (0, 8)}, {1: (0, 12)}]) == 10


def test_ticks_of_a_grandchild_that_ended_with_its_parent_are_the_grandparents() -> None:
    before = {1: (0, 10), 2: (1, 20), 3: (2, 30)}
    assert used_ticks([before, {1: (0, 62)}]) == 2


def run(
    mhz: Callable[[float], Mapping[int, float]], busy: Mapping[int, float], samples: int = 13
) -> list[Reading]:
    """Readings a second apart of cores with a constant busy share of 100 ticks a second."""
    return [
        reading(
            t,
            {c: Ticks(round(100 * t * share), 0, 100 * t) for c, share in busy.items()},
            mhz=mhz(t),
        )
        for t in range(samples)
    ]


def test_a_clock_that_falls_while_its_core_is_busy() -> None:
    # 12 s: the first third has 2000 MHz, the last 1800; the middle does not matter
    readings = run(lambda t: {0: 2000 if t <= 4 else 100 if t < 8 else 1800}, {0: 1.0})
    fall, core = clock_fall(readings)
    assert fall == pytest.approx(0.1)
    assert core == 0


def test_the_first_third_is_set_against_the_last() -> None:
    # medians at 2.5 s and 10 s
    fall, _ = clock_fall(run(lambda t: {0: 2000 - 50 * t}, {0: 1.0}))
    assert fall == pytest.approx(1 - 1500 / 1875)


def test_an_idle_cores_clock_may_fall() -> None:
    readings = run(lambda t: {0: 2000, 1: 2000 - 100 * t}, {0: 1.0, 1: 0.2})
    assert clock_fall(readings) == (0, 0)
    assert clock_fall(run(lambda t: {0: 2000 - 100 * t}, {0: 0.4})) == (None, None)


def test_the_worst_of_the_busy_cores_is_named() -> None:
    readings = run(
        lambda t: {0: 2000 + t, 3: 2000 if t < 6 else 1500, 4: 2000}, {0: 1, 3: 0.9, 4: 1}
    )
    fall, core = clock_fall(readings)
    assert fall == pytest.approx(0.25)
    assert core == 3


def test_a_short_run_says_nothing_of_clocks() -> None:
    assert clock_fall(run(lambda t: {0: 2000 - 500 * t}, {0: 1.0}, samples=4)) == (None, None)
    assert clock_fall([reading(0)]) == (None, None)


@pytest.mark.parametrize(
    ("walls", "step"), [([0, 1, 2], 0), ([0, 1, 5.5], 3.5), ([0, -2, 2], -3), ([0, 3, 2], 2)]
)
def test_a_wall_clock_that_strays(walls: list[float], step: float) -> None:
    readings = [reading(t, wall_s=1e9 + wall) for t, wall in enumerate(walls)]
    assert summarize(readings, NOTHING, NOTHING, {}).clock_step_s == pytest.approx(step)


def test_a_step_after_the_block_counts_and_does_not_hide_a_greater_one_within(
    tmp_path: Path,
) -> None:
    clock, wall = Clock(), Clock()
    with Watch((), root=tmp_path, clock=clock, wall=wall, wait=Steps()) as seen:
        clock.passes(10)
        wall.passes(8)
    assert seen.clock_step_s() == pytest.approx(-2)
    wall.passes(3.5)
    assert seen.clock_step_s() == pytest.approx(-2)
    wall.passes(5)
    assert seen.clock_step_s() == pytest.approx(6.5)
    assert seen.conditions.clock_step_s == pytest.approx(-2)


def watched(root: Path, *steps: Callable[[], object], pids: tuple[int, ...] = ()) -> Conditions:
    clock = Clock()

    def second(step: Callable[[], object]) -> Callable[[], object]:
        def passes() -> None:
            clock.passes(1)
            step()

        return passes

    waits = Steps(*(second(step) for step in steps))
    with Watch(pids, root=root, clock=clock, wall=clock, wait=waits) as seen:
        pass
    return seen.conditions


def test_a_desktop_that_throttles(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)

    def hot() -> None:
        trees.write(
            tmp_path,
            {
                "sys/class/thermal/thermal_zone2/temp": 95000,
                f"{CPU}/cpu3/thermal_throttle/core_throttle_count": 11,
                f"{CPU}/cpu2/thermal_throttle/package_throttle_count": 12,
            },
        )

    found = watched(tmp_path, hot)
    assert found.samples == 3
    assert found.celsius is not None
    assert found.celsius["x86_pkg_temp"] == Spread(61, 95, 95)
    assert found.critical_celsius == {"x86_pkg_temp": 100}
    assert found.throttles is not None
    assert found.throttles[f"{CPU}/cpu3/thermal_throttle/core_throttle_count"] == 4
    assert sum(found.throttles.values()) == 7
    assert doubts(found, 1) == ("`x86_pkg_temp` reached 95 C, its limit is 100 C",)
    worst = f"{CPU}/cpu3/thermal_throttle/core_throttle_count"
    assert invalid(found) == f"the hardware slowed itself: `{worst}` went up by 4"


def test_a_clock_that_falls_on_a_desktop(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)

    def turn(second: int) -> Callable[[], None]:
        def step() -> None:
            busy = {
                n: (100 + 100 * second * (n == 2), 900 + 100 * second * (n != 2), 0)
                for n in range(6)
            }
            trees.stat(tmp_path, busy)
            khz = 5_800_000 if second < 6 else 5_220_000
            trees.write(tmp_path, {f"{CPU}/cpu2/cpufreq/scaling_cur_freq": khz})

        return step

    found = watched(tmp_path, *(turn(second) for second in range(1, 13)))
    assert found.mhz is not None
    assert found.mhz["2"] == Spread(5220, 5220, 5800)
    assert found.clock_fall == pytest.approx(0.1)
    assert invalid(found) == "the clock of core 2 fell by 10% during the run"


def test_a_container_that_its_quota_stops(tmp_path: Path) -> None:
    trees.half_a_core(tmp_path)
    more = "usage_usec 9000\nnr_throttled 16\nthrottled_usec 460000"
    found = watched(tmp_path, lambda: trees.write(tmp_path, {"sys/fs/cgroup/cpu.stat": more}))
    assert (found.quota_stops, found.quota_stopped_ms) == (12, 340)
    assert invalid(found) == "the processor quota stopped the process 12 times, 340 ms"


def test_a_jetson_that_draws_too_much(tmp_path: Path) -> None:
    trees.jetson_orin(tmp_path)
    counter = "sys/class/hwmon/hwmon2/oc3_event_cnt"
    found = watched(tmp_path, lambda: trees.write(tmp_path, {counter: 8}))
    assert invalid(found) == f"the hardware slowed itself: `{counter}` went up by 3"


def test_a_raspberry_pi_whose_firmware_complains(tmp_path: Path) -> None:
    trees.raspberry_pi_5(tmp_path)
    flags = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    assert watched(tmp_path).firmware == 0
    low = watched(
        tmp_path,
        lambda: trees.write(tmp_path, {flags: "50001"}),
        lambda: trees.write(tmp_path, {flags: "50000"}),
    )
    assert doubts(low, 1) == ("the firmware reported under-voltage",)
    assert invalid(low) is None
    slow = watched(tmp_path, lambda: trees.write(tmp_path, {flags: "5000e"}))
    words = "a capped clock, throttling, the soft temperature limit"
    assert invalid(slow) == f"the firmware reported {words}"


def test_a_virtual_machine_with_neighbours(tmp_path: Path) -> None:
    trees.virtual_machine(tmp_path)
    trees.process(tmp_path, 50, 1, 0)

    def later() -> None:
        trees.stat(tmp_path, {0: (195, 880, 25), 1: (130, 950, 20)})
        trees.process(tmp_path, 50, 1, 20, children="51")
        trees.process(tmp_path, 51, 50, 70)

    found = watched(tmp_path, later, pids=(50,))
    assert found.busy_share == pytest.approx({"0": 0.95, "1": 0.3})
    assert found.own_cores == pytest.approx(0.9)
    assert found.neighbour_cores == pytest.approx(0.35)
    assert found.steal == pytest.approx(0.025)
    assert found.mhz is found.celsius is found.clock_fall is found.throttles is None
    assert doubts(found, 1) == (
        "the hypervisor gave 2.5% of the cores' time to others",
        "other processes kept 0.35 cores busy",
    )
    assert invalid(found) is None


def test_an_empty_tree_is_watched(tmp_path: Path) -> None:
    found = watched(tmp_path, lambda: None)
    assert found.samples == 3
    assert found.load is found.quota_stops is None
    assert (doubts(found, 1), invalid(found)) == ((), None)


def test_this_machine_is_watched() -> None:
    with Watch(wait=Steps(lambda: None)) as seen:
        pass
    assert seen.conditions.samples == 3


def test_a_gpu_at_its_power_cap_is_a_doubt_and_one_that_is_hot_is_not_valid(
    tmp_path: Path,
) -> None:
    seen = iter([("power cap",), ("heat", "power cap"), ("power brake",)])
    with Watch((), root=tmp_path, wait=Steps(lambda: None), gpu=lambda: next(seen)) as watch:
        pass
    found = watch.conditions
    assert found.gpu_slowdowns == ("heat", "power brake", "power cap")
    assert doubts(found, 1) == ("a GPU ran below its clocks: power cap",)
    assert invalid(found) == "a GPU slowed itself: heat, power brake"
    capped = replace(found, gpu_slowdowns=("power cap",))
    assert doubts(capped, 1) == ("a GPU ran below its clocks: power cap",)
    assert invalid(capped) is None


def test_a_quiet_run_is_beyond_doubt() -> None:
    assert doubts(STILL, 1) == ()
    assert invalid(STILL) is None


@pytest.mark.parametrize(
    ("fine", "doubtful", "words"),
    [
        ({"steal": 0.01}, {"steal": 0.011}, "hypervisor"),
        ({"neighbour_cores": 0.1}, {"neighbour_cores": 0.11}, "other processes"),
        ({"own_cores": 1.5}, {"own_cores": 1.6}, "with 1 thread asked for"),
        (
            {"celsius": {"cpu": Spread(50, 60, 90)}, "critical_celsius": {"cpu": 100.0}},
            {"celsius": {"cpu": Spread(50, 60, 90.5)}, "critical_celsius": {"cpu": 100.0}},
            "`cpu` reached",
        ),
        (
            {"neighbour_cores": None, "load": Spread(1, 2, 9)},
            {"neighbour_cores": None, "load": Spread(1, 2.5, 9)},
            "load average",
        ),
    ],
)
def test_where_doubts_begin(
    fine: dict[str, object], doubtful: dict[str, object], words: str
) -> None:
    assert doubts(replace(STILL, **fine), 1) == ()
    (sentence,) = doubts(replace(STILL, **doubtful), 1)
    assert words in sentence


def test_more_threads_may_keep_more_cores_busy() -> None:
    assert doubts(replace(STILL, own_cores=3.9), 4) == ()
    assert "2 threads asked for" in doubts(replace(STILL, own_cores=3.9), 2)[0]


def test_where_a_fall_of_the_clock_begins() -> None:
    assert invalid(replace(STILL, clock_fall=0.05, clock_core=0)) is None
    assert invalid(replace(STILL, clock_fall=-0.3, clock_core=0)) is None
    assert invalid(replace(STILL, clock_fall=0.06, clock_core=0)) is not None


def test_where_a_step_of_the_wall_clock_begins() -> None:
    assert invalid(replace(STILL, clock_step_s=-0.5)) is None
    stepped = replace(STILL, clock_step_s=-0.6)
    assert invalid(stepped) == clock_step(stepped)
    assert "stepped by -0.6 s" in (clock_step(stepped) or "")
    assert doubts(stepped, 1) == ()


def test_every_reason_is_given() -> None:
    found = invalid(replace(STILL, clock_fall=0.2, clock_core=1, quota_stops=3))
    assert found is not None
    assert found.count("; ") == 1


def test_the_document_can_be_written(tmp_path: Path) -> None:
    document = json.loads(json.dumps(watched(trees.intel_desktop(tmp_path)).to_json()))
    assert document["mhz"]["4"] == {"min": 4300, "median": 4300, "max": 4300}
    assert document["load"]["max"] == 0.52


def test_counters_name_their_files(tmp_path: Path) -> None:
    assert counters(tmp_path) == NOTHING
    found = counters(trees.jetson_orin(tmp_path)).throttles
    folder = "sys/class/hwmon/hwmon2"
    assert found == {f"{folder}/oc1_event_cnt": 0, f"{folder}/oc3_event_cnt": 5}

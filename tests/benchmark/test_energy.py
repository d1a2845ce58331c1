"""Energy of a call, worked out by hand."""

from __future__ import annotations

import json

import pytest

from edgedl.benchmark.energy import Energy, energy_per_call
from edgedl.benchmark.meters import Counter, Meter, Power, SampledMeter
from edgedl.core.errors import BadOption, EngineFailed, Unsupported
from tests.benchmark.trees import Clock, Steps


class Plant:
    """A machine of one package and its cores, whose power is known."""

    def __init__(self, idle_w: list[float], work_w: float, calls_per_s: float = 10) -> None:
        self.idle_w, self.work_w, self.calls_per_s = idle_w, work_w, calls_per_s
        self.clock, self.joules = Clock(), 7.0

    def meter(self) -> Meter:
        package, part = Counter("package-0", lambda: self.joules), Power("part", lambda: 2.0)
        return SampledMeter("RAPL", [package, part], ["package-0"], 1.0, self.clock, Steps())

    def spends(self, seconds: float, watts: float) -> None:
        self.clock.passes(seconds)
        self.joules += seconds * watts

    def idle(self, seconds: float) -> None:
        self.spends(seconds, self.idle_w.pop(0))

    def work(self, seconds: float) -> int:
        self.spends(seconds, self.work_w)
        return round(seconds * self.calls_per_s)

    def measured(self, window_s: float = 10.0) -> Energy:
        return energy_per_call([self.meter()], self.idle, self.work, window_s, clock=self.clock)


def test_energy_of_a_call_by_hand() -> None:
    found = Plant([9.0, 11.0], 30.0).measured(20.0)
    assert found.calls == 200
    assert found.window_s == 20
    assert found.idle_w == pytest.approx(10)
    assert found.work_w == pytest.approx(30)
    assert found.gross_mj == pytest.approx(30 * 20 / 200 * 1000)
    assert found.net_mj == pytest.approx((30 - 10) * 20 / 200 * 1000)
    assert found.rails == pytest.approx({"package-0": 3000, "part": 2 * 20 / 200 * 1000})
    assert found.drift == pytest.approx(0.2)
    assert found.doubts == ()


def test_work_that_ends_early_is_called_again() -> None:
    plant = Plant([10.0, 10.0], 30.0)
    asked = []

    def work(seconds: float) -> int:
        asked.append(seconds)
        return plant.work(min(seconds, 4.0))

    found = energy_per_call([plant.meter()], plant.idle, work, clock=plant.clock)
    assert asked == pytest.approx([10, 6, 2])
    assert (found.window_s, found.calls) == (10, 100)


def test_an_idle_machine_that_changes_is_a_doubt() -> None:
    found = Plant([8.0, 12.0], 30.0).measured()
    assert found.drift == pytest.approx(0.4)
    assert found.doubts == ("energy: the idle machine drew 8 W before and 12 W after",)
    assert Plant([12.0, 8.0], 30.0).measured().doubts


def test_net_energy_below_zero_stays() -> None:
    found = Plant([10.0, 10.0], 9.0).measured()
    assert found.net_mj == pytest.approx(-100)
    assert len(found.doubts) == 1
    assert "less than the idle machine" in found.doubts[0]


def test_several_meters_add_up() -> None:
    plant = Plant([10.0, 10.0], 30.0)
    gpu = SampledMeter("NVML", [Power("gpu", lambda: 5.0)], ["gpu"], 1.0, plant.clock, Steps())
    found = energy_per_call([plant.meter(), gpu], plant.idle, plant.work, clock=plant.clock)
    assert found.idle_w == pytest.approx(15)
    assert found.gross_mj == pytest.approx(3500)
    assert found.net_mj == pytest.approx(2000)


def test_the_document_can_be_written() -> None:
    plant = Plant([8.0, 12.0], 30.0)
    found = energy_per_call(
        [plant.meter()], plant.idle, plant.work, clock=plant.clock, power_mode="15W"
    )
    document = json.loads(json.dumps(found.to_json()))
    assert document["power_mode"] == "15W"
    assert document["doubts"] == list(found.doubts)
    assert document.keys() >= {
        "net_mj",
        "gross_mj",
        "idle_w",
        "window_s",
        "calls",
        "rails",
        "drift",
    }


def test_what_is_refused() -> None:
    plant = Plant([10.0, 10.0], 30.0)
    with pytest.raises(Unsupported, match="no energy counter"):
        energy_per_call([], plant.idle, plant.work)
    with pytest.raises(BadOption, match="a window of 2 s"):
        energy_per_call([plant.meter()], plant.idle, plant.work, 2.0)
    with pytest.raises(EngineFailed, match="no call ended"):
        energy_per_call([plant.meter()], plant.idle, lambda _: 0, clock=plant.clock)


def test_meters_are_stopped_where_the_work_fails() -> None:
    plant = Plant([10.0, 10.0], 30.0)
    stopped = []

    class Noted(SampledMeter):
        def stop(self) -> dict[str, float]:
            stopped.append(self.name)
            return super().stop()

    def fails(seconds: float) -> int:
        raise EngineFailed("it broke")

    meter = Noted("RAPL", [Power("package-0", lambda: 1.0)], [], 1.0, plant.clock, Steps())
    with pytest.raises(EngineFailed, match="it broke"):
        energy_per_call([meter], plant.idle, fails, clock=plant.clock)
    assert stopped == ["RAPL", "RAPL"]


class Varying(Plant):
    """Its work draws another power in every window."""

    def __init__(self, idle_w: list[float], works_w: list[float]) -> None:
        super().__init__(idle_w, 0.0)
        self.works_w = works_w

    def work(self, seconds: float) -> int:
        self.work_w = self.works_w.pop(0)
        return super().work(seconds)

    def measured_in(self, windows: int) -> Energy:
        return energy_per_call(
            [self.meter()], self.idle, self.work, windows=windows, clock=self.clock
        )


def test_of_five_windows_the_median_counts_each_net_of_the_idleness_around_it() -> None:
    # idle 10 10 10 20 20 20 W; net 20, 15, 23, 25, 14 W at 10 calls a second
    plant = Varying([10, 10, 10, 20, 20, 20], [30, 25, 38, 45, 34])
    found = plant.measured_in(5)
    assert plant.idle_w == plant.works_w == []
    assert found.windows_mj == pytest.approx((2000, 1500, 2300, 2500, 1400))
    assert found.net_mj == pytest.approx(2000)
    assert (found.gross_mj, found.idle_w) == pytest.approx((3000, 10))
    document = found.to_json()
    assert (document["least_mj"], document["most_mj"]) == pytest.approx((1400, 2500))
    assert (found.window_s, found.calls) == (10, 100)
    # the third window lies between 10 W and 20 W, which is said though another one counts
    assert found.doubts == ("energy: the idle machine drew 10 W before and 20 W after",)


def test_of_two_windows_the_greater_counts_and_a_doubt_is_said_once() -> None:
    found = Varying([10, 20, 10], [30, 40]).measured_in(2)
    assert found.windows_mj == pytest.approx((1500, 2500))
    assert found.net_mj == pytest.approx(2500)
    assert len(found.doubts) == 2
    same = Varying([10, 10, 10, 10], [9, 9, 9]).measured_in(3)
    assert len(same.doubts) == 1


def test_one_window_is_its_own_spread() -> None:
    document = Plant([9.0, 11.0], 30.0).measured().to_json()
    assert document["windows_mj"] == [document["net_mj"]]
    assert document["least_mj"] == document["most_mj"] == document["net_mj"]

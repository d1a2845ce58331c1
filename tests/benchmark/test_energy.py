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

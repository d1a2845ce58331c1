"""Prices of layers: arithmetic by hand, rows kept, bounded time; real engines where noted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgedl.core.errors import BadOption, EngineFailed
from edgedl.core.layers import LayerShape
from edgedl.core.progress import silent
from edgedl.passes.layers import Stand
from edgedl.runtime import installed_engines
from edgedl.search.layer_clock import Rig, Taken, time_stands
from edgedl.search.layer_times import LayerTimes
from tests.passes.test_layers import LAYERS

INSTALLED = installed_engines()
CALL_US, READ_US, ROW_US = 20.0, 2.0, 0.25


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


def conv(inputs: int, outputs: int, groups: int = 1) -> LayerShape:
    return LayerShape("conv", inputs, outputs, (8, 8), (3, 3), (1, 1), (1,) * 4, (1, 1), groups)


def cost(shape: LayerShape) -> float:
    """What a layer costs on a machine that we can calculate."""
    return 1.0 + 0.01 * shape.inputs + 0.03 * shape.outputs


class Counted:
    """A machine on which a call costs 20 us and 0.25 for each channel that it reads, and a reader 2
    us and 0.125 for each of its channels; it counts what it is asked."""

    def __init__(self, refuses: Callable[[LayerShape], bool] = lambda shape: False) -> None:
        self.stands: list[Stand] = []
        self.rigs: set[Rig] = set()
        self.refuses = refuses

    def __call__(self, rig: Rig, stands: Sequence[Stand]) -> list[Taken]:
        self.stands += stands
        found = []
        for stand in stands:
            shape = stand.shape
            refused = rig.precision == "int8" and self.refuses(shape)
            read = READ_US + 0.125 * shape.outputs if shape.kind not in ("lstm", "gru") else 0.0
            wide = shape.inputs if stand.depth else shape.outputs
            us = CALL_US + ROW_US * wide + stand.rows * (stand.depth * cost(shape) + read)
            found.append(Taken(us, "no kernel" if refused else ""))
        return found


def times(timer: Counted, **more: object) -> LayerTimes:
    return LayerTimes(INSTALLED[0], timer=timer, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "shape",
    [
        conv(64, 16),
        conv(24, 96),
        conv(20, 20, 20),
        LAYERS["conv"],
        LAYERS["series"],
        LAYERS["transposed"],
        LAYERS["dense"],
        LAYERS["rows"],
        LAYERS["lstm"],
        LAYERS["gru"],
    ],
)
def test_a_price_is_the_layer_alone(shape: LayerShape) -> None:
    assert times(Counted()).price([shape]) == [pytest.approx(cost(shape), abs=0.01)]


def test_a_second_table_times_nothing() -> None:
    shapes = [conv(8, 16), conv(16, 16, 16), LAYERS["lstm"], conv(8, 16)]
    first, again = Counted(), Counted()
    found = times(first).price(shapes)
    assert len(found) == 4
    assert found[0] == found[3]
    assert len(first.stands) == len(set(first.stands))
    assert times(again).price(shapes) == found
    assert again.stands == []
    other = Counted()
    LayerTimes(INSTALLED[0], threads=2, timer=other).price(shapes)
    assert len(other.stands) == len(first.stands)


def test_a_kill_loses_one_batch_at_most() -> None:
    class Killed(Counted):
        def __call__(self, rig: Rig, stands: Sequence[Stand]) -> list[Taken]:
            if len(self.stands) >= 16:
                raise KeyboardInterrupt
            return super().__call__(rig, stands)

    shapes = [conv(i, 16) for i in range(1, 31)]
    with pytest.raises(KeyboardInterrupt):
        times(Killed()).price(shapes)
    after = Counted()
    times(after).price(shapes)
    assert len([s for s in after.stands if s.shape in shapes and s.depth == 1]) <= 30 - 16 + 3


def test_what_is_not_in_int8_is_priced_in_float_and_said() -> None:
    timer = Counted(refuses=lambda shape: shape.kind == "conv_transpose")
    found = times(timer)
    shapes = [LAYERS["transposed"], conv(8, 8)]
    assert found.price(shapes) == [pytest.approx(cost(shape), abs=0.01) for shape in shapes]
    assert found.said == [
        f"1 layer shapes were timed in float on {INSTALLED[0]}: no kernel",
    ]


class Clock:
    """Two seconds for every batch."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_where_time_is_short_a_grid_is_timed_and_the_rest_lies_between() -> None:
    shapes = [conv(i, o) for i in range(8, 41) for o in range(8, 41)]
    timer = Counted()
    found = times(timer, most_seconds=12, seconds=Clock())
    prices = found.price(shapes)
    asked = {stand.shape for stand in timer.stands if not stand.shape.is_depthwise}
    assert len(asked) < 60
    # Costs grow evenly, so that what lies between is right.
    assert prices == [pytest.approx(cost(shape), abs=0.02) for shape in shapes]
    assert len(found.interpolated) == len(set(shapes) - asked)
    assert f"{len(found.interpolated)} layer shapes were not timed" in found.said[0]
    before, found.most_seconds = len(timer.stands), 0
    assert found.price([conv(13, 13)]) == [pytest.approx(cost(conv(13, 13)), abs=0.02)]
    assert len(timer.stands) == before


def test_a_grid_has_its_corners_however_short_the_time() -> None:
    shapes = [conv(i, o) for i in range(8, 41, 4) for o in range(8, 41, 4)]
    timer = Counted()
    prices = times(timer, most_seconds=0, seconds=Clock()).price(shapes)
    asked = {stand.shape for stand in timer.stands if not stand.shape.is_depthwise}
    corners = {conv(i, o) for i in (8, 40) for o in (8, 40)}
    assert asked == corners | {conv(9, 8), conv(8, 9)}
    assert prices == [pytest.approx(cost(shape), abs=0.02) for shape in shapes]


def test_words_that_no_engine_knows() -> None:
    with pytest.raises(BadOption, match="unknown"):
        LayerTimes("onnxrntime")
    with pytest.raises(BadOption, match="int4"):
        LayerTimes(INSTALLED[0], "int4")


@pytest.mark.parametrize("engine", INSTALLED)
def test_real_layers_have_prices(engine: str) -> None:
    batches: list[int] = []

    def timer(rig: Rig, stands: Sequence[Stand]) -> list[Taken]:
        batches.append(len(stands))
        ticks = iter(range(0, 1 << 62, 50_000))
        return time_stands(rig, stands, clock=lambda: next(ticks))

    table = LayerTimes(engine, progress=silent, timer=timer)
    shapes = [LAYERS[kind] for kind in ("depthwise", "transposed", "dense", "gru")]
    found = table.price(shapes)
    assert all(us > 0 for us in found)
    assert sum(batches) == table.stands_timed
    assert bool(table.in_float) == (engine == "onnxruntime") or LAYERS["gru"] in table.in_float
    assert LayerTimes(engine, timer=Counted()).price(shapes) == found


def test_a_stand_takes_what_the_clock_says() -> None:
    ticks = iter(range(0, 1 << 62, 50_000))
    built = LayerTimes(INSTALLED[0]).rig
    found = time_stands(built, [Stand(conv(4, 4), 2)], clock=lambda: next(ticks))
    assert found == [Taken(50.0, beside_us=50.0)]


def test_a_machine_that_is_slow_at_first_does_not_matter() -> None:
    class Slow:
        """500 us for each of the first hundred calls, 50 for those behind."""

        def __init__(self) -> None:
            self.now, self.reads = 0, 0

        def __call__(self) -> int:
            self.reads += 1
            self.now += 500_000 if self.reads < 200 else 50_000
            return self.now

    built, stands = LayerTimes(INSTALLED[0]).rig, [Stand(conv(4, 4), 2), Stand(conv(8, 8), 2)]
    assert time_stands(built, stands, clock=Slow()) == [Taken(50.0, beside_us=50.0)] * 2


def test_prices_are_those_of_the_machine_at_its_fastest() -> None:
    class Slower(Counted):
        """Each batch twice as slow as the one before, and its yardstick too."""

        def __call__(self, rig: Rig, stands: Sequence[Stand]) -> list[Taken]:
            slow = 2.0 ** (len(self.stands) // 8 % 5)
            return [Taken(t.us * slow, t.refused, 30 * slow) for t in super().__call__(rig, stands)]

    shapes = [conv(i, 16) for i in range(1, 31)]
    wanted = [pytest.approx(cost(shape), abs=0.01) for shape in shapes]
    assert times(Slower()).price(shapes) == wanted
    assert times(Counted()).price(shapes) == wanted


def test_a_layer_that_no_precision_takes_is_an_error() -> None:
    wrong = LayerShape("conv", 4, 4, (2, 2), (5, 5), (1, 1), (0,) * 4, (1, 1))
    with pytest.raises(EngineFailed):
        LayerTimes(INSTALLED[0]).price([wrong])

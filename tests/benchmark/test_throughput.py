"""Batches and streams, counted by hand on a clock that every thread has for itself."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from threading import local

import numpy as np
import pytest

from edgedl.benchmark.throughput import Rate, throughput
from edgedl.core.errors import EngineFailed
from edgedl.core.model import Dimension, Signature, Tensor
from edgedl.runtime import engine, installed_engines
from tests import models

MS = 1_000_000
SECOND = 1_000 * MS


class Clock(local):
    now = 0

    def __call__(self) -> int:
        return self.now


class Device:
    """Opens sessions whose call takes 10 ms and 2 ms a sample, and keeps what they were given."""

    def __init__(self, shape: tuple[Dimension, ...] | None, breaks_after_ns: int = 10**18) -> None:
        self.signature = Signature((Tensor("x", "float32", shape), Tensor("rate", "int64", ())), ())
        self.breaks_after_ns = breaks_after_ns
        self.clock = Clock()
        self.given: list[Mapping[str, np.ndarray]] = []
        self.opened = self.closed = 0

    def __call__(self) -> Device:
        self.opened += 1
        return self

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.clock.now > self.breaks_after_ns:
            raise EngineFailed("the engine ran out of luck")
        self.given.append(inputs)
        self.clock.now += (10 + 2 * len(inputs["x"])) * MS
        return {}

    def close(self) -> None: ...

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed += 1


def feeds(number: int = 3, width: int = 2) -> list[dict[str, np.ndarray]]:
    return [
        {"x": np.full((1, width), i, np.float32), "rate": np.array(16000)} for i in range(number)
    ]


def rates(device: Device, rows: list[dict[str, np.ndarray]], **settings: object) -> list[Rate]:
    return throughput(device, rows, clock=device.clock, **settings)  # type: ignore[arg-type]


def test_batches_and_streams_by_hand() -> None:
    device = Device(("batch", 2))
    found = rates(device, feeds(), batches=(1, 4), streams=(1, 2), seconds=1)
    # 12 ms a call: 83 calls end within a second, the last at 996 ms; 18 ms: 55, at 990 ms. The
    # main thread warms up at its own time, so that every stream's clock begins at 0.
    assert found == [
        Rate(1, 1, pytest.approx(83 / 0.996), 83),
        Rate(1, 2, pytest.approx(166 / 0.996), 166),
        Rate(4, 1, pytest.approx(220 / 0.990), 220),
        Rate(4, 2, pytest.approx(440 / 0.990), 440),
    ]
    assert (device.opened, device.closed) == (6, 6)


def test_a_call_that_ends_on_the_bell_counts_and_one_after_it_does_not() -> None:
    device = Device(("batch", 2))
    assert rates(device, feeds(), batches=(1,), streams=(1,), seconds=0.024)[0].samples == 2
    assert rates(device, feeds(), batches=(1,), streams=(1,), seconds=0.035)[0].samples == 2


def test_samples_are_laid_one_behind_the_other_in_turn() -> None:
    device = Device((None, 2))
    rates(device, feeds(3), batches=(2,), streams=(1,), seconds=0.1)
    firsts = [list(inputs["x"][:, 0]) for inputs in device.given[:4]]
    assert firsts == [[0, 1], [2, 0], [1, 2], [0, 1]]
    assert all(inputs["rate"].shape == () for inputs in device.given)


def test_a_fixed_batch_axis_is_a_problem_in_words_and_batch_1_stands() -> None:
    one, four = rates(Device((1, 2)), feeds(), batches=(1, 4), streams=(1,), seconds=1)
    assert one.problem is None
    assert one.per_s is not None
    assert four == Rate(
        4, 1, None, 0, "the batch axis of `x` is fixed at 1; export with a dynamic batch"
    )
    assert four.to_json()["problem"] == four.problem


def test_an_unknown_rank_may_be_batched() -> None:
    assert rates(Device(None), feeds(), batches=(4,), streams=(1,), seconds=1)[0].per_s is not None


def test_samples_of_unlike_shapes_make_no_batch() -> None:
    device = Device(("batch", None))
    mixed = feeds(1, 2) + feeds(1, 3)
    one, two = rates(device, mixed, batches=(1, 2), streams=(1,), seconds=1)
    assert one.problem is None
    assert two.problem == "samples of `x` differ in shape; a batch needs equal ones"


def test_a_failing_engine_costs_its_rows_only() -> None:
    # Alone in its thread a stream's clock begins at 0: it breaks after 500 ms, the warm-up before.
    device = Device(("batch", 2), breaks_after_ns=500 * MS)
    found = rates(device, feeds(), batches=(1,), streams=(1, 2), seconds=0.4)
    assert [row.problem for row in found] == [None, None]
    found = rates(device, feeds(), batches=(1, 4), streams=(1,), seconds=2)
    assert [row.problem for row in found] == ["the engine ran out of luck"] * 2
    assert [row.per_s for row in found] == [None, None]
    assert device.opened == device.closed


def test_where_no_call_ends_there_is_no_rate() -> None:
    device = Device(("batch", 2))
    row = rates(device, feeds(), batches=(1,), streams=(1,), seconds=0.011)[0]
    assert (row.per_s, row.samples) == (None, 0)
    assert row.problem is not None
    assert row.problem.startswith("no call ended within 0.011 s")


@pytest.mark.parametrize("name", installed_engines())
def test_real_engines_take_batches_in_streams(name: str, tmp_path: Path) -> None:
    model = models.saved(models.conv_net("batch"), tmp_path)

    def opened():
        return engine(name).open_model(model.path, settings={}, threads=1)

    ticks = count()
    rows = throughput(
        opened,
        models.feeds(model.signature),
        batches=(3,),
        streams=(2,),
        seconds=0.1,
        clock=lambda: next(ticks) * MS,
    )
    assert [(row.batch, row.streams, row.problem) for row in rows] == [(3, 2, None)]
    assert rows[0].samples % 3 == 0
    assert rows[0].samples > 0

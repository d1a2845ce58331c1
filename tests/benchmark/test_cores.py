"""Which cores are timed on, on recorded machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.benchmark.cores import Core, choose_cores, idle_cores
from tests.benchmark import trees


def cores(**changes: float) -> list[Core]:
    """Two cores of two threads, 0 with 2 and 1 with 3, then two efficient ones."""
    busy = {int(name[1:]): share for name, share in changes.items()}
    shape = [(1024, False, (0, 2)), (1000, False, (1, 3)), (1024, False, (0, 2))]
    shape += [(1000, False, (1, 3)), (600, True, (4,)), (600, True, (5,))]
    return [Core(n, *core, busy.get(n, 0.0)) for n, core in enumerate(shape)]


@pytest.mark.parametrize(
    ("busy", "count", "chosen"),
    [
        ({}, 1, (0,)),
        ({}, 2, (0, 1)),
        ({}, 4, (0, 1, 4, 5)),
        ({}, 6, (0, 1, 4, 5, 2, 3)),
        ({}, 9, (0, 1, 4, 5, 2, 3)),
        ({}, 0, ()),
        ({"c0": 0.9}, 1, (1,)),
        ({"c0": 0.9}, 2, (1, 2)),
        ({"c2": 0.9}, 1, (1,)),
        ({"c0": 0.02}, 1, (0,)),
        ({"c0": 0.5, "c1": 0.5, "c2": 0.5, "c3": 0.5}, 1, (0,)),
        ({"c4": 0.9}, 3, (0, 1, 5)),
    ],
)
def test_which_cores_to_run_on(busy: dict[str, float], count: int, chosen: tuple[int, ...]) -> None:
    assert choose_cores(cores(**busy), range(6), count) == chosen
    assert choose_cores(cores(**busy)[::-1], range(6), count) == chosen


def test_only_usable_cores_are_chosen() -> None:
    assert choose_cores(cores(), {2, 3, 5}, 3) == (2, 3, 5)
    assert choose_cores(cores(), {5}, 2) == (5,)


def test_small_cores_come_last_though_nothing_calls_them_efficient() -> None:
    little = [Core(n, 250 if n < 4 else 1024, False, (n,), 0.0) for n in range(6)]
    assert choose_cores(little, range(6), 3) == (4, 5, 0)


def test_capacity_comes_before_load() -> None:
    little = [Core(n, 250 if n < 4 else 1024, False, (n,), 0.5 * (n >= 4)) for n in range(6)]
    assert choose_cores(little, range(6), 1) == (4,)


def test_efficient_cores_come_last_though_their_capacity_is_hidden() -> None:
    hidden = [Core(n, 0.0, n < 2, (n,), 0.0) for n in range(4)]
    assert choose_cores(hidden, range(4), 3) == (2, 3, 0)


def test_idle_cores_of_a_desktop(tmp_path: Path) -> None:
    trees.intel_desktop(tmp_path)

    def work(seconds: float) -> None:
        trees.stat(tmp_path, {n: (100 + 15 * (n == 0), 920 - 15 * (n == 0), 0) for n in range(6)})

    assert idle_cores(2, tmp_path, usable=range(6), wait=work) == (2, 1)


def test_idle_cores_of_a_jetson_and_a_pi_and_a_machine_that_hides_all(tmp_path: Path) -> None:
    def waits(seconds: float) -> None:
        assert 0 < seconds < 1

    for name, tree, chosen in (
        ("jetson", trees.jetson_orin, (0, 1)),
        ("pi", trees.raspberry_pi_5, (0, 1, 2)),
        ("vm", trees.virtual_machine, (0, 1)),
    ):
        assert idle_cores(3, tree(tmp_path / name), usable=range(4), wait=waits) == chosen

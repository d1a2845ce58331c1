"""Operators put back to float for as much speed as answers may cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.passes.crossings import Choices, Crossing
from edgedl.runtime import installed_engines
from edgedl.search.candidates import Candidate, Trial
from edgedl.search.costs import CostTable
from edgedl.search.effort import EFFORTS
from edgedl.search.paid import next_count, paid, returning_us
from tests.models import residual_net
from tests.search.small import full_plan, ways

INSTALLED = installed_engines()


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


def test_the_next_trial_lies_on_a_line_through_what_was_measured() -> None:
    # 4 operators took half of the room: 8 would fill it, and 10 are there.
    assert next_count({4: 0.05}, set(), 0.10, 10) == 8
    assert next_count({4: 0.05}, set(), 0.10, 6) == 6
    # Between 4, which fit, and 8, which do not, on the line from 0.05 to 0.15.
    assert next_count({4: 0.05, 8: 0.15}, set(), 0.10, 10) == 6
    # Nothing fits: on the line from none.
    assert next_count({8: 0.20}, set(), 0.10, 10) == 4
    # One is too many already: none is left to be tried.
    assert next_count({1: 0.20}, set(), 0.10, 10) == 0
    # What costs nothing is doubled.
    assert next_count({3: 0.0}, set(), 0.10, 10) == 6


def test_fewer_operators_are_tried_where_fewer_may_do() -> None:
    assert next_count({8: 0.05}, {8}, 0.10, 10) == 4
    assert next_count({8: 0.05, 4: 0.03}, {8}, 0.10, 10) == 6
    assert next_count({8: 0.05, 4: 0.03}, {8, 4}, 0.10, 10) == 2


def table(**us: tuple[float, float]) -> CostTable:
    """Each operator's microseconds in float and in int8; 1 us a conversion, whatever its size."""
    found = CostTable(None)  # type: ignore[arg-type]
    for name, (in_float, in_int8) in us.items():
        found.times[name, "float"] = [in_float]
        found.times[name, "int8"] = [in_int8]
    return found


def test_an_operator_that_returns_brings_the_conversions_around_it() -> None:
    crossings = (
        Crossing("x", None, ("first",), False, 100),
        Crossing("a", "first", ("middle",), False, 100),
        Crossing("b", "middle", ("last", "other"), False, 100),
        Crossing("c", "last", (), True, 100),
    )
    names = ("first", "middle", "last", "other")
    found = Choices(dict.fromkeys(names, "Conv"), {name: name for name in names}, {}, crossings)
    costs = table(first=(9.0, 4.0), middle=(9.0, 4.0), last=(9.0, 4.0), other=(9.0, 4.0))
    assert returning_us(costs, found, names, frozenset()) == {
        # Its input is no longer quantized, its output is.
        "first": 5.0 - 1.0 + 1.0,
        # Converted in front of it and behind it, there once for both readers.
        "middle": 5.0 + 1.0 + 1.0,
        # Its output was converted, and needs not be now.
        "last": 5.0 + 1.0 - 1.0,
        "other": 5.0 + 1.0,
    }
    # Where kernels give float for nothing, nobody converts what they make.
    free = returning_us(costs, found, names, frozenset({"Conv"}))
    assert free == {"first": 5.0, "middle": 6.0, "last": 5.0, "other": 5.0}


def tried(
    engine: str, folder: Path, room: float, each: float, *, enough: int = 99
) -> list[tuple[int, Trial, float]]:
    """The trials on a residual net whose operators take `each` of the time longer in float, by how
    many are in float; so many are near enough."""
    at = ways(residual_net(), folder, engine, effort=EFFORTS["normal"])
    start = full_plan(at.clean, engine)
    assert start.plan is not None

    def back(candidate: Candidate) -> int:
        """Those that were put back, and not what follows a float operator into float."""
        assert candidate.plan is not None
        decisions = candidate.plan.decisions
        return sum(decision.reason.startswith("put back to float") for decision in decisions)

    found = paid(
        backend(engine), start, at, room, lambda trial: back(trial.candidate) >= enough,
        lambda candidate: each * back(candidate),
    )  # fmt: skip
    return [(back(trial.candidate), trial, share) for trial, share in found]


@pytest.mark.parametrize("engine", INSTALLED)
def test_as_many_operators_as_the_room_suffices_for(engine: str, tmp_path: Path) -> None:
    found = tried(engine, tmp_path, room=100.0, each=1.0)
    counts = [count for count, *_ in found]
    assert counts == sorted(set(counts))
    assert found[-1][0] >= 2
    for count, trial, share in found:
        assert share == count
        assert trial.candidate.plan is not None
        reasons = [d.reason for d in trial.candidate.plan.decisions if d.precision == "float"]
        assert sum(reason.startswith("put back to float") for reason in reasons) == count
        in_float = [cost.node for cost in trial.candidate.costs if cost.chosen == "float"]
        assert len(in_float) >= count
    db = [trial.agreement.sqnr_db for _, trial, _ in found]
    assert db[-1] > db[0] or len(db) == 1


@pytest.mark.parametrize("engine", INSTALLED)
def test_nothing_is_tried_that_no_room_is_expected_for(engine: str, tmp_path: Path) -> None:
    assert tried(engine, tmp_path, room=1e-6, each=1.0) == []


@pytest.mark.parametrize("engine", INSTALLED)
def test_trials_end_where_one_is_enough_and_none_below_it(engine: str, tmp_path: Path) -> None:
    found = tried(engine, tmp_path, room=100.0, each=1.0, enough=1)
    assert min(count for count, *_ in found) == 1
    assert len(found) <= 4


@pytest.mark.parametrize("engine", INSTALLED)
def test_trained_plans_keep_what_was_trained(engine: str, tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, engine, effort=EFFORTS["normal"])
    start = full_plan(at.clean, engine)
    assert start.prepared is not None
    assert start.plan is not None
    scales = {
        name: dataclasses.replace(one, scale=1.5 * one.scale)
        for name, one in start.plan.activations.items()
    }
    start = full_plan(at.clean, engine)
    start = dataclasses.replace(start, prepared=dataclasses.replace(start.prepared, scales=scales))
    found = paid(backend(engine), start, at, 100.0, lambda _: False, lambda _: 1.0)
    for trial, _ in found:
        assert trial.candidate.plan is not None
        for name, one in trial.candidate.plan.activations.items():
            assert one.scale == scales[name].scale

"""What effort allows, and which trial is shipped for the sake of its answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.core.errors import BadOption
from edgedl.core.model import Model, Signature
from edgedl.core.stats import Agreement
from edgedl.search.candidates import Candidate, Trial
from edgedl.search.effort import EFFORTS, effort_of, faithful_first


def trial(name: str, top1: float | None, cosine: float = 1.0, sqnr_db: float = 20.0) -> Trial:
    model = Model(Path(name), name, Signature((), ()), (), (Path(name),))
    candidate = Candidate("engine", "int8", name, model, {})
    drop = 1 - (cosine if top1 is None else top1)
    return Trial(candidate, Agreement(top1, cosine, sqnr_db, 100), drop)


def test_more_effort_is_more_of_everything() -> None:
    fast, normal, most = (EFFORTS[name] for name in ("fast", "normal", "max"))
    assert fast.mixing_seconds < normal.mixing_seconds < most.mixing_seconds
    assert fast.harm_seconds < normal.harm_seconds < most.harm_seconds
    assert fast.tuning_visits == 0 < normal.tuning_visits < most.tuning_visits
    assert fast.slack == 0 < normal.slack


def test_an_unknown_effort_names_the_nearest() -> None:
    with pytest.raises(BadOption, match="unknown effort `normale`") as error:
        effort_of("normale")
    assert "normal" in str(error.value.hint)


@pytest.mark.parametrize(
    ("top1", "cosine", "wanted"),
    [(0.98, 0.9, True), (0.979, 1.0, False), (None, 0.999, True), (None, 0.998, False)],
)
def test_faithful_goes_by_classes_where_there_are_any(
    top1: float | None, cosine: float, wanted: bool
) -> None:
    assert trial("x", top1, cosine).agreement.is_faithful is wanted


def test_a_faithful_trial_may_take_the_slack_and_no_more() -> None:
    order = [trial("first", 0.95), trial("near", 0.97), trial("exact", 0.99), trial("float", 1.0)]
    times = {"engine first": 1.0, "engine near": 1.02, "engine exact": 1.09, "engine float": 3.0}
    found = faithful_first(order, times, 0.1)
    assert [one.candidate.label for one in found] == ["exact", "first", "near", "float"]
    assert faithful_first(order, times, 0.05) == order
    assert faithful_first(order[3:], times, 0.0) == order[3:]
    assert faithful_first([], {}, 0.1) == []


def test_the_fastest_of_the_faithful_is_taken_and_a_faithful_first_stays() -> None:
    order = [trial("first", 0.9), trial("slow", 1.0), trial("quick", 0.985)]
    times = {"engine first": 1.0, "engine slow": 1.08, "engine quick": 1.05}
    assert faithful_first(order, times, 0.1)[0].candidate.label == "quick"
    order = [trial("first", 0.98), trial("slow", 1.0)]
    assert faithful_first(order, {"engine first": 1.0, "engine slow": 1.0}, 0.1) == order


def test_noise_decides_between_two_that_take_as_long_where_classes_differ_by_chance() -> None:
    slow = trial("lucky", 1.0, sqnr_db=20.5)
    trained = trial("trained", 0.97, sqnr_db=22.0)
    order = [trial("first", 0.96, sqnr_db=20.0), slow, trained]
    times = {"engine first": 1.0, "engine lucky": 1.05, "engine trained": 1.05}
    assert faithful_first(order, times, 0.1)[0].candidate.label == "lucky"
    trained = trial("trained", 0.98, sqnr_db=22.0)
    assert faithful_first([*order[:2], trained], times, 0.1)[0].candidate.label == "trained"
    assert faithful_first([*order[:2], trained], times, 0.1, False)[0].candidate.label == "lucky"
    worth = trial("hardly", 0.99, sqnr_db=21.0)
    times["engine hardly"] = 1.05
    assert faithful_first([*order[:2], worth], times, 0.1)[0].candidate.label == "lucky"


def test_where_none_is_faithful_the_nearest_within_the_slack_is_taken() -> None:
    order = [
        trial("first", None, 0.990, 17.0),
        trial("near", None, 0.994, 19.0),
        trial("nearest", None, 0.997, 21.0),
        trial("slow", None, 0.998, 24.0),
    ]
    times = {"engine first": 1.0, "engine near": 1.02, "engine nearest": 1.08, "engine slow": 1.2}
    assert faithful_first(order, times, 0.1)[0].candidate.label == "nearest"
    assert faithful_first(order, times, 0.05)[0].candidate.label == "near"
    assert faithful_first(order, times, 0.0) == order


@pytest.mark.parametrize(
    "other",
    [trial("hardly", None, 0.995, 17.9), trial("worse", None, 0.98, 21.0)],
    ids=lambda one: one.candidate.label,
)
def test_speed_is_not_paid_for_little_nor_for_a_worse_metric(other: Trial) -> None:
    order = [trial("first", None, 0.990, 17.0), other]
    times = {"engine first": 1.0, f"engine {other.candidate.label}": 1.02}
    assert faithful_first(order, times, 0.1) == order

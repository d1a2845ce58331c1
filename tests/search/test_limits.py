"""Limits in words, and operators put back to float in the order of their harm."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.passes.plan import Cost, Quantizer
from edgedl.runtime import installed_engines
from edgedl.search.limits import Drop, Limits, by_harm, order_of_return, relieve
from tests.models import residual_net
from tests.search.small import counted, full_plan, ways
from tests.sequences import classifier

ENGINE = installed_engines()[0]
OPERATORS = ["conv1", "conv2", "sum", "conv3", "pooled", "fc"]


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        (Limits(), ()),
        (Limits(0.02, 4.0, 2000), ()),
        (Limits(max_drop=0.01), ("drop 2.00 % is over --max-drop 1%",)),
        (Limits(max_drop=0.02 - 1e-13), ()),
        (Limits(max_latency_ms=3.5), ("latency 4 ms is over --max-latency 3.5 ms",)),
        (Limits(max_bytes=1999), ("a bundle of 2000 B is over --max-bytes 1999 B",)),
        (
            Limits(0.0, 1.0, 1000),
            (
                "drop 2.00 % is over --max-drop 0%",
                "latency 4 ms is over --max-latency 1 ms",
                "a bundle of 2 kB is over --max-bytes 1 kB",
            ),
        ),
    ],
)
def test_limits_that_figures_break(limits: Limits, broken: tuple[str, ...]) -> None:
    assert limits.broken(0.02, 4.0, 2000) == broken


def test_a_drop_that_the_choice_kept_and_the_report_breaks_says_so() -> None:
    drop = Drop(0.0, 20, 0.05, 40, (-0.0212, 0.1231))
    [sentence] = Limits(max_drop=0.01).broken(drop.reported, 1.0, 1, drop.about)
    assert sentence == (
        "drop 5.00 % is over --max-drop 1% on 40 samples of the report (95 % interval -2.12 to"
        " 12.31 %); on the 20 samples of the choice it was 0.00 %"
    )
    assert drop.doubt(0.01) == (
        "the drop of 5.00 % on 40 samples (95 % interval -2.12 to 12.31 %) breaks --max-drop 1%,"
        " which the choice kept: so few samples cannot tell; more samples tell more exactly"
        " (--test)"
    )
    assert drop.doubt(0.06) == (
        "the drop of 5.00 % on 40 samples (95 % interval -2.12 to 12.31 %) keeps --max-drop 6%,"
        " and may break it on others; more samples tell more exactly (--test)"
    )


@pytest.mark.parametrize(
    ("drop", "max_drop"),
    [
        (Drop(0.0, 20, 0.005, 4000, (0.001, 0.009)), 0.01),
        (Drop(0.0, 20, 0.05, 4000, (0.04, 0.06)), 0.01),
        (Drop(0.05, 20, 0.05, 40, (-0.02, 0.12)), 0.01),
        (Drop(0.0, 20, 0.05, 40, (-0.02, 0.12)), None),
        (Drop(0.0, 20, 0.05, 40, None), 0.01),
        (Drop(0.0, 1, math.nan, 1, (0.0, 0.1)), 0.01),
    ],
    ids=["kept", "broken", "broken in both", "no limit", "no interval", "no number"],
)
def test_a_drop_that_is_clear_brings_no_doubt(drop: Drop, max_drop: float | None) -> None:
    assert drop.doubt(max_drop) is None


@pytest.mark.parametrize("engine", installed_engines())
def test_the_most_harmful_for_a_microsecond_come_first(engine: str, tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, engine)
    histograms = counted(at.clean, engine)
    plan = full_plan(at.clean, engine, histograms).plan
    assert plan is not None
    assert set(by_harm(plan, at.clean, histograms)) == set(OPERATORS)
    # Steps of 50 leave nothing of the input, which only the first conv reads.
    coarse = Quantizer(plan.activations["x"].dtype, 50.0, plan.activations["x"].zero_point)
    plan = dataclasses.replace(plan, activations={**plan.activations, "x": coarse})
    rest = by_harm(plan, at.clean, histograms)
    assert rest[0] == "conv1"
    costs = [Cost(name, "Conv", 10.0, 9.5, "int8") for name in OPERATORS]
    assert by_harm(plan, at.clean, histograms, costs) == rest
    costs[0] = Cost("conv1", "Conv", 1e9, 1.0, "int8")
    assert by_harm(plan, at.clean, histograms, costs) == [*rest[1:], "conv1"]


@pytest.mark.parametrize("engine", installed_engines())
def test_sequences_harm_by_their_weights_and_states(engine: str, tmp_path: Path) -> None:
    at = ways(classifier(16, 24, 6), tmp_path, engine)
    histograms = counted(at.clean, engine)
    plan = full_plan(at.clean, engine, histograms).plan
    assert plan is not None
    assert {"both", "last"} <= set(by_harm(plan, at.clean, histograms))
    costs = [Cost(name, "LSTM", 1.0, 1e6, "int8") for name in plan.int8 if name != "last"]
    costs.append(Cost("last", "LSTM", 1e6, 1.0, "int8"))
    assert by_harm(plan, at.clean, histograms, costs)[-1] == "last"


def test_more_and_more_operators_go_back_until_the_drop_holds(tmp_path: Path) -> None:
    at = ways(residual_net(), tmp_path, ENGINE)
    histograms = counted(at.clean, ENGINE)
    start = full_plan(at.clean, ENGINE, histograms)
    assert start.plan is not None
    order = order_of_return(start, at.expected)
    assert sorted(order) == sorted(start.plan.int8)

    def found(max_drop: float) -> list[str]:
        return [
            trial.candidate.label
            for trial in relieve(
                backend(ENGINE), start, at.expected, lambda one: one.drop <= max_drop, 1
            )
        ]

    stem = "int8, minmax, but"
    assert found(1.0) == [f"{stem} 1 operator"]
    assert found(-1.0) == [f"{stem} {n} operator{'s' * (n > 1)}" for n in (1, 2, 4, 5)]
    for trial in relieve(backend(ENGINE), start, at.expected, lambda _: False, 1):
        assert trial.candidate.plan is not None
        count = int(trial.candidate.label.split()[-2])
        assert not set(order[:count]) & set(trial.candidate.plan.int8)
        reasons = {d.node: d.reason for d in trial.candidate.plan.decisions}
        assert reasons[order[0]].startswith("put back to float")

"""On a busy machine the rules stand in for costs, and what was chosen is confirmed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgedl.benchmark.compare import Comparison, compare
from edgedl.core.program import Constants
from edgedl.core.progress import silent
from edgedl.search.candidates import Candidate, Reference, Trial
from edgedl.search.choose import (
    BUSY,
    Timed,
    confirm,
    decided,
    judge_promising,
    rank,
    stands_in,
)
from edgedl.search.limits import Limits
from edgedl.search.prepared import Prepared
from edgedl.search.why import too_busy
from tests.benchmark.clockwork import Clock
from tests.benchmark.clockwork import Timed as Clocked
from tests.models import Sketch, feeds, saved
from tests.search.known import ENGINE, LATENCY, SAME, answered, candidate, names


def rivals(folder: Path) -> tuple[Trial, Trial]:
    """A plan that was placed by costs, and the rules'."""
    return tuple(  # type: ignore[return-value]
        Trial(replace(candidate(folder, label), origin=origin), SAME, 0.0)
        for label, origin in (("a", "costs"), ("b", "rules"))
    )


@pytest.mark.parametrize(
    ("rules_ms", "noise_floor", "first"),
    [
        (1.04, 0.01, "a"),  # a quiet machine: 4 % are believed
        (1.04, 0.05, "a"),
        (1.04, 0.06, "b"),  # a busy one: they are not
        (1.30, 0.20, "a"),  # but 30 % are: the rules lose here
        (1.30, 0.40, "b"),
        (0.90, 0.20, "b"),
    ],
)
def test_a_busy_machine_prefers_the_rules_to_costs_that_it_measured(
    rules_ms: float, noise_floor: float, first: str, tmp_path: Path
) -> None:
    placed, rules = rivals(tmp_path)
    latency_ms = {placed.candidate.name: 1.0, rules.candidate.name: rules_ms}
    order = rank([placed, rules], latency_ms, Limits(), "int8", noise_floor)
    assert names(order) == (first + " " + "ab".replace(first, ""))
    # What ends the comparing early leaves the rules' plan in.
    expected = Reference((), (), np.asarray([rules_ms, noise_floor]), str(tmp_path))
    answered(expected, {t.candidate.name: (t.candidate, SAME, 0.0) for t in (placed, rules)})
    timed = Timed((placed.candidate, rules.candidate), latency_ms, (), noise_floor)
    trials, _ = judge_promising(timed, expected, Limits(), "int8", 1, silent)
    assert rank(trials, latency_ms, Limits(), "int8", noise_floor)[0].candidate.label == first
    said = too_busy(order[0].candidate, timed.candidates, latency_ms, noise_floor)
    assert bool(said) is (first == "b" and rules_ms > 1)


def test_why_the_rules_ship_is_said_with_the_noise(tmp_path: Path) -> None:
    placed, rules = rivals(tmp_path)
    latency_ms = {placed.candidate.name: 1.9, rules.candidate.name: 2.0}
    both = (placed.candidate, rules.candidate)
    assert too_busy(rules.candidate, both, latency_ms, 0.12) == (
        "the rules' plan ships: `a` took 5.0 % less, and the machine was too busy to tell, since"
        " the same model differed from itself by 12 %",
    )
    assert too_busy(placed.candidate, both, latency_ms, 0.12) == ()
    assert too_busy(rules.candidate, both[1:], latency_ms, 0.12) == ()


def test_the_rules_stand_in_for_their_own_engine_only(tmp_path: Path) -> None:
    placed, rules = rivals(tmp_path)
    elsewhere = Trial(replace(rules.candidate, engine="another"), SAME, 0.0)
    latency_ms = {t.candidate.name: 1.0 for t in (placed, rules, elsewhere)}
    assert stands_in(rules, placed, latency_ms, 0.1)
    assert not stands_in(elsewhere, placed, latency_ms, 0.1)
    assert not stands_in(placed, rules, latency_ms, 0.1)


def test_the_rules_do_not_stand_in_for_what_was_trained(tmp_path: Path) -> None:
    placed, rules = rivals(tmp_path)
    latency_ms = {t.candidate.name: 1.0 for t in (placed, rules)}
    tuned = Prepared(placed.candidate.model, {}, tuned=Constants({}))
    trained, both = (
        replace(one, candidate=replace(one.candidate, prepared=tuned)) for one in (placed, rules)
    )
    assert not stands_in(rules, trained, latency_ms, 0.1)
    assert stands_in(both, trained, latency_ms, 0.1)
    assert stands_in(both, placed, latency_ms, 0.1)


def comparison(result_us: int, *baseline_us: int) -> Comparison:
    """Of sessions whose calls take these times in turn, by a clock that only they move."""
    clock = Clock()
    sessions = {
        "baseline": Clocked(clock, *(1000 * us for us in baseline_us)),
        "result": Clocked(clock, 1000 * result_us),
    }
    return compare(sessions, [{}], seconds=2.0, clock=clock)


def test_a_busy_confirmation_takes_the_rules_unless_they_lose(tmp_path: Path) -> None:
    placed, rules = rivals(tmp_path)
    float32 = candidate(tmp_path, "float32, as given", precision="float32")
    latency_ms = {placed.candidate.name: 1.0, rules.candidate.name: 1.02, float32.name: 2.0}
    quiet = comparison(9000, 18000)
    busy = comparison(9000, 3000, 90000, 30000, 12000, 60000)
    slow = comparison(400_000, 18000)
    assert quiet.noise_floor <= BUSY < busy.noise_floor
    assert slow.ratio("baseline", "result").verdict(slow.noise_floor) == "slower"

    def shipped(of_placed: Comparison, of_rules: Comparison) -> tuple[str, list[str]]:
        seen: list[str] = []

        def measured(trial: Trial) -> tuple[Trial, Comparison, Candidate]:
            seen.append(trial.candidate.label)
            return trial, of_placed if trial is placed else of_rules, float32

        order = iter([placed, rules, Trial(float32, SAME, 0.0)])
        return decided(order, measured, latency_ms)[0].candidate.label, seen

    assert shipped(quiet, quiet) == ("a", ["a"])
    assert shipped(busy, quiet) == ("b", ["a", "b"])
    assert shipped(busy, slow) == ("a", ["a", "b"])
    assert shipped(slow, quiet) == ("b", ["a", "b"])


def heavy_net(layers: int) -> onnx.ModelProto:
    """The same signature whatever is computed between."""
    net = Sketch()
    data = net.node("MatMul", ["x", net.weight("first", 8, 256)], "product")
    for number in range(layers):
        data = net.node("MatMul", [data, net.weight(f"w{number}", 256, 256)], f"y{number}")
    net.node("MatMul", [data, net.weight("last", 256, 4)], "logits", name="out")
    return net.model([64, 8], [64, 4])


@pytest.fixture
def unlike(tmp_path: Path) -> tuple[Trial, Trial]:
    """The float model, and one that takes many times as long."""
    for name in ("light", "heavy"):
        (tmp_path / name).mkdir()
    light = saved(heavy_net(0), tmp_path / "light")
    heavy = saved(heavy_net(60), tmp_path / "heavy")
    float32 = Candidate(ENGINE, "float32", "float32, as given", light, {}, as_given=True)
    return Trial(float32, SAME, 0.0), Trial(Candidate(ENGINE, "int8", "slow", heavy, {}), SAME, 0.0)


def test_what_turns_out_slower_than_float_gives_way(unlike: tuple[Trial, Trial]) -> None:
    float32, slow = unlike
    every = [float32.candidate, slow.candidate]
    given = feeds(float32.candidate.model.signature, 2)
    winner, comparison, baseline = confirm(
        iter([slow, float32]), every, given, 1, 0.5, 0, silent, LATENCY
    )
    assert baseline is float32.candidate
    assert comparison.names == ("baseline", "result")
    verdict = comparison.ratio("baseline", "result").verdict(comparison.noise_floor)
    assert winner is float32 or verdict != "slower"
    assert confirm([float32, slow], every, given, 1, 0.5, 0, silent, LATENCY)[0] is float32
    # Where nothing else may ship, because of limits, the best of what may does.
    assert confirm([slow], every, given, 1, 0.5, 0, silent, LATENCY)[0] is slow

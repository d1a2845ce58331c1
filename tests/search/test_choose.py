"""What ships: the same whether all are compared with float or only the promising ones."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.backends import backend
from edgedl.core.progress import silent
from edgedl.core.stats import Agreement
from edgedl.search.candidates import Ask, Candidate, Reference, Trial
from edgedl.search.choose import (
    Timed,
    _level,
    baseline_of,
    judge_promising,
    rank,
    time_candidates,
    troubles,
)
from edgedl.search.find import Search, find, in_order
from edgedl.search.limits import Limits
from edgedl.search.memory import Latencies
from edgedl.search.ways import Ways
from tests.models import Sketch, conv_net, feeds, residual_net, saved
from tests.search.known import ENGINE, LATENCY, SAME, answered, candidate, names, trials_of
from tests.search.small import full_plan, prepared, ways


@st.composite
def cases(
    draw: st.DrawFn,
) -> tuple[list[tuple[float, int, float, float, float | None]], Limits]:
    """Latency, bytes, drop, cosine and top-1 agreement of some candidates, and limits."""
    near = st.sampled_from([1.0, 1.004, 1.008, 1.012, 1.5, 2.0, 3.0])
    some = st.lists(
        st.tuples(
            near, st.sampled_from([90, 95, 100, 105, 111, 400]),
            st.sampled_from([0.0, 0.005, 0.02, 0.3]), st.sampled_from([0.3, 0.9, 0.99, 1.0]),
            st.sampled_from([None, 0.2, 0.9, 1.0]),
        ),
        min_size=1, max_size=7,
    )  # fmt: skip
    limits = Limits(
        draw(st.sampled_from([None, 0.0, 0.01])),
        draw(st.sampled_from([None, 0.5, 1.006, 2.5])),
        draw(st.sampled_from([None, 50, 102, 110])),
    )
    return draw(some), limits


@settings(max_examples=300, deadline=None)
@given(cases())
def test_comparing_lazily_ships_what_comparing_all_would(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[list[tuple[float, int, float, float, float | None]], Limits],
) -> None:
    figures, limits = case
    folder = tmp_path_factory.mktemp("lazy")
    expected = Reference((), (), np.asarray([len(figures)]), str(folder))
    made = {}
    latency_ms = {}
    for i, (milliseconds, size, drop, cosine, top1) in enumerate(figures):
        one = candidate(folder, f"c{i}", size)
        made[one.name] = (one, Agreement(top1, cosine, 10.0 + i, 8), drop)
        latency_ms[one.name] = milliseconds
    answered(expected, made)
    timed = Timed(tuple(one for one, _, _ in made.values()), latency_ms, ())
    kept: list[Trial] = []
    trials, refusals = judge_promising(timed, expected, limits, "int8", 1, silent, kept.append)
    assert refusals == []
    everything = rank([Trial(*one) for one in made.values()], latency_ms, limits)
    lazily = rank(trials, latency_ms, limits)
    assert lazily[0].candidate.name == everything[0].candidate.name
    # What is on disk is at any moment the best of all that were compared so far.
    best = [rank(trials[: i + 1], latency_ms, limits)[0] for i in range(len(trials))]
    assert kept == [one for i, one in enumerate(best) if not i or one is not best[i - 1]]
    # Everything else comes behind, in the order that comparing all of it would have given.
    search = Search(tuple(lazily), tuple(trials), timed, ())
    at = Ways(None, None, None, expected, limits, 1, silent)  # type: ignore[arg-type]
    order = [trial.candidate.name for trial in in_order(search, at)]
    assert set(order) == {trial.candidate.name for trial in everything}
    assert len(order) == len(everything)
    assert order[: len(lazily)] == [trial.candidate.name for trial in lazily]


def test_of_those_as_fast_the_smallest_and_of_those_as_small_the_truest(tmp_path: Path) -> None:
    assert names(rank(trials_of(tmp_path, 100, 100, 10, 10), LATENCY, Limits())) == "a b c d"
    assert names(rank(trials_of(tmp_path, 100, 90, 10, 10), LATENCY, Limits())) == "b a c d"
    alike = trials_of(tmp_path, 100, 109, 10, 10, sqnr=(40, 45, 99, 99))
    assert names(rank(alike, LATENCY, Limits())) == "b a c d"
    assert names(rank(trials_of(tmp_path, 100, 111, 10), LATENCY, Limits())) == "a b c"


def test_a_float_model_as_it_came_is_no_faster_than_its_tidy_self(tmp_path: Path) -> None:
    came = candidate(tmp_path, "float32, as given", 400, "float32")
    tidy = candidate(tmp_path, "tidy", 400, "float32")
    small = replace(candidate(tmp_path, "small", 100, "float32"), stored=True)
    for taken, ships in ((0.97, "small"), (0.9, "float32, as given")):
        ratios = {came.name: taken, tidy.name: 1.0, small.name: 1.02}
        _level([came, tidy, small], ratios)
        assert ratios[small.name] == ratios[tidy.name] == 1.0
        trials = [Trial(one, SAME, 0.0) for one in (came, tidy, small)]
        assert rank(trials, ratios, Limits())[0].candidate.label == ships


def test_fewer_broken_limits_come_before_speed(tmp_path: Path) -> None:
    limits = Limits(max_latency_ms=2.0, max_bytes=50)
    some = trials_of(tmp_path, 100, 100, 100, 10)
    assert names(rank(some, LATENCY, limits)) == "a b c d"
    assert names(rank(trials_of(tmp_path, 100, 50, 51, 10), LATENCY, limits)) == "b"


def test_answers_of_another_model_come_after_any_broken_limit(tmp_path: Path) -> None:
    lost, fine = trials_of(tmp_path, 10, 100)
    lost = Trial(lost.candidate, Agreement(0.1, 0.2, 1.0, 8), 0.0)
    limits = Limits(max_latency_ms=0.1, max_bytes=50)
    assert troubles(lost, LATENCY, limits) == (1, 1)
    assert troubles(fine, LATENCY, limits) == (0, 2)
    assert names(rank([lost, fine], LATENCY, limits)) == "b"
    assert names(rank([lost], LATENCY, limits)) == "a"
    # Classes that agree are not lost, however the scores look.
    assert (
        troubles(Trial(lost.candidate, Agreement(0.9, 0.2, 1.0, 8), 0.0), LATENCY, limits)[0] == 0
    )


def test_a_drop_that_is_no_number_keeps_no_limit(tmp_path: Path) -> None:
    broken = Trial(candidate(tmp_path, "a"), SAME, math.nan)
    fine = Trial(candidate(tmp_path, "b"), SAME, 0.0)
    assert names(rank([broken, fine], LATENCY, Limits(max_drop=0.01))) == "b"
    assert Limits(max_drop=0.01).broken(math.nan, 1.0, 1)
    assert not Limits().broken(math.nan, 1.0, 1)


def test_the_baseline_is_the_engines_float_model_as_given(tmp_path: Path) -> None:
    given = candidate(tmp_path, "float32, as given", precision="float32")
    clean = candidate(tmp_path, "float32, cleaned", precision="float32")
    int8 = candidate(tmp_path, "int8")
    assert baseline_of(int8, [int8, clean, given]) is given
    assert baseline_of(int8, [int8, clean]) is clean
    assert baseline_of(int8, [int8]) is int8


def test_the_float_model_stands_behind_all_that_was_not_compared(tmp_path: Path) -> None:
    """Where the fastest turns out to be slower in the long run, there is a way back."""
    at = ways(residual_net(), tmp_path, ENGINE)
    float32 = Candidate(ENGINE, "float32", "float32, as given", at.given, {}, as_given=True)
    int8 = full_plan(at.clean, ENGINE)
    latency_ms = {float32.name: 1.0, int8.name: 0.5}
    timed = Timed((float32, int8), latency_ms, ())
    trials, _ = judge_promising(timed, at.expected, at.limits, "int8", 1, silent)
    assert names(trials) == "int8, minmax"
    search = Search(tuple(rank(trials, latency_ms, at.limits)), tuple(trials), timed, ())
    assert names(list(in_order(search, at))) == "int8, minmax float32, as given"


@pytest.mark.parametrize("ask", ["int8", "weights", "auto"])
def test_a_search_orders_only_what_was_asked_for(ask: Ask, tmp_path: Path) -> None:
    at = ways(_wide(), tmp_path, ENGINE, ask=ask)
    given = feeds(at.given.signature, 2)
    kept: list[Trial] = []
    found = find([backend(ENGINE)], at, given, 0, kept.append)
    assert all(trial.candidate.answers(ask) for trial in in_order(found, at))
    assert found.order[0] in kept
    assert set(map(id, found.order)) <= set(map(id, found.trials))


def _wide() -> onnx.ModelProto:
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w1", 64, 64)], "product")
    net.node("Relu", ["product"], "relu")
    net.node("MatMul", ["relu", net.weight("w2", 64, 5)], "logits", name="last")
    return net.model([1, 64], [1, 5])


def test_what_does_not_open_is_told_and_costs_nobody_else(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    clean = prepared(conv_net(), tmp_path)
    broken = candidate(tmp_path, "broken")
    good = Candidate(ENGINE, "float32", "float32, as given", model, {}, as_given=True)
    int8 = full_plan(clean, ENGINE)
    found = time_candidates([broken, good, int8], feeds(model.signature, 2), 1, 0, silent)
    assert [one.name for one in found.candidates] == [good.name, int8.name]
    assert set(found.latency_ms) == {good.name, int8.name}
    assert all(milliseconds > 0 for milliseconds in found.latency_ms.values())
    assert [refusal.name for refusal in found.refusals] == [broken.name]
    last = time_candidates([good, int8, broken], feeds(model.signature, 2), 1, 0, silent)
    assert [refusal.name for refusal in last.refusals] == [broken.name]
    assert set(last.latency_ms) == {good.name, int8.name}


def test_what_was_hopeless_before_is_not_opened_again(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    first = Candidate(ENGINE, "float32", "float32, as given", model, {}, as_given=True)
    slow, near = candidate(tmp_path, "slow"), candidate(tmp_path, "near")
    given = feeds(model.signature, 2)
    shapes = {name: list(array.shape) for name, array in given[0].items()}
    Latencies(first, 1, shapes).add([(slow, 1.2), (near, 1.1)])
    found = time_candidates([first, slow, near], given, 1, 0, silent)
    assert found.latency_ms[slow.name] == pytest.approx(1.2 * found.latency_ms[first.name])
    # Neither can be opened; who is near the best is tried all the same.
    assert [refusal.name for refusal in found.refusals] == [near.name]


def test_what_was_timed_within_a_quiet_day_is_not_timed_again(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    first = Candidate(ENGINE, "float32", "float32, as given", model, {}, as_given=True)
    fresh, noisy, old = (candidate(tmp_path, name) for name in ("fresh", "noisy", "old"))
    given = feeds(model.signature, 2)
    shapes = {name: list(array.shape) for name, array in given[0].items()}
    for one, hours, noise in ((fresh, 23, 0.05), (noisy, 1, 0.06), (old, 25, 0.0)):
        then = time.time() - 3600 * hours
        Latencies(first, 1, shapes, clock=lambda then=then: then).add([(one, 0.9)], noise)
    found = time_candidates([first, fresh, noisy, old], given, 1, 0, silent)
    assert found.latency_ms[fresh.name] == pytest.approx(0.9 * found.latency_ms[first.name])
    # What is timed cannot be opened here.
    assert {refusal.name for refusal in found.refusals} == {noisy.name, old.name}


def test_what_was_hopeless_a_month_ago_is_opened_again(tmp_path: Path) -> None:
    model = saved(conv_net(), tmp_path)
    first = Candidate(ENGINE, "float32", "float32, as given", model, {}, as_given=True)
    old, late = candidate(tmp_path, "old note"), candidate(tmp_path, "late note")
    given = feeds(model.signature, 2)
    shapes = {name: list(array.shape) for name, array in given[0].items()}
    for one, days in ((old, 31), (late, 29)):
        then = time.time() - days * 86_400
        Latencies(first, 1, shapes, clock=lambda then=then: then).add([(one, 1.2)])
    found = time_candidates([first, old, late], given, 1, 0, silent)
    assert [refusal.name for refusal in found.refusals] == [old.name]
    assert late.name in found.latency_ms

"""Differences between two models on the same samples, worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.paired import Difference, difference, mcnemar, whole_difference

BITS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    rows = [(1, 1)] * both + [(1, 0)] * lost + [(0, 1)] * gained + [(0, 0)] * neither
    a, b = np.asarray(rows).T
    return a, b


@pytest.mark.parametrize(
    ("lost", "gained", "p"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),
        (5, 0, 2 / 2**5),
        (8, 2, 2 * (1 + 10 + 45) / 2**10),  # 0.109375
        (1, 9, 2 * (1 + 10) / 2**10),  # 0.021484375
        (4, 14, 2 * (1 + 18 + 153 + 816 + 3060) / 2**18),  # 0.0308837890625
    ],
)
def test_mcnemar_by_hand(lost: int, gained: int, p: float) -> None:
    assert mcnemar(*pairs(40, lost, gained, 7)) == pytest.approx(p, rel=1e-9)


@given(BITS)
def test_mcnemar_is_a_p_value_that_does_not_care_who_is_first(
    rows: list[tuple[bool, bool]],
) -> None:
    a, b = np.asarray(rows).T
    assert 0 < mcnemar(a, b) <= 1
    assert mcnemar(a, b) == pytest.approx(mcnemar(b, a))
    agreed = np.append(a, True), np.append(b, True)
    assert mcnemar(*agreed) == pytest.approx(mcnemar(a, b))


def test_many_samples_neither_overflow_nor_take_long() -> None:
    assert mcnemar(*pairs(0, 50_000, 50_000, 0)) == pytest.approx(1, abs=0.01)
    assert mcnemar(*pairs(0, 20_000, 0, 0)) == 0


def test_rights_and_wrongs_are_tested_exactly() -> None:
    found = difference(*pairs(40, 9, 1, 50))
    assert found.value == pytest.approx(-0.08)
    assert found.low < found.value < found.high < 0
    assert (found.test, found.samples) == ("mcnemar", 100)
    assert found.p == pytest.approx(0.021484375)
    assert not found.within_chance
    assert difference(*pairs(40, 8, 2, 50)).within_chance


def test_means_are_drawn_again_in_pairs() -> None:
    a = np.random.default_rng(0).normal(5, 3, 50)
    found = difference(a, a + 0.01)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01))
    assert not found.within_chance
    assert found.p is None
    noisy = difference(a, np.random.default_rng(1).permutation(a))
    assert noisy.within_chance
    assert noisy.low < 0 < noisy.high


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        a = random.normal(0, 1, 80)
        found = difference(a, a + random.normal(0.2, 0.5, 80), seed)
        covered += found.low <= 0.2 <= found.high
    assert covered >= 52


def test_no_difference_at_all_is_within_chance() -> None:
    a = np.linspace(0, 1, 9)
    found = difference(a, a)
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert found.within_chance


def test_a_figure_of_the_whole_set_is_computed_of_each_draw() -> None:
    rows = [(i % 3, 4) for i in range(30)]
    better = [(i + 1, n) for i, n in rows]

    def ratio(some: object) -> float:
        above, below = np.asarray(some).sum(axis=0)
        return float(above / below)

    found = whole_difference(rows, better, ratio)
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))
    assert not found.within_chance


def test_the_whole_sets_interval_covers_the_true_difference_too() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(40):
        a = random.normal(0, 1, 60)
        b = a + random.normal(0.2, 0.5, 60)
        found = whole_difference(a.tolist(), b.tolist(), lambda rows: float(np.mean(rows)), seed)
        covered += found.low <= 0.2 <= found.high
    assert 34 <= covered < 40


def test_draws_without_a_figure_are_left_out_and_none_at_all_says_nothing() -> None:
    whole = [0, 1, 2, 3]
    rest = whole_difference(whole, whole, lambda rows: float("nan") if len(set(rows)) == 1 else 1.0)
    assert (rest.low, rest.value, rest.high) == (0, 0, 0)
    never = whole_difference([0], [0], lambda rows: float("nan"))
    assert math.isnan(never.value)
    assert never.within_chance
    assert json.loads(json.dumps(never.to_json(), allow_nan=False))["value"] is None
    once = whole_difference(
        [0, 1], [1, 0], lambda rows: float("nan") if rows[0] == rows[1] else rows[0]
    )
    assert once.low < 1 < once.high


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_figures_that_are_no_numbers_say_nothing(odd: float) -> None:
    found = difference(np.array([1.0, odd]), np.array([odd, odd]))
    assert math.isnan(found.value)
    assert found.within_chance
    assert difference(np.ones(2), np.array([odd, 1.0])).within_chance


def test_json_says_it_in_a_word() -> None:
    found = Difference(-0.1, -0.2, -0.05, 0.01, "mcnemar", 9).to_json()
    assert found == {"value": -0.1, "low": -0.2, "high": -0.05, "p": 0.01, "test": "mcnemar",
                     "samples": 9, "within_chance": False}  # fmt: skip

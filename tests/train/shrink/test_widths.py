"""Widths are as good as the best there are, which small cases try out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.core.errors import BadValue, OutOfReach
from edgedl.core.layers import Group, Layer, LayerShape
from edgedl.train.shrink.widths import (
    Prices,
    best_widths,
    candidates,
    even_widths,
    even_within,
    macs,
    shapes_of,
)


@dataclass(frozen=True)
class Made:
    groups: tuple[Group, ...]
    layers: tuple[Layer, ...]


def chain(*sizes: int, side: int = 8) -> Made:
    """3 x 3 convolutions, one after another, from 3 channels to 10 answers."""
    groups = tuple(Group(f"g{i}", size) for i, size in enumerate(sizes))
    layers, inside, reads = [], 3, {}
    for group in groups:
        shape = LayerShape("conv", inside, group.size, (side, side), (3, 3), (1, 1), (1, 1, 1, 1),
                           (1, 1))  # fmt: skip
        layers.append(Layer(group.name, shape, reads, {group.name: 1}))
        inside, reads = group.size, {group.name: 1}
    head = Layer("head", LayerShape("linear", inside, 10, (1,)), reads, {})
    return Made(groups, (*layers, head))


def stairs(shapes: Sequence[LayerShape]) -> list[float]:
    """Microseconds of a device that computes 16 channels at once, and 3 for each layer."""
    return [3 + ceil(s.inputs / 16) * ceil(s.outputs / 16) * 16.0 for s in shapes]


def kept_score(scores: dict[str, np.ndarray], kept: dict[str, int]) -> float:
    total = sum(one.sum() for one in scores.values())
    return float(sum(np.sort(one)[::-1][: kept[n]].sum() for n, one in scores.items()) / total)


def test_candidates() -> None:
    assert candidates(Group("g", 8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert candidates(Group("g", 30), least=6) == [8, 12, 16, 20, 24, 28, 30]
    assert candidates(Group("g", 64), 16) == [16, 32, 48, 64]
    assert candidates(Group("g", 192, 64)) == [64, 128, 192]
    assert len(candidates(Group("g", 2048))) <= 16
    assert candidates(Group("g", 3), least=4) == [3]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.sampled_from([8, 16, 20, 32]), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    share=st.floats(0.2, 0.95),
    stepped=st.booleans(),
)
def test_hardly_any_other_widths_keep_more(
    sizes: list[int], seed: int, share: float, stepped: bool
) -> None:
    made, price = chain(*sizes), stairs if stepped else macs
    dice = np.random.default_rng(seed)
    scores = {g.name: dice.random(g.size) ** 3 * dice.uniform(0.2, 2) for g in made.groups}
    budget = share * sum(price(shapes_of(made, {})))
    choices = [candidates(group, 4) for group in made.groups]
    names = [group.name for group in made.groups]
    able = []
    for widths in product(*choices):
        kept = dict(zip(names, widths, strict=True))
        if sum(price(shapes_of(made, kept))) <= budget:
            able.append(kept_score(scores, kept))
    if not able:
        with pytest.raises(OutOfReach, match="the cheapest widths"):
            best_widths(made, scores, price, budget, step=4)
        return
    found = best_widths(made, scores, price, budget, step=4)
    assert found.price <= budget
    assert found.price == pytest.approx(sum(price(shapes_of(made, found.kept))))
    assert found.score == pytest.approx(kept_score(scores, dict(found.kept)))
    assert found.score >= 0.98 * max(able)


def test_what_cannot_be_had_tells_what_can() -> None:
    made = chain(8, 16, 12)
    scores = {group.name: np.ones(group.size) for group in made.groups}
    fewest = {group.name: candidates(group, least=2)[0] for group in made.groups}
    total, narrow = (sum(macs(shapes_of(made, kept))) for kept in ({}, fewest))

    def tried(share: float, by: str) -> object:
        if by == "best":
            return best_widths(made, scores, macs, share * total, least=2)
        return even_within(made, macs, share * total, least=2)

    for by in ("best", "even"):
        with pytest.raises(OutOfReach) as told:
            tried(narrow / total - 0.01, by)
        share = float(str(told.value.hint).split("(")[1].split()[0])
        assert narrow / total <= share < narrow / total + 0.001
        assert tried(share, by)


def test_stairs_are_climbed_to_their_edge() -> None:
    made = chain(64, 96, 128)
    dice = np.random.default_rng(0)
    scores = {g.name: dice.random(g.size) for g in made.groups}
    budget = 0.5 * sum(stairs(shapes_of(made, {})))
    found = best_widths(made, scores, stairs, budget, step=4)
    assert all(width % 16 == 0 for width in found.kept.values())
    # Chosen by multiplications, to cost as much on this device: the largest share that does.
    full = sum(macs(shapes_of(made, {})))
    others = [
        best_widths(made, scores, macs, part * full, step=4) for part in np.arange(0.3, 0.7, 0.05)
    ]
    able = [one.score for one in others if sum(stairs(shapes_of(made, one.kept))) <= budget]
    assert found.score > max(able) + 0.005


def test_all_is_kept_where_there_is_room() -> None:
    made = chain(16, 20)
    scores = {g.name: np.ones(g.size) for g in made.groups}
    found = best_widths(made, scores, macs, 1e12)
    assert found.kept == {"g0": 16, "g1": 20}
    assert (found.score, found.price) == (pytest.approx(1.0), found.before)


def test_no_shape_is_asked_for_twice_and_many_at_once() -> None:
    asked: list[LayerShape] = []
    calls = []

    def price(shapes: Sequence[LayerShape]) -> list[float]:
        asked.extend(shapes)
        calls.append(len(shapes))
        return stairs(shapes)

    made = chain(64, 96, 128, 128, 256)
    dice = np.random.default_rng(1)
    scores = {g.name: dice.random(g.size) for g in made.groups}
    prices = Prices(price)
    before = sum(prices(shapes_of(made, {})))
    best_widths(made, scores, prices, 0.4 * before)
    even_within(made, prices, 0.4 * before)
    assert len(asked) == len(set(asked))
    assert len(calls) == prices.calls <= 60
    assert len(asked) < 700


def test_wholes_of_units_and_layers_of_two_groups() -> None:
    # Heads of 8, and a layer that reads 2 groups, one of them 4 values for each channel.
    groups = (Group("heads", 32, 8), Group("wide", 12))
    layers = (
        Layer("heads", LayerShape("linear", 10, 32, (5,)), {}, {"heads": 1}),
        Layer("wide", LayerShape("linear", 10, 12, (5,)), {}, {"wide": 1}),
        Layer("last", LayerShape("linear", 32 + 48, 2, (5,)), {"heads": 1, "wide": 4}, {}),
    )
    made = Made(groups, layers)
    scores = {"heads": np.array([4.0, 1.0, 3.0, 2.0]), "wide": np.ones(12)}
    # All: 5 * (320 + 120 + 160) = 3000. Without a head: 5 * (240 + 120 + 144) = 2520.
    found = best_widths(made, scores, macs, 2520)
    assert found.kept == {"heads": 24, "wide": 12}
    assert found.score == pytest.approx(1 - 1 / 22)


def test_even_shares() -> None:
    made = chain(64, 20, 6)
    assert even_widths(made, 0.5) == {"g0": 32, "g1": 12, "g2": 3}
    assert even_widths(made, 0.1, least=5) == {"g0": 8, "g1": 8, "g2": 5}
    full = sum(macs(shapes_of(made, {})))
    kept = even_within(made, macs, 0.3 * full)
    assert 0.15 * full < sum(macs(shapes_of(made, kept))) <= 0.3 * full
    with pytest.raises(BadValue, match="even with the fewest"):
        even_within(made, macs, 10)


def test_a_price_that_is_none() -> None:
    made = chain(8)
    with pytest.raises(BadValue, match="is nan"):
        best_widths(made, {"g0": np.ones(8)}, lambda s: [float("nan")] * len(s), 1.0)

"""Grids of widths, and prices between their points, worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.layers import LayerShape
from edgedl.search.layer_grid import Grid, family_of, thinned, ticks


def conv(inputs: int, outputs: int, groups: int = 1) -> LayerShape:
    return LayerShape("conv", inputs, outputs, (8, 8), (3, 3), (1, 1), (1,) * 4, (1, 1), groups)


def test_five_widths_on_multiples() -> None:
    assert ticks([64, 512]) == (64, 192, 288, 384, 512)
    assert ticks([16, 48, 17]) == (16, 24, 32, 40, 48)
    assert ticks([7]) == (7,)
    assert ticks([17, 47]) == (16, 24, 32, 40, 48)
    assert ticks([3, 5]) == (3, 4, 8)
    assert ticks([12, 36], unit=12) == (12, 24, 36)


@given(st.sets(st.integers(1, 64), min_size=1), st.integers(1, 6))
def test_widths_lie_within_and_are_whole(groups: set[int], unit: int) -> None:
    widths = {unit * g for g in groups}
    found = ticks(widths, unit)
    assert found[0] <= min(widths)
    assert found[-1] >= max(widths)
    assert len(found) <= 5
    assert list(found) == sorted(set(found))
    assert all(w % unit == 0 for w in found)


def test_levels_hold_those_before() -> None:
    axis = (8, 16, 24, 32, 64)
    assert thinned(axis, 2) == (8, 64)
    assert thinned(axis, 3) == (8, 24, 64)
    assert thinned(axis, 5) == axis
    assert thinned((8,), 2) == (8,)


def test_between_four_points() -> None:
    grid = Grid.around([conv(8, 16), conv(16, 48)]).level(2)
    assert (grid.inputs, grid.outputs) == ((8, 16), (16, 48))
    prices = {conv(8, 16): 10.0, conv(8, 48): 18.0, conv(16, 16): 20.0, conv(16, 48): 60.0}
    # Uneven widths cost as much as even ones here.
    prices |= {conv(9, 16): 11.25, conv(8, 17): 10.25}
    assert set(grid.points) == set(prices)
    price = prices.__getitem__
    # A quarter along outputs: 12 and 30; halfway between these along inputs: 21.
    assert grid.between(conv(12, 24), price) == pytest.approx(21)
    assert grid.between(conv(8, 32), price) == pytest.approx(14)
    assert grid.between(conv(16, 48), price) == 60
    assert grid.holds(conv(9, 47))
    assert not grid.holds(conv(9, 49))


def test_uneven_widths_cost_more_where_that_was_seen() -> None:
    grid = Grid.around([conv(8, 16), conv(16, 48)]).level(2)
    prices = dict.fromkeys(grid.points, 10.0) | {conv(9, 16): 20.0, conv(8, 17): 15.0}
    price = prices.__getitem__
    assert grid.between(conv(12, 20), price) == 10
    assert grid.between(conv(13, 20), price) == 20
    assert grid.between(conv(12, 21), price) == 15
    assert grid.between(conv(13, 21), price) == 30


def test_depthwise_layers_have_one_width() -> None:
    shapes = [conv(8, 8, 8), conv(24, 24, 24)]
    assert family_of(shapes[0]) == family_of(shapes[1]) != family_of(conv(8, 8))
    grid = Grid.around(shapes).level(2)
    uneven = conv(9, 9, 9)
    assert grid.points == [*shapes, uneven]
    prices = {shapes[0]: 4.0, shapes[1]: 8.0, uneven: 8.5}
    assert grid.between(conv(12, 12, 12), prices.__getitem__) == 5
    # At 9 channels twice the 4.25 between its neighbours; so at 13 twice 5.25.
    assert grid.between(conv(13, 13, 13), prices.__getitem__) == pytest.approx(10.5)


def test_groups_stay_whole() -> None:
    grid = Grid.around([conv(8, 8, 4), conv(64, 100, 4)])
    assert all(p.inputs % 4 == p.outputs % 4 == 0 and p.groups == 4 for p in grid.points)
    assert len(grid.points) == 25

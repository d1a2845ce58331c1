"""Axes, worked out by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.report.scale import Scale, spanning, tick_label, ticks
from edgedl.report.svg import TICK_PX, elide, text_width

SIZES = st.floats(1e-6, 1e9)


def test_a_linear_scale_by_hand() -> None:
    scale = Scale(2, 6, 100, 200)
    assert [scale(2), scale(3), scale(6)] == [100, 125, 200]


def test_a_log_scale_by_hand() -> None:
    scale = Scale(1, 100, 0, 10, log=True)
    assert scale(10) == pytest.approx(5)
    assert scale(math.sqrt(10)) == pytest.approx(2.5)


def test_an_upward_axis_runs_backwards() -> None:
    assert Scale(0, 10, 300, 100)(10) == 100


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (Scale(0, 10, 0, 300), ["0", "2", "4", "6", "8", "10"]),
        (Scale(0.72, 0.75, 0, 200), ["0.72", "0.73", "0.74", "0.75"]),
        (Scale(0.725, 0.735, 0, 120), ["0.725", "0.730", "0.735"]),
        (Scale(1, 1000, 0, 300, log=True), ["1", "3", "10", "30", "100", "300", "1,000"]),
        (Scale(0.9, 1.2, 0, 200, log=True), ["0.9", "1", "1.1", "1.2"]),
    ],
)  # fmt: skip
def test_ticks_by_hand(scale: Scale, expected: list[str]) -> None:
    assert [text for _, text in ticks(scale, lambda _: 40, most=7)] == expected


@given(SIZES, st.floats(1.0001, 1e9), st.booleans(), st.floats(150, 900))
def test_tick_labels_never_touch_and_lie_within(
    low: float, factor: float, log: bool, width: float
) -> None:
    scale = spanning([low, low * factor], 0, width, log=log)

    def room(text: str) -> float:
        return text_width(text, TICK_PX) + 10

    found = ticks(scale, room)
    assert found
    for value, _ in found:
        assert scale.low <= value <= scale.high * (1 + 1e-9)
    for (a, first), (b, second) in pairwise(found):
        assert scale(b) - scale(a) >= (room(first) + room(second)) / 2
    assert len({text for _, text in found}) == len(found)


@given(st.lists(SIZES, min_size=1, max_size=6), st.booleans(), st.booleans())
def test_a_spanning_scale_holds_its_values(values: list[float], log: bool, zero: bool) -> None:
    scale = spanning(values, 10, 200, log=log, zero=zero)
    assert scale.low <= min(values)
    assert max(values) <= scale.high
    assert scale.low < scale.high


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (1200, "1,200"), (0.25, "0.25"), (2e9, "2e+09"), (1e-6, "1e-06"), (5.0, "5")],
)
def test_tick_labels(value: float, text: str) -> None:
    assert tick_label(value) == text


@given(st.text(max_size=80), st.floats(20, 300))
def test_elided_text_fits_and_keeps_its_ends(text: str, room: float) -> None:
    short = elide(text, room)
    assert text_width(short) <= room
    if short not in (text, "…"):
        head, tail = short.split("…", 1) if text.count("…") == 0 else ("", "")
        assert text.startswith(head)
        assert text.endswith(tail)

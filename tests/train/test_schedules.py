"""Schedules, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.train.schedules import share_of
from edgedl.train.settings import Constant, Cosine, OneCycle, Schedule, Step


def shares(schedule: Schedule, steps: int, epoch_steps: int) -> list[float]:
    return [share_of(schedule, step, steps, epoch_steps) for step in range(steps)]


def test_cosine_with_warm_up() -> None:
    """Two steps up; then half a cosine over four: 1, (1 + 1/sqrt 2)/2, 1/2, (1 - 1/sqrt 2)/2."""
    found = shares(Cosine(warmup_epochs=0.5), 6, 4)
    assert found == pytest.approx([0.5, 1, 1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert share_of(Cosine(final=0.2), 2, 4, 2) == pytest.approx(0.6)


def test_steps_fall_after_their_epochs() -> None:
    found = shares(Step(at=(1, 2), factor=0.1), 6, 2)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert shares(Constant(warmup_epochs=1), 4, 2) == [0.5, 1, 1, 1]


def test_one_cycle_rises_and_falls() -> None:
    found = shares(OneCycle(rise=0.5, start=0.1, final=0.0), 5, 5)
    assert found == pytest.approx([0.1, 0.55, 1, 0.5, 0])
    assert shares(OneCycle(), 1, 1) == [1]


@given(
    st.sampled_from([Cosine(warmup_epochs=0.3), OneCycle(), Step(at=(1, 3)), Constant()]),
    st.integers(1, 40),
    st.integers(1, 10),
)
def test_no_step_takes_more_than_the_rate(schedule: Schedule, epochs: int, steps: int) -> None:
    assert all(0 <= share <= 1 + 1e-12 for share in shares(schedule, epochs * steps, steps))

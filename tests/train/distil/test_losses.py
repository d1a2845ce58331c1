"""Losses, each against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.train.distil.losses import (
    alike,
    angles,
    attention,
    distances,
    soft_classes,
    soft_flags,
    squares,
)

LN2, LN3 = math.log(2), math.log(3)


def test_soft_classes_by_hand() -> None:
    """At T = 2 the logits (2 ln 3, 0) are 3/4 and 1/4, and (0, 0) are halves: the divergence of
    the first from the second is 3/4 ln(3/2) + 1/4 ln(1/2), times 4."""
    wanted = torch.tensor([[2 * LN3, 0.0], [1.0, 1.0]])
    found = soft_classes(torch.zeros(2, 2), wanted, 2.0)
    assert found.tolist() == pytest.approx([3 * math.log(1.5) - LN2, 0.0], abs=1e-6)


def test_the_gradient_of_soft_classes_stays_as_large() -> None:
    """T (p - q): here 2 (1/2 - 3/4)."""
    scores = torch.zeros(1, 2, requires_grad=True)
    soft_classes(scores, torch.tensor([[2 * LN3, 0.0]]), 2.0).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_sequences_count_the_mean_of_their_steps() -> None:
    """[batch, steps, classes] along the last axis, and [batch, classes, steps] along the first."""
    wanted = torch.tensor([[[LN3, 0.0], [0.0, 0.0], [0.0, 0.0]]])
    one = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert soft_classes(torch.zeros(1, 3, 2), wanted, 1.0, 2).tolist() == pytest.approx([one / 3])
    moved = soft_classes(torch.zeros(1, 2, 3), wanted.mT, 1.0, 1)
    assert moved.tolist() == pytest.approx([one / 3])


def test_soft_flags_by_hand() -> None:
    """Halves cost ln 2 whatever is wanted; at T = 2, 4 times that."""
    wanted = torch.tensor([[2 * LN3, -1.0, 7.0]])
    assert soft_flags(torch.zeros(1, 3), wanted, 2.0).tolist() == pytest.approx([4 * LN2])
    # 3/4 wanted and given: the entropy of it
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    both = torch.tensor([[LN3]])
    assert soft_flags(both, both, 1.0).tolist() == pytest.approx([entropy])


def test_squares_by_hand() -> None:
    found = squares(torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    assert found.tolist() == [2.5, 0.0]


def test_attention_by_hand() -> None:
    """Channels (3, 0) and (4, 0): squares (12.5, 0) at two places, of norm 1 (1, 0). The other map
    is (0, 1), or (3/5, 4/5)."""
    ours = torch.tensor([[[3.0, 0.0], [4.0, 0.0]]])
    assert attention(ours, torch.tensor([[[0.0, 9.0]]])).tolist() == pytest.approx([2.0])
    theirs = torch.tensor([[[3.0**0.5, 2.0]]])
    assert attention(ours, theirs).tolist() == pytest.approx([0.4**2 + 0.8**2])
    # channels last: the same
    assert attention(ours.mT, theirs.mT, 2).tolist() == pytest.approx([0.8])


def test_larger_maps_are_averaged() -> None:
    large = torch.arange(16.0).reshape(1, 1, 4, 4)
    one, other = alike(large, torch.zeros(1, 3, 2, 2))
    assert one.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert other.shape == (1, 3, 2, 2)
    one, other = alike(torch.zeros(1, 3, 2), torch.tensor([[[1.0, 3.0, 5.0, 9.0]]]))
    assert other.flatten().tolist() == [2.0, 7.0]


def test_distances_of_three_points_by_hand() -> None:
    """On a line at 0, 1, 3: distances 1, 3, 2 of mean 2. The teacher's all are 1. What they differ
    by, 1/2, 1/2 and 0, costs half its square: 1/8, 1/8, 0."""
    ours = torch.tensor([[0.0], [1.0], [3.0]])
    theirs = torch.eye(3)
    eighth = 1 / 8
    wanted = [eighth, eighth / 2, eighth / 2]
    assert distances(ours, theirs).tolist() == pytest.approx(wanted)
    # scale is of no matter
    assert distances(7 * ours, 3 * theirs).tolist() == pytest.approx(wanted)


def test_angles_of_three_points_by_hand() -> None:
    """On a line the cosine is -1 at the middle, 1 at the ends; 1/2 in a triangle of equal sides.
    What they differ by is 1/2 at the ends, 3/2 in the middle, where Huber's loss is 1."""
    ours = torch.tensor([[0.0], [1.0], [3.0]])
    assert angles(ours, torch.eye(3)).tolist() == pytest.approx([1 / 8, 1.0, 1 / 8])


def test_few_samples_and_equal_ones_have_no_relations() -> None:
    one = torch.ones(1, 3, requires_grad=True)
    assert distances(one, one).tolist() == angles(one, one).tolist() == [0.0]
    assert angles(torch.eye(2), torch.eye(2)).tolist() == [0.0, 0.0]
    same = torch.ones(3, 2, requires_grad=True)
    (distances(same, torch.eye(3)) + angles(same, torch.eye(3))).sum().backward()
    assert same.grad is not None
    assert bool(torch.isfinite(same.grad).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(3, 6), st.integers(1, 5))
def test_relations_are_those_of_a_plain_count(seed: int, count: int, width: int) -> None:
    random = torch.Generator().manual_seed(seed)
    ours, theirs = (torch.randn(count, width, generator=random) for _ in range(2))
    huber = torch.nn.functional.smooth_l1_loss
    places = range(count)
    for i in places:
        total = torch.zeros(())
        for j in places:
            for k in places:
                if len({i, j, k}) == 3:
                    two = (
                        torch.cosine_similarity(x[j] - x[i], x[k] - x[i], dim=0)
                        for x in (ours, theirs)
                    )
                    total = total + huber(*two)
        wanted = float(total) / ((count - 1) * (count - 2))
        assert float(angles(ours, theirs)[i]) == pytest.approx(wanted, abs=1e-4)
    means = [torch.pdist(x).mean() for x in (ours, theirs)]
    for i in places:
        total = sum(
            float(huber((ours[i] - ours[j]).norm() / means[0],
                        (theirs[i] - theirs[j]).norm() / means[1]))
            for j in places if i != j
        )  # fmt: skip
        assert float(distances(ours, theirs)[i]) == pytest.approx(total / (count - 1), abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.5, 20))
def test_nothing_lacks_where_answers_are_the_teachers(seed: int, temperature: float) -> None:
    random = torch.Generator().manual_seed(seed)
    same = torch.randn(5, 3, 4, generator=random)
    for found in (
        soft_classes(same, same, temperature), soft_classes(same, same, temperature, 2),
        squares(same, same), attention(same, same), distances(same, same), angles(same, same),
    ):  # fmt: skip
        assert found.shape == (5,)
        assert float(found.abs().max()) < 1e-4
    unlike = torch.randn(5, 3, 4, generator=random)
    assert float(soft_classes(unlike, same, temperature).min()) >= -1e-5

"""Which outputs are compared, and as what."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from edgedl.core.errors import BadValue
from edgedl.train.distil.pairs import Pair, packed, pairs_of, soft, unpacked
from edgedl.train.settings import Bce, CrossEntropy, Ctc, Focal, Loss, Mse, OfNetwork
from tests.train.distil.taught import told

LABEL = torch.tensor(1)


def one(output: Tensor, answer: Tensor, loss: Loss | None, wanted: Tensor | None = LABEL) -> Pair:
    [found] = pairs_of(told(), output, {"output": answer}, loss, wanted)
    return found


@pytest.mark.parametrize(
    ("shape", "loss", "wanted", "kind", "axis"),
    [
        ((4,), CrossEntropy(), LABEL, "classes", 1),
        ((4, 6), CrossEntropy(), torch.zeros(6), "classes", 1),
        ((6, 4), Ctc(), torch.zeros(3), "classes", 2),
        ((4,), Focal(), LABEL, "classes", 1),
        ((4,), Focal(), torch.zeros(4), "flags", 1),
        ((4,), Bce(), torch.zeros(4), "flags", 1),
        ((), Mse(), LABEL, "values", 1),
        ((6, 4), None, None, "values", 2),
        ((4, 2, 2), OfNetwork(), LABEL, "values", 1),
    ],
)
def test_the_loss_tells_what_answers_are(
    shape: tuple[int, ...], loss: Loss | None, wanted: Tensor | None, kind: str, axis: int
) -> None:
    random = torch.Generator().manual_seed(0)
    output, answer = (torch.randn(n, *shape, generator=random) for n in (2, 9))
    found = one(output, answer, loss, wanted)
    assert (found.kind, found.axis, found.shape) == (kind, axis, shape)
    assert not found.ours
    assert not found.theirs


def test_probabilities_are_known_on_either_side() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    even = scores.softmax(dim=1)
    found = one(even, even, None)
    assert (found.kind, found.ours, found.theirs) == ("classes", True, True)
    half = one(scores, even, CrossEntropy())
    assert (half.ours, half.theirs) == (False, True)
    assert half.loss(scores, even, 3.0).tolist() == pytest.approx([0, 0], abs=1e-5)
    # as logarithms they are logits: a temperature means the same
    other = torch.zeros(2, 3)
    plain = one(scores, scores, CrossEntropy())
    assert half.loss(other, even, 3.0).tolist() == pytest.approx(
        plain.loss(other, scores, 3.0).tolist(), rel=1e-4
    )


def test_flags_that_are_probabilities_already() -> None:
    found = one(torch.zeros(2, 2), torch.tensor([[0.75, 0.25]] * 2), Bce())
    assert found.theirs
    halves = found.loss(torch.zeros(1, 2), torch.tensor([[0.75, 0.25]]), 1.0)
    assert halves.tolist() == pytest.approx([math.log(2)])
    three = torch.tensor([[math.log(3), -math.log(3)]])
    entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert found.loss(three, torch.tensor([[0.75, 0.25]]), 1.0).tolist() == pytest.approx([entropy])


def test_several_outputs_by_name_and_weight() -> None:
    ours = {"a": torch.zeros(2, 3), "b": torch.ones(2, 1)}
    theirs = {"b": torch.zeros(2), "a": torch.full((2, 3), 2.0), "c": torch.zeros(2, 7)}
    pairs = pairs_of(told(), ours, theirs, Mse(), torch.zeros(3))
    assert [(pair.student, pair.teacher, pair.size) for pair in pairs] == [("a", "a", 3),
                                                                         ("b", "b", 1)]  # fmt: skip
    rows = packed(pairs, theirs)
    assert rows.tolist() == [[2, 2, 2, 0]] * 2
    assert [part.shape for part in unpacked(pairs, rows)] == [(2, 3), (2, 1)]
    assert soft(pairs, ours, rows, 4.0).tolist() == [2.5, 2.5]
    chosen = told(outputs=[{"student": "a"}, {"student": "b", "weight": 3}])
    pairs = pairs_of(chosen, ours, theirs, Mse(), torch.zeros(3))
    assert soft(pairs, ours, rows, 4.0).tolist() == [1.75, 1.75]


@pytest.mark.parametrize(
    ("given", "ours", "theirs", "says"),
    [
        ({}, {"a": (3,), "b": (1,)}, {"a": (3,)}, "outputs are `a`, `b`, the teacher's `a`"),
        ({}, {"a": (3,)}, {"x": (5,)}, r"`a` is float32 of shape \(3,\), the teacher's `x` .*5"),
        ({}, {"a": (3,)}, {"x": (3,), "y": (3,)}, "outputs are `a`, the teacher's `x`, `y`"),
        ({"outputs": {"student": "z"}}, {"a": (3,)}, {"a": (3,)}, "network has no output `z`"),
        ({"answers": "classes"}, {"a": (1,)}, {"a": (1,)}, "not answer with several classes"),
    ],
)
def test_what_does_not_fit_is_told(
    given: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any], says: str
) -> None:
    outputs, answers = ({name: torch.randn(4, *shape) for name, shape in one.items()}
                        for one in (ours, theirs))  # fmt: skip
    with pytest.raises(BadValue, match=says):
        pairs_of(told(**given), outputs, answers, None, None)

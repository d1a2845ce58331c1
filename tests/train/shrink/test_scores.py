"""Scores worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue
from edgedl.train.augment import Batch
from edgedl.train.shrink.groups import groups_of
from edgedl.train.shrink.scores import Score, scores_of
from tests.train.networks.cases import Case
from tests.train.networks.made import made
from tests.train.shrink.cut_cases import (
    IMAGE,
    SERIES,
    TEXT,
    example,
    silenced,
    stirred,
    structure_of,
)


def loss(outputs: Any, targets: Tensor) -> Tensor:
    return nn.functional.mse_loss(outputs, targets)


def two() -> nn.Module:
    """x [2] to 2 units to 1 answer: h = (1 x0 - 2 x1, 3 x0 + 4 x1), y = 5 h0 - 1 h1."""
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
        network[2].weight.copy_(torch.tensor([[5.0, -1.0]]))
    return network


BATCHES = [
    # y = 5 * -1 - 7 = -12
    Batch((torch.tensor([[1.0, 1.0]]),), torch.tensor([[0.0]])),
    # h = (1, 3), y = 2
    Batch((torch.tensor([[1.0, 0.0]]),), torch.tensor([[1.0]])),
]


def score(network: nn.Module, name: Score, group: str = "0", **more: Any) -> np.ndarray:
    x = BATCHES[0].inputs[0].repeat(2, 1)
    return scores_of(network, groups_of(network, (x,)), name, **more)[group]


def test_magnitudes() -> None:
    network = two()
    assert score(network, "l1") == pytest.approx(np.array([3, 7]) / 5)
    lengths = np.sqrt([5, 25])
    assert score(network, "l2") == pytest.approx(lengths / lengths.mean())


def test_taylor() -> None:
    # dL/dy is 2 (y - t): -24 and 2; a unit's gradient times weight is dL/dy * out weight * h.
    first = np.array([(-24 * 5 * -1) ** 2, (-24 * -1 * 7) ** 2])
    second = np.array([(2 * 5 * 1) ** 2, (2 * -1 * 3) ** 2])
    wanted = (first + second) / 2
    found = score(two(), "taylor", batches=BATCHES, loss=loss)
    assert found == pytest.approx(wanted / wanted.mean())


def test_activation() -> None:
    wanted = np.array([(1 + 1) / 2, (7 + 3) / 2])
    assert score(two(), "activation", batches=BATCHES) == pytest.approx(wanted / 3)


def test_scales_and_what_gates() -> None:
    network = nn.Sequential(
        nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, eps=0), nn.Linear(2, 1, bias=False)
    ).eval()
    network.load_state_dict({**network.state_dict(), **two().state_dict()})
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([3.0, -1.0]))
        network[1].bias.copy_(torch.tensor([1.0, 0.0]))
    assert score(network, "bn") == pytest.approx(np.array([1.5, 0.5]))
    # Statistics are 0 and 1: h = (3 * -1 + 1, -7) = (-2, -7); y = -10 + 7 = -3, dL/dy = -6.
    wanted = np.array([(-6 * 5 * -2) ** 2, (-6 * -1 * -7) ** 2])
    found = score(network, "taylor", batches=BATCHES[:1], loss=loss)
    assert found == pytest.approx(wanted / wanted.mean())


def test_what_is_random_is_drawn_by_the_seed() -> None:
    assert np.array_equal(score(two(), "random", seed=1), score(two(), "random", seed=1))
    assert not np.array_equal(score(two(), "random", seed=1), score(two(), "random", seed=2))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("taylor", {}, "needs samples"),
        ("activation", {}, "needs samples"),
        ("taylor", {"batches": BATCHES}, "needs a loss"),
        ("bn", {}, "has none to go by"),
    ],
)
def test_what_a_score_needs(name: Score, more: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        score(two(), name, **more)


@pytest.mark.parametrize("name", ["l1", "l2", "bn", "taylor", "activation"])
@pytest.mark.parametrize(
    "case",
    [
        Case("mobilenetv3_small", IMAGE, settings={"alpha": 0.25}, table=("mobilenetv3:SMALL", 4)),
        Case("text_encoder", TEXT, settings={"width": 16, "depth": 1, "heads": 4}),
        Case("lstm", SERIES, settings={"hidden": 6, "bidirectional": True, "layers": 2}),
        Case("unet", {"image": IMAGE["image"]}, settings={"width": 4, "depth": 1}),
    ],
    ids=str,
)
def test_silent_channels_come_last(
    name: Score, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = stirred(made(case, monkeypatch))
    structure = structure_of(network, case.inputs)
    if name == "bn" and case.name in ("text_encoder", "lstm"):
        with pytest.raises(BadValue, match="none to go by"):
            scores_of(network, structure, name)
        return
    gone = {
        group.name: list(range(2 * group.unit, 3 * group.unit))
        for group in structure.groups
        if group.name != "embedding"  # normalised before it is read
    }
    silenced(network, structure, gone)
    before = {n: one.clone() for n, one in network.state_dict().items()}
    inputs = example(case.inputs, 8)
    with torch.no_grad():
        targets = torch.zeros_like(network(*inputs))
    network.train()
    batches = [Batch(inputs, targets + i) for i in range(2)]
    found = scores_of(network, structure, name, batches=batches, loss=loss)
    for group in structure.groups:
        assert found[group.name].shape == (group.size // group.unit,)
        assert (found[group.name] >= 0).all()
        if group.name in gone:
            # Others may be silent, too: behind a ReLU that never opens.
            assert found[group.name][2] <= 1e-9 < found[group.name].max(), group.name
    assert network.training
    assert all(one.grad is None for one in network.parameters())
    assert all(torch.equal(one, before[n]) for n, one in network.state_dict().items())

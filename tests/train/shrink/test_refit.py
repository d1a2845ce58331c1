"""Weights solved for what stood before a cut: exact where that can be, else nearer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.samples import from_arrays
from edgedl.train.augment import Batch
from edgedl.train.shrink.cutting import apply_cut, tried
from edgedl.train.shrink.groups import groups_of
from edgedl.train.shrink.prune import Prune
from edgedl.train.shrink.refit import _drawn, _rows, refit
from tests.train.shrink.ground import ground


def batches(*shape: int, count: int = 96, seed: int = 0) -> list[Batch]:
    values = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return [Batch((one,), torch.zeros(len(one))) for one in values.split(32)]


def after(network: nn.Module, gone: dict[str, list[int]], shape: tuple[int, ...]) -> Any:
    """The network cut, cut and solved, and what was solved."""
    network.eval()
    some = batches(*shape)
    plan = tried(network, groups_of(network, (some[0].inputs[0][:2],)), gone)
    cut = copy.deepcopy(network)
    apply_cut(cut, plan)
    kept = {name: one.clone() for name, one in network.state_dict().items()}
    made = refit(network, plan, some)
    assert all(torch.equal(one, kept[name]) for name, one in network.state_dict().items())
    solved = copy.deepcopy(cut)
    solved.load_state_dict(made, strict=False)
    return cut, solved, made


def loss(network: nn.Module, other: nn.Module, *shape: int) -> float:
    """The share of a network's power on new samples by which another misses it."""
    given = batches(*shape, seed=1)[0].inputs[0]
    with torch.no_grad():
        wanted, found = network(given), other(given)
    return float((wanted - found).square().sum() / wanted.square().sum())


def drawn(network: nn.Module, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    for one in network.modules():
        if isinstance(one, nn.Conv2d):
            one.reset_parameters()
        if isinstance(one, nn.BatchNorm2d):
            nn.init.uniform_(one.weight, 0.5, 2)
            nn.init.normal_(one.bias)
            nn.init.uniform_(one.running_var, 0.5, 2)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_others_make_as_well_is_not_missed(norm: bool, seed: int) -> None:
    parts = [nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8) if norm else nn.Identity()]
    network = drawn(nn.Sequential(*parts, nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Conv2d(4, 2, 1)), seed)
    first: Any = network[0]
    with torch.no_grad():
        first.weight[4:], first.bias[4:] = 2 * first.weight[:4], 2 * first.bias[:4]
        for one in (network[1],) if norm else ():
            for held in ("weight", "bias", "running_mean", "running_var"):
                values: Any = getattr(one, held)
                scale = {"bias": 2, "running_mean": 2, "weight": 1, "running_var": 1}[held]
                values[4:] = scale * values[:4]
    cut, solved, made = after(network, {"0": [4, 5, 6, 7]}, (3, 12, 12))
    # the penalty keeps it from being exact
    assert loss(network, solved, 3, 12, 12) < 0.02 * loss(network, cut, 3, 12, 12)
    assert "3.weight" in made
    assert made["3.weight"].shape == (4, 4, 3, 3)


@pytest.mark.parametrize(
    ("network", "group", "shape"),
    [
        (nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 3)), "0", (6,)),
        (nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3, bias=False)), "0", (5, 6)),
        (nn.Sequential(nn.Conv1d(2, 16, 3), nn.ReLU(), nn.Conv1d(16, 4, 5, dilation=2)), "0",
         (2, 30)),
    ],
)  # fmt: skip
def test_what_is_missing_is_less(network: nn.Module, group: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    for one in network.modules():
        if hasattr(one, "reset_parameters"):
            one.reset_parameters()
    width = len(network[0].weight)  # type: ignore[index, arg-type]
    cut, solved, _ = after(network, {group: list(range(0, width, 2))}, shape)
    assert loss(network, solved, *shape) < 0.5 * loss(network, cut, *shape)


class Odd(nn.Module):
    """Layers that are not solved: in groups, padded with what is no zero, and called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.around = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.twice = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.same(self.around(self.grouped(self.first(x)).relu()).relu()).relu()
        return self.last(self.twice(self.twice(x).relu()))


def test_other_layers_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = Odd()
    _, _, made = after(network, {"first": [0, 1, 2]}, (3, 6, 6))
    assert {name.partition(".")[0] for name in made} <= {"last"}


def test_weights_that_two_layers_share_stay_as_they_are() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(8, 8), nn.Linear(8, 8)
    other.weight = one.weight
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), one, nn.ReLU(), other, nn.Linear(8, 2))
    some = batches(4)
    plan = tried(network, groups_of(network, (some[0].inputs[0][:2],)), {"0": [0, 1]})
    assert {name.partition(".")[0] for name in refit(network, plan, some)} <= {"0", "5"}


def test_zeros_of_an_earlier_step_stay_and_others_are_solved() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 8), nn.Tanh(),
                            nn.Linear(8, 3)).eval()  # fmt: skip
    sparse: Any = network[2]
    with torch.no_grad():
        sparse.weight[:, ::4] = 0
    change = {"plan": tried(network, groups_of(network, (torch.randn(2, 6),)), {"0": [1, 2, 3]})}
    rows = np.random.default_rng(0).standard_normal((256, 6)).astype(np.float32)
    given = ground(from_arrays({"x": rows, "labels": np.zeros(256, np.int64)}))
    step = Prune(macs=0.5)
    assert "2.weight" in step.refit(network, change, given)
    kept = step.refit(network, change, replace(given, keeps_zeros=True))
    assert "2.weight" not in kept
    assert "4.weight" in kept


def test_samples_that_are_no_numbers_change_nothing() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    some = [Batch((torch.full((32, 4), torch.nan),), torch.zeros(32))]
    plan = tried(network, groups_of(network, (torch.zeros(2, 4),)), {"0": [1]})
    assert refit(network, plan, some) == {}


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (7, 5)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2), (4, 19)),
        (nn.Conv2d(3, 5, (3, 2), stride=(1, 3), padding=(0, 2)), (3, 11, 13)),
        (nn.Conv3d(2, 3, 2, padding=1), (2, 4, 5, 6)),
    ],
)
def test_rows_are_what_a_layer_multiplies(layer: Any, shape: tuple[int, ...]) -> None:
    given = batches(*shape)[0].inputs[0]
    with torch.no_grad():
        due = _drawn(layer, layer(given), None, torch.Generator().manual_seed(0))
        found = _rows(layer, given, due.places) @ layer.weight.flatten(1).T + layer.bias
    assert torch.allclose(found, due.values, atol=1e-5)

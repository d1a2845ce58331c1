"""Layers as two: the same answers at full energy, the ranks that pay, replay and export."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

from edgedl.core.errors import BadValue, EdgeError, NoGain, Unsupported
from edgedl.core.fields import from_plain
from edgedl.core.layers import LayerShape
from edgedl.core.samples import Samples
from edgedl.export import export
from edgedl.train.checkpoint import load_weights
from edgedl.train.shrink.layer_shapes import called_shapes
from edgedl.train.shrink.low_rank import (
    Factored,
    LowRank,
    factors,
    halves,
    most_worth,
)
from tests.train.shrink.ground import (
    Stopped,
    answers,
    changed,
    ground,
    images,
    plain,
    train,
)
from tests.train.small import same, weights


def network(seed: int = 1) -> nn.Module:
    """Dense, k x k, strided, dilated and depthwise; a layer of 1 x 1."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 24, 3, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, groups=24, padding=1),
        nn.Conv2d(24, 32, 1, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, 24, (3, 1), padding="same", dilation=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 16, 20),
        nn.ReLU(),
        nn.Linear(20, 4),
    )


def of_rank(one: nn.Module, rank: int) -> nn.Module:
    """The network, every weight of so low a rank."""
    for layer in one.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and not getattr(layer, "groups", 1) > 1:
            shape = layer.weight.shape
            left, right = torch.randn(shape[0], rank), torch.randn(rank, shape[1:].numel())
            layer.weight.data = 0.1 * (left @ right).reshape(shape)
    return one


def test_full_energy_is_the_same_network(tmp_path: Path) -> None:
    ours, samples = of_rank(network(), 2), images(16)
    before = answers(ours, samples)
    change = changed(LowRank(energy=1.0), ours, ground())
    assert change["ranks"] == {"0": 2, "4": 2, "6": 2, "9": 2, "11": 2}
    assert all(value == pytest.approx(1, abs=1e-9) for value in change["energy"].values())
    assert isinstance(ours[9], Factored)  # type: ignore[index]
    after = answers(ours, samples)
    assert (after - before).abs().max() <= 1e-4 * before.abs().max()


def test_energy_gives_the_smallest_rank_and_halves_of_one_norm(tmp_path: Path) -> None:
    ours = nn.Sequential(nn.Flatten(), nn.Linear(128, 8), nn.ReLU(), nn.Linear(8, 4))
    left = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    scale = torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.1, 0, 0, 0, 0]))
    ours[1].weight.data = left @ scale @ torch.eye(8, 128)
    # squares of 16, 4, 1 and 0.01: 0.761, 0.952, 0.9995
    ranks = []
    for energy in (0.7, 0.8, 0.96):
        step = LowRank(energy=energy, keep=("3",))
        ranks.append(step.decide(ours, ground(), 0)["ranks"])
    assert ranks == [{"1": 1}, {"1": 2}, {"1": 3}]
    changed(LowRank(energy=0.8, keep=("3",)), ours, ground())
    assert list(ours.state_dict())[:3] == ["1.narrow.weight", "1.widen.weight", "1.widen.bias"]
    narrow, widen = (ours.state_dict()[f"1.{n}.weight"] for n in ("narrow", "widen"))
    assert narrow.norm().item() == pytest.approx(widen.norm().item(), rel=1e-5)
    gone = left @ scale @ torch.eye(8, 128) - widen @ narrow
    assert gone.square().sum().item() == pytest.approx(1.01, rel=1e-4)


@given(some.integers(1, 9), some.integers(1, 9), some.integers(1, 9), some.integers(0, 99))
def test_the_halves_are_the_nearest_of_their_rank(
    rows: int, columns: int, rank: int, seed: int
) -> None:
    matrix = np.random.default_rng(seed).normal(size=(rows, columns))
    rank = min(rank, rows, columns)
    left, right = halves(torch.from_numpy(matrix), rank)
    values = np.linalg.svd(matrix, compute_uv=False)
    missed = float(np.square(matrix - (left @ right).numpy()).sum())
    assert missed == pytest.approx(float(np.square(values[rank:]).sum()), abs=1e-9)
    for norms in (left.norm(dim=0), right.norm(dim=1)):
        assert norms.numpy() == pytest.approx(np.sqrt(values[:rank]), rel=1e-6)


def test_shapes_of_the_factors_by_hand() -> None:
    shape = LayerShape("conv", 16, 32, (9, 9), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    narrow, widen = factors(shape, 5)
    assert narrow == LayerShape("conv", 16, 5, (9, 9), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
    assert widen == LayerShape("conv", 5, 32, (5, 5), (1, 1), (1, 1), (0,) * 4, (1, 1))
    narrow, widen = factors(LayerShape("linear", 10, 20, (7,)), 3)
    assert (narrow.macs, widen.macs) == (7 * 30, 7 * 60)


def test_shapes_are_those_that_modules_meet(tmp_path: Path) -> None:
    """The factors' shapes are what they meet once they stand in the network."""
    ours, on = network(), ground()
    before = called_shapes(ours, on, dict(ours.named_modules()))
    assert before["6"].out_size == (4, 4)
    change = changed(LowRank(rank=0.1), ours, on)
    after = called_shapes(ours, on, dict(ours.named_modules()))
    for name, rank in change["ranks"].items():
        pair = (after[f"{name}.narrow"], after[f"{name}.widen"])
        assert pair == factors(before[name], rank)


def test_rank_is_a_share_and_what_does_not_pay_is_named(tmp_path: Path) -> None:
    change = LowRank(rank=0.75).decide(network(), ground(), 0)
    # 9: 15 x (384 + 20) of 384 x 20; 0: 14 x (18 + 24) of 18 x 24, and so on
    assert change["ranks"] == {"6": 18, "9": 15, "11": 3}
    assert change["left"] == {
        "0": "rank 14 costs 1.36 of what it costs whole",
        "3": "depthwise",
        "4": "rank 18 costs 1.31 of what it costs whole",
    }


@pytest.mark.parametrize(
    ("step", "kind", "says"),
    [
        (LowRank(energy=1.0), NoGain, "no layer pays: `0`: rank 18 costs 1.75 .*`3`: depthwise"),
        (LowRank(rank=1.0, keep=("[0-8]", "11")), NoGain, "no layer pays: `9`: rank 20 costs 1.05"),
        (LowRank(keep=("[0-24-9]", "11")), NoGain, "no layer pays: `3`: depthwise"),
        (LowRank(keep=("fc",)), BadValue, "no layer is called `fc`"),
        (LowRank(keep=("*",)), BadValue, "no layer with weights is left"),
    ],
)
def test_where_nothing_pays_layers_are_named(
    step: LowRank, kind: type[EdgeError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        step.decide(network(), ground(), 0)


def test_the_engine_says_what_pays(tmp_path: Path) -> None:
    """An engine on which a call costs more than what is computed in it, but for one layer."""

    def price(shapes: Sequence[LayerShape]) -> list[float]:
        return [1000 + one.macs * (10 if one.inputs == 384 else 0.01) for one in shapes]

    change = LowRank(rank=0.25).decide(network(), ground(price=price), 0)
    assert change["ranks"] == {"9": 5}
    assert change["left"]["4"].startswith("rank 6 costs 1.8")


def test_a_share_of_latency_is_kept(tmp_path: Path) -> None:
    asked: list[LayerShape] = []

    def price(shapes: Sequence[LayerShape]) -> list[float]:
        asked.extend(shapes)
        return [5.0 + one.macs / 500 for one in shapes]

    ours, on = network(), ground(price=price)
    shapes = called_shapes(ours, on, dict(ours.named_modules()))
    total = sum(price(list(shapes.values())))
    asked.clear()
    shares = []
    energy = []
    for latency in (0.85, 0.7, 0.6):
        change = plain(LowRank(latency=latency).decide(ours, on, 0))
        made = 0.0
        for name, shape in shapes.items():
            rank = change["ranks"].get(name)
            made += sum(price(factors(shape, rank) if rank else [shape]))
        shares.append(made / total)
        energy.append(np.prod(list(change["energy"].values())))
    assert all(made <= want for made, want in zip(shares, (0.85, 0.7, 0.6), strict=True))
    assert shares[0] > 0.75
    assert energy == sorted(energy, reverse=True)
    with pytest.raises(BadValue, match=r"5% of the latency cannot be had .*% is the least") as told:
        LowRank(latency=0.05).decide(ours, on, 0)
    hint = (told.value.hint or "").removeprefix("latency: ")
    LowRank(latency=float(hint)).decide(ours, on, 0)
    asked.clear()
    LowRank(latency=0.7).decide(ours, on, 0)
    assert len(asked) == len(set(asked))


def test_latency_needs_an_engine(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="no engine of the target") as caught:
        LowRank(latency=0.5).decide(network(), ground(), 0)
    assert caught.value.hint == "energy: 0.9"


@given(
    some.lists(
        some.lists(some.tuples(some.integers(1, 20), some.integers(0, 9)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    some.integers(1, 60),
)
def test_the_most_worth_within_a_budget(choices: list[list[tuple[int, int]]], budget: int) -> None:
    costs = [[float(c) for c, _ in each] for each in choices]
    worth = [[float(w) for _, w in each] for each in choices]
    ways = itertools.product(*(range(len(each)) for each in choices))
    within = [
        sum(w[i] for i, w in zip(way, worth, strict=True))
        for way in ways
        if sum(c[i] for i, c in zip(way, costs, strict=True)) <= budget
    ]
    # a grain too many for each choice may be counted
    taken = most_worth(costs, worth, budget * (1 + 4 / 4000))
    if not within:
        assert taken is None
        return
    assert taken is not None
    assert sum(c[i] for i, c in zip(taken, costs, strict=True)) <= budget
    assert sum(w[i] for i, w in zip(taken, worth, strict=True)) == max(within)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_factors_are_trained_killed_and_replayed(tmp_path: Path, kind: str) -> None:
    step, ours = LowRank(rank=0.3), network()
    change = changed(step, ours, ground())
    train(ours, tmp_path / "whole", kind)
    other = network()
    step.apply(other, change)
    with pytest.raises(Stopped):
        train(other, tmp_path / "killed", kind, stop=5)
    fresh = network(seed=7)
    step.apply(fresh, change)
    train(fresh, tmp_path / "killed", kind)
    step.settle(fresh)
    assert same(weights(ours), weights(fresh))
    fresh = network(seed=7)
    step.apply(fresh, change)
    load_weights(fresh, tmp_path / "whole" / "best.safetensors")
    assert same(weights(ours), weights(fresh))
    torch.testing.assert_close(answers(ours, images(8)), answers(fresh, images(8)))


def feeds(samples: Samples) -> list[dict[str, np.ndarray]]:
    array: np.ndarray = samples.source.arrays["x"]  # type: ignore[attr-defined]
    return [{"x": array[i : i + 1]} for i in range(len(samples))]


def test_what_is_exported_answers_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(
        nn.Conv2d(2, 24, 3, 2, padding="valid"), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 9, 20)
    )
    assert len(changed(LowRank(rank=0.3), ours, ground())["ranks"]) == 2
    made = export(ours, feeds(images(3)), tmp_path / "net.onnx")
    assert made.difference <= 1e-5


def test_what_is_shared_subclassed_or_not_called_is_left(tmp_path: Path) -> None:
    class Own(nn.Linear):
        pass

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.own = nn.Linear(128, 16), Own(16, 16)
            self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
            self.two.weight = self.one.weight
            self.unused, self.dead = nn.Linear(16, 16), nn.Linear(16, 16)
            nn.init.zeros_(self.dead.weight)
            self.again = self.first

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.two(self.one(self.own(self.again(x.flatten(1)))))
            made: torch.Tensor = self.dead(x)
            return made

    ours = Net()
    change = changed(LowRank(rank=0.2), ours, ground())
    assert change["ranks"] == {"first": 3}
    assert change["left"] == {
        "own": "not a plain dense layer or convolution",
        "one": "its weight is shared",
        "two": "its weight is shared",
        "unused": "the network does not call it",
        "dead": "its weight is zero",
    }
    assert ours.again is ours.first
    assert isinstance(ours.again, Factored)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"energy": 0.9, "rank": 0.5}, "`energy` and `rank` both say"),
        ({"energy": 0.0}, "`energy` is 0.0"),
        ({"latency": 1.2}, "`latency` is 1.2"),
        ({"epochs": -1}, "`epochs` is -1"),
    ],
)
def test_settings_that_cannot_be_are_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(BadValue, match=says):
        from_plain(LowRank, given)


def test_a_change_of_another_network_is_told() -> None:
    with pytest.raises(BadValue, match="`20` is not here"):
        LowRank().apply(network(), {"ranks": {"20": 2}})
    with pytest.raises(BadValue, match="`1` is another layer here"):
        LowRank().apply(network(), {"ranks": {"1": 2}})


def test_layers_whose_weights_others_read_are_left() -> None:
    ours = nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.TransformerEncoderLayer(64, 2, 16))
    change = LowRank(rank=0.1).decide(ours, ground(), 0)
    assert set(change["ranks"]) == {"1"}
    assert "reads its weight" in change["left"]["2.linear1"]

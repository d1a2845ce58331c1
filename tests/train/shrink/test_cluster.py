"""Palettes: the nearest colours, trained together, kept through averages, kills and replay."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from torch import nn

from edgedl.core.errors import BadCheckpoint, BadValue
from edgedl.core.fields import from_plain
from edgedl.train.checkpoint import load_weights
from edgedl.train.networks.recurrent import Recurrent
from edgedl.train.shrink.cluster import Cluster, Palette, nearest_of, palette_of
from edgedl.train.shrink.sparsity import Sparsity
from edgedl.train.shrink.weights import parameter_count
from tests.train.shrink.ground import (
    Stopped,
    answers,
    changed,
    ground,
    images,
    plain,
    series,
    train,
)
from tests.train.small import convolutional, same, weights


def recurrent() -> nn.Module:
    torch.manual_seed(2)
    return Recurrent(nn.GRU, 16, 4, 8, 1, True, "last", 0.1)


def found(values: list[float], colours: int) -> list[float]:
    made: list[float] = palette_of(np.array(values), colours, np.random.default_rng(0)).tolist()
    return made


def loss(values: np.ndarray, palette: np.ndarray) -> float:
    return float(np.square(values[:, None] - palette[None]).min(axis=1).sum())


def best(values: np.ndarray, colours: int) -> float:
    """The least loss of all ways to part sorted values in ranges."""
    values = np.sort(values)
    least = np.inf
    for ends in itertools.combinations(range(1, len(values)), colours - 1):
        parts = np.split(values, ends)
        least = min(least, sum(float(np.square(p - p.mean()).sum()) for p in parts))
    return least


def test_a_palette_by_hand() -> None:
    assert found([1.0, 2.0, 9.0, 11.0, -5.0, -5.0], 3) == [-5, 1.5, 10]
    assert found([3.0, 1.0, 3.0], 4) == [1, 3]
    assert found([0.0, 1.0, 3.0, 0.0, 1.5], 3) == [0, 1.25, 3]
    assert found([0.0, 0.0], 2) == [0]


def test_the_nearest_colour_and_zero_for_zeros_alone() -> None:
    palette = np.array([-2.0, 0.0, 1.0, 4.0], np.float32)
    given = np.array([[-0.6, 0.0, 0.1], [2.4, 2.6, -9.0]])
    assert nearest_of(given, palette).tolist() == [[0, 1, 2], [2, 3, 0]]
    assert nearest_of(np.zeros(2), np.zeros(1)).tolist() == [0, 0]


@given(
    some.lists(some.integers(1, 60), min_size=5, max_size=9, unique=True),
    some.integers(2, 4),
    some.integers(0, 9),
)
def test_few_values_come_near_the_best_palette(values: list[int], colours: int, seed: int) -> None:
    array = np.array(values, np.float64)
    palette = palette_of(array, colours, np.random.default_rng(seed))
    assert len(palette) <= colours
    assert (np.diff(palette) > 0).all()
    assert loss(array, palette) <= 2.5 * best(array, colours) + 1e-6


def test_many_values_lose_what_theory_says() -> None:
    """The best 16 levels of a normal distribution leave 0.0095 of its square (Max, 1960)."""
    values = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    palette = palette_of(values, 16, np.random.default_rng(0))
    assert loss(values[:20_000].astype(np.float64), palette) / 20_000 == pytest.approx(
        0.0095, rel=0.06
    )
    again = palette_of(values, 16, np.random.default_rng(0))
    assert again.tobytes() == palette.tobytes()


def test_a_colour_steps_by_the_mean_of_its_weights_gradients() -> None:
    form = Palette(torch.tensor([1.0, 3.0, 3.2, 0.0]), [0.0, 1.0, 3.0], None)
    colours = nn.Parameter(form.right_inverse(torch.zeros(4)))
    made = form(colours)
    assert made.tolist() == [1, 3, 3, 0]
    made.backward(torch.tensor([5.0, 2.0, 4.0, 7.0]))
    assert colours.grad is not None
    assert colours.grad.tolist() == [0, 5, 3]


def test_colours_are_times_the_scale_of_their_channel() -> None:
    """Channels of largest 3 and 1, so scales of 1.5 and 0.5."""
    form = Palette(torch.tensor([[3.0, -1.5], [1.0, 0.6], [0.0, 0.0]]), [-1.0, 0.0, 1.0, 2.0], 0)
    assert form.scales.flatten().tolist() == pytest.approx([2.25, 0.75, 1])
    form = Palette(torch.tensor([[3.0, -1.5], [1.0, 0.6]]), [-1.0, 1.0, 2.0], 0)
    assert form.scales.tolist() == [[1.5], [0.5]]
    colours = nn.Parameter(form.right_inverse(torch.zeros(2, 2)))
    made = form(colours)
    assert made.tolist() == [[3, -1.5], [1, 0.5]]
    made.backward(torch.tensor([[1.0, 3.0], [2.0, 5.0]]))
    assert colours.grad is not None
    # of 2: (1 x 1.5 + 2 x 0.5) / (1.5^2 + 0.5^2); of -1: 3 x 1.5 / 1.5^2; of 1: 5 x 0.5 / 0.5^2
    assert colours.grad.tolist() == pytest.approx([2, 10, 1])


CASES = [
    (convolutional, images(64), images(20, seed=1)),
    (recurrent, series(64), series(20, seed=1)),
]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize(("make", "seen", "unseen"), CASES, ids=["conv", "gru"])
def test_the_palette_stays_through_training_kills_and_replay(
    tmp_path: Path, kind: str, make: Any, seen: Any, unseen: Any
) -> None:
    data = {"train": seen, "validation": unseen}
    step = Cluster(colours=5, scale="tensor" if kind == "sgd" else "channel")
    network = make()
    keys = list(network.state_dict())
    count = parameter_count(network)
    change = changed(step, network, ground(seen))
    assert parameter_count(network) == count
    train(network, tmp_path / "whole", kind, **data)

    other = make()
    step.apply(other, change)
    with pytest.raises(Stopped):
        train(other, tmp_path / "killed", kind, stop=5, **data)
    fresh = make()
    for one in fresh.parameters():
        one.data.normal_()
    step.apply(fresh, change)
    train(fresh, tmp_path / "killed", kind, **data)
    assert same(weights(network), weights(fresh))

    fresh = make()
    for one in fresh.parameters():
        one.data.normal_()
    step.apply(fresh, change)
    load_weights(fresh, tmp_path / "whole" / "best.safetensors")
    held = answers(network, unseen)
    for one in (network, fresh):
        step.settle(one)
        assert list(one.state_dict()) == keys
        assert torch.equal(answers(one, unseen), held)
        for name, palette in change["palettes"].items():
            learned = one.state_dict()[name]
            parts = [learned] if palette["axis"] is None else learned
            assert all(len(part.unique()) <= 5 for part in parts)
            assert not torch.isin(learned, torch.tensor(palette["colours"])).any()
    assert same(weights(network), weights(fresh))


def test_zeros_before_it_stay_zeros(tmp_path: Path) -> None:
    network, first = convolutional(), Sparsity(share=0.75, rounds=1)
    changed(first, network, ground())
    first.settle(network)
    gone = network[0].weight == 0  # type: ignore[index, union-attr]
    step = Cluster(colours=4)
    change = changed(step, network, ground())
    assert all(0.0 in one["colours"] for one in change["palettes"].values())
    train(network, tmp_path, "adamw")
    step.settle(network)
    after = network[0].weight  # type: ignore[index, union-attr]
    assert torch.equal(after == 0, gone)
    assert all(len(channel.unique()) <= 4 for channel in after)


def test_another_palette_is_another_run(tmp_path: Path) -> None:
    network = convolutional()
    changed(Cluster(colours=4), network, ground())
    with pytest.raises(Stopped):
        train(network, tmp_path, "sgd", stop=5)
    network = convolutional(seed=2)
    changed(Cluster(colours=4), network, ground())
    with pytest.raises(BadCheckpoint, match="`layers` is"):
        train(network, tmp_path, "sgd")


@pytest.mark.parametrize("colours", [1, 257])
def test_colours_fit_a_byte(colours: int) -> None:
    with pytest.raises(BadValue, match="`colours` is"):
        from_plain(Cluster, {"colours": colours})


def test_layers_are_kept_and_unknown_ones_told(tmp_path: Path) -> None:
    change = Cluster(keep=("0",)).decide(convolutional(), ground(), 0)
    assert list(change["palettes"]) == ["6.weight"]
    with pytest.raises(BadValue, match="no layer is called `7`"):
        Cluster(keep=("7",)).decide(convolutional(), ground(), 0)
    with pytest.raises(BadValue, match=r"`6.weight`, \[4, 32\], is \[4, 128\] here"):
        other = nn.Sequential(*[nn.Identity()] * 5, nn.Flatten(), nn.Linear(128, 4))
        Cluster().apply(other, plain(change))

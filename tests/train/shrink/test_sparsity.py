"""Zeros in a pattern, which stay through training, averages, decay, kills and replay."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from torch import nn

from edgedl.core.errors import BadCheckpoint, BadValue
from edgedl.core.fields import from_plain
from edgedl.core.samples import Samples
from edgedl.train.checkpoint import load_weights
from edgedl.train.networks.recurrent import Recurrent
from edgedl.train.shrink.sparsity import Sparsity, packed, unpacked
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


def lstm(kind: type[nn.LSTM | nn.GRU] = nn.LSTM) -> nn.Module:
    torch.manual_seed(2)
    return Recurrent(kind, 16, 4, 8, 2, True, "last", 0.1)


def dense(rows: list[list[float]]) -> nn.Module:
    network = nn.Sequential(nn.Linear(len(rows[0]), len(rows), bias=False))
    network[0].weight.data = torch.tensor(rows)
    return network


def settled(step: Sparsity, network: nn.Module, folder: Path) -> np.ndarray:
    changed(step, network, ground())
    step.settle(network)
    weight: np.ndarray = network[0].weight.detach().numpy()  # type: ignore[index, union-attr]
    return weight


def zeros(network: nn.Module) -> float:
    """The share of zeros in tensors of two axes or more."""
    wide = [one for one in network.state_dict().values() if one.ndim > 1]
    return float(sum((one == 0).sum() for one in wide) / sum(one.numel() for one in wide))


def test_the_least_go_and_equals_by_their_place(tmp_path: Path) -> None:
    network = dense([[3.0, -1.0, 2.0, 1.0], [5.0, 5.0, 0.5, -4.0]])
    made = settled(Sparsity(share=0.5, rounds=1), network, tmp_path)
    assert made.tolist() == [[3, 0, 0, 0], [5, 5, 0, -4]]


def test_two_of_four_are_the_largest_of_each_four(tmp_path: Path) -> None:
    network = dense([[3.0, -1.0, 2.0, 1.0, 0.1, 0.2, -0.4, 0.3], [1.0] * 8])
    made = settled(Sparsity(pattern="2:4", rounds=1), network, tmp_path)
    assert made[0].tolist() == pytest.approx([3, 0, 2, 0, 0, 0, -0.4, 0.3])
    assert made[1].tolist() == [0, 0, 1, 1, 0, 0, 1, 1]


def test_two_of_four_along_the_inputs_of_a_convolution(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(8, 3, 3), nn.ConvTranspose2d(8, 3, 3), nn.Conv2d(3, 8, 1))
    changed(Sparsity(pattern="2:4", rounds=1), network, ground())
    fours = network[0].weight.reshape(3, 2, 4, 9)
    assert ((fours != 0).sum(dim=2) == 2).all()
    fours = network[1].weight.reshape(2, 4, 27)
    assert ((fours != 0).sum(dim=1) == 2).all()
    assert (network[2].weight != 0).all()


def test_blocks_go_by_their_mean_smaller_at_the_edges(tmp_path: Path) -> None:
    rows = [[1.0, 1.0, 9.0], [1.0, 1.0, 0.5], [4.0, 0.0, 2.0]]
    step = Sparsity(pattern="block", block=(2, 2), share=0.5, rounds=1)
    made = settled(step, dense(rows), tmp_path)
    # means of 1, 4.75, 2 and 2: the first two of least
    assert made.tolist() == [[0, 0, 9], [0, 0, 0.5], [0, 0, 2]]


def test_lamp_and_the_network_as_a_whole(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2, bias=False))
    network[0].weight.data = torch.tensor([[1.0, 2.0]])
    network[1].weight.data = torch.tensor([[30.0], [30.0]])
    plain_l1 = Sparsity(share=0.5, rounds=1, scope="network")
    with pytest.raises(BadValue, match=r"nothing of `0.weight`") as caught:
        plain_l1.decide(network, ground(), 0)
    assert "scope: layer" in (caught.value.hint or "")
    # 1/5 and 1 in the first, 1/2 and 1 in the second
    changed(Sparsity(share=0.5, rounds=1, scope="network", score="lamp"), network, ground())
    assert network[0].weight.tolist() == [[0, 2]]
    assert network[1].weight.tolist() == [[0], [30]]


def test_taylor_counts_what_the_loss_hangs_on(tmp_path: Path) -> None:
    """Inputs that are always zero have the largest weights, and go."""
    samples = images(64)
    samples.source.arrays["x"][:, 1] = 0  # type: ignore[attr-defined]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(128, 4)).train()
    network[1].weight.data[:, 64:] = 5.0
    change = Sparsity(score="taylor", rounds=1).decide(network, ground(samples), 0)
    mask = unpacked(change["masks"]["1.weight"]["bits"], [4, 128], "")
    assert mask[:, :64].all()
    assert not mask[:, 64:].any()
    assert network.training
    assert all(one.grad is None for one in network.parameters())


def test_rounds_follow_the_cubic_and_keep_what_was_zero(tmp_path: Path) -> None:
    step = Sparsity(share=0.8, rounds=2)
    assert [step.share_of(i) for i in range(2)] == pytest.approx([0.7, 0.8])
    network = convolutional()
    before = None
    for round_, share in enumerate((0.7, 0.8)):
        step.apply(network, step.decide(network, ground(), round_))
        step.settle(network)
        gone = network[0].weight == 0  # type: ignore[index, union-attr]
        assert gone.float().mean() == pytest.approx(share, abs=0.01)
        assert before is None or gone[before].all()
        before = gone


def test_two_of_four_in_rounds_ends_whole(tmp_path: Path) -> None:
    step, network = Sparsity(pattern="2:4", rounds=3), lstm()
    shares = []
    for round_ in range(3):
        step.apply(network, plain(step.decide(network, ground(), round_)))
        step.settle(network)
        wide = network.layers[1].weight_hh_l0_reverse  # type: ignore[index, union-attr]
        shares.append(float((wide == 0).float().mean()))
    assert shares == pytest.approx([19 / 54, 26 / 54, 0.5], abs=0.01)
    assert ((wide.reshape(-1, 4) != 0).sum(dim=1) == 2).all()


CASES: list[tuple[Any, Samples, Samples]] = [
    (convolutional, images(64), images(20, seed=1)),
    (lstm, series(64), series(20, seed=1)),
    (lambda: lstm(nn.GRU), series(64), series(20, seed=1)),
]


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize(("make", "seen", "unseen"), CASES, ids=["conv", "lstm", "gru"])
def test_zeros_stay_through_training_kills_and_replay(
    tmp_path: Path, kind: str, make: Any, seen: Samples, unseen: Samples
) -> None:
    data = {"train": seen, "validation": unseen}
    step = Sparsity(share=0.75, rounds=1, score="taylor" if kind == "sgd" else "l1")
    network = make()
    keys, first = list(network.state_dict()), weights(network)
    change = changed(step, network, ground(seen))
    train(network, tmp_path / "whole", kind, **data)

    other = make()
    step.apply(other, change)
    with pytest.raises(Stopped):
        train(other, tmp_path / "killed", kind, stop=5, **data)
    other = make()
    step.apply(other, change)
    train(other, tmp_path / "killed", kind, **data)
    assert same(weights(network), weights(other))

    torch.manual_seed(9)
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
        assert zeros(one) == pytest.approx(0.75, abs=0.01)
        assert all(tensor.requires_grad for tensor in one.parameters())
    assert same(weights(network), weights(fresh))
    trained = weights(network)
    assert all((trained[n] != first[n]).any() for n in keys if trained[n].is_floating_point())
    assert type(copy.deepcopy(network)) is type(make())


def test_a_copy_settles_by_itself(tmp_path: Path) -> None:
    step, network = Sparsity(share=0.5, rounds=1), lstm()
    changed(step, network, ground())
    network.train()(torch.zeros(2, 16, 8))
    other = copy.deepcopy(network)
    step.settle(network)
    step.settle(other)
    assert same(weights(network), weights(other))


def test_another_mask_is_another_run(tmp_path: Path) -> None:
    network = convolutional()
    changed(Sparsity(share=0.5, rounds=1), network, ground())
    with pytest.raises(Stopped):
        train(network, tmp_path, "sgd", stop=5)
    network = convolutional()
    changed(Sparsity(share=0.6, rounds=1), network, ground())
    with pytest.raises(BadCheckpoint, match="`layers` is"):
        train(network, tmp_path, "sgd")


def test_layers_are_kept_and_shared_weights_left_alone(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    network[3].weight = network[2].weight
    change = Sparsity(keep=("0",)).decide(network, ground(), 0)
    assert list(change["masks"]) == ["1.weight"]


@pytest.mark.parametrize(
    ("given", "says", "hint"),
    [
        ({"share": 1.0}, "all weights would be zero", "less than 1"),
        ({"share": 0.0}, "`share` is 0.0", "more than 0"),
        ({"pattern": "2:4", "share": 0.7}, "`2:4` sets half", "unstructured"),
        ({"block": [0, 4]}, "a block of 0 x 4", "1 or more"),
        ({"rounds": 0}, "`rounds` is 0", "1 or more"),
        ({"lr": 0.0}, "`lr` is 0.0", "more than 0"),
    ],
)
def test_settings_that_cannot_be_are_told(given: dict[str, Any], says: str, hint: str) -> None:
    with pytest.raises(BadValue, match=says) as caught:
        from_plain(Sparsity, given)
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("given", "says", "hint"),
    [
        ({"share": 0.999, "rounds": 1}, "would leave nothing of `0.weight`", "keep: [0]"),
        ({"keep": ["0", "head*"]}, r"no layer is called `head\*`", "known: 0, 6"),
        ({"keep": ["*"]}, "no layer with weights is left", "keep fewer"),
        ({"pattern": "2:4", "keep": ["6"]}, "multiple of 4 inputs", "unstructured"),
    ],
)
def test_what_a_network_cannot_have_is_told(
    tmp_path: Path, given: dict[str, Any], says: str, hint: str
) -> None:
    step = from_plain(Sparsity, given)
    with pytest.raises(BadValue, match=says) as caught:
        step.decide(convolutional(), ground(), 0)
    assert hint in (caught.value.hint or "")


def test_a_change_of_another_network_is_told(tmp_path: Path) -> None:
    step = Sparsity(rounds=1)
    change = step.decide(convolutional(), ground(), 0)
    with pytest.raises(BadValue, match=r"`0.weight`, \[8, 2, 3, 3\], is not here"):
        step.apply(nn.Sequential(nn.Flatten(), nn.Linear(128, 4)), change)
    change["masks"]["0.weight"]["bits"] = packed(np.ones(3, bool))
    with pytest.raises(BadValue, match=r"the mask of `0.weight` is damaged"):
        step.apply(convolutional(), change)


@given(arrays.arrays(bool, arrays.array_shapes(max_dims=4, max_side=9), elements=some.booleans()))
def test_a_mask_is_packed_and_unpacked(mask: np.ndarray) -> None:
    assert np.array_equal(unpacked(packed(mask), list(mask.shape), ""), mask)

"""Checkpoints: what is written is read, and another network's is refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgedl.core.errors import BadCheckpoint
from edgedl.train.checkpoint import (
    differing,
    load_weights,
    optimizer_tensors,
    random_states,
    read,
    restore_optimizer,
    restore_random_states,
    write,
)
from edgedl.train.ema import Average
from edgedl.train.optimizers import optimizer_of
from edgedl.train.settings import AdamW
from tests.train.small import convolutional, same, weights

CPU = torch.device("cpu")


def test_tensors_and_their_document_come_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {
        "a": shared, "b": shared, "turned": shared.T, "empty": torch.zeros(0),
        "count": torch.tensor(3), "half": torch.ones(2, dtype=torch.bfloat16),
    }  # fmt: skip
    write(tmp_path / "x.safetensors", tensors, {"step": 3, "loss": 0.1})
    found, document = read(tmp_path / "x.safetensors")
    assert document == {"step": 3, "loss": 0.1}
    assert all(torch.equal(found[name], one) for name, one in tensors.items())
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write(path, convolutional().state_dict(), {})
    before = nn.Sequential(nn.Conv2d(2, 9, 3))
    kept = weights(before)
    with pytest.raises(BadCheckpoint, match=r"`0.bias` is float32 \[8\] there, float32 \[9\] here"):
        load_weights(before, path)
    assert same(kept, weights(before))
    write(path, {f"network.{n}": t for n, t in convolutional().state_dict().items()}, {})
    with pytest.raises(BadCheckpoint) as caught:
        load_weights(convolutional(), path)
    assert "best.safetensors" in (caught.value.hint or "")
    with pytest.raises(BadCheckpoint, match="no such file"):
        load_weights(convolutional(), tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BadCheckpoint, match="not a sound safetensors file"):
        load_weights(convolutional(), tmp_path / "text")


def test_the_first_difference_is_named() -> None:
    there = {"a": {"b": [1, {"c": 2}], "same": None}, "gone": 1}
    assert differing(there, there) is None
    assert (
        differing(there, {"a": {"b": [1, {"c": 3}], "same": None}})
        == "`a.b.2.c` is 2 there, 3 here"
    )
    assert differing(there, {**there, "new": 5}) == "`new` is missing there, 5 here"
    assert differing({}, {"new": None}) == "`new` is missing there, null here"


def test_generators_go_on_where_they_were() -> None:
    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.normal(), float(torch.rand(()))]

    before = random_states(CPU)
    random.gauss(0, 1)
    np.random.normal()
    halfway = random_states(CPU)  # each holds the second of a pair of normal numbers
    first = draw()
    assert restore_random_states(halfway, CPU)
    assert draw() == first
    assert not restore_random_states(halfway[:-1], CPU)
    restore_random_states(before, CPU)


def test_an_optimizer_remembers_in_the_order_of_its_weights(tmp_path: Path) -> None:
    def stepped() -> tuple[nn.Module, torch.optim.Optimizer]:
        network = convolutional().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network, optimizer_of(AdamW(), network)

    network, optimizer = stepped()
    for weight in network.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    tensors, rest = optimizer_tensors(optimizer)
    write(tmp_path / "o.safetensors", tensors, {"rest": rest})
    tensors, document = read(tmp_path / "o.safetensors")
    other, theirs = stepped()
    restore_optimizer(theirs, tensors, document["rest"])
    for ours, weight in zip(network.parameters(), other.parameters(), strict=True):
        for name, value in optimizer.state[ours].items():
            assert torch.equal(value, theirs.state[weight][name])
            assert value.stride() == theirs.state[weight][name].stride()


def test_an_average_by_hand_and_shared_weights_once() -> None:
    """Decay 0.5 takes part from the eighth step on; before, 2/11, 3/12 and so on stay."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(1, 1, bias=False)
            self.two = nn.Linear(1, 1, bias=False)
            self.two.weight = self.one.weight
            self.register_buffer("count", torch.tensor(0))

    network = Tied()
    nn.init.zeros_(network.one.weight)
    average = Average(network, 0.5)
    nn.init.ones_(network.one.weight)
    network.count += 7  # type: ignore[operator]
    average.update()
    settled = average.settled()
    assert float(settled.one.weight) == pytest.approx(9 / 11)  # type: ignore[arg-type, union-attr]
    assert int(settled.count) == 7  # type: ignore[arg-type]
    for _ in range(9):
        average.update()
    left = 1 - float(settled.one.weight)  # type: ignore[arg-type, union-attr]
    by_hand = 1.0
    for n in range(1, 11):
        by_hand *= min(0.5, (1 + n) / (10 + n))
    assert left == pytest.approx(by_hand, rel=1e-3)

"""The step: what it decides, that it replays, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, Unsupported
from edgedl.core.fields import from_plain
from edgedl.core.layers import LayerShape
from edgedl.core.model import Signature
from edgedl.core.model import Tensor as Input
from edgedl.core.registry import resolve
from edgedl.core.samples import Samples, from_arrays
from edgedl.train.distil.settings import Distillation
from edgedl.train.settings import Fit
from edgedl.train.shrink import STEPS
from edgedl.train.shrink.ground import ground_of
from edgedl.train.shrink.groups import groups_of
from edgedl.train.shrink.prune import Prune
from edgedl.train.shrink.step import Ground, Step
from edgedl.train.shrink.widths import macs

SIGNATURE = Signature((Input("x", "float32", ("batch", 2, 8, 8)),), ())


def stairs(shapes: Sequence[LayerShape]) -> list[float]:
    return [1 + ceil(s.inputs / 8) * ceil(s.outputs / 8) * float(np.prod(s.size)) for s in shapes]


def network(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 24, 3, padding=1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def samples(count: int = 24) -> Samples:
    dice = np.random.default_rng(0)
    x = dice.normal(size=(count, 2, 8, 8)).astype(np.float32)
    return from_arrays({"x": x, "labels": dice.integers(0, 4, count)}).bind(SIGNATURE)


def loss(outputs: Any, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, labels)


def ground(price: Any = stairs) -> Ground:
    return Ground(samples(), loss, price)


def step(**given: Any) -> Prune:
    return from_plain(Prune, {"name": "prune", **given})


def test_it_is_a_step_of_recipes() -> None:
    found: Callable[..., Step] = resolve(STEPS, "prune", kind="step", group="edgedl.steps")
    made = found(latency=0.5, epochs=3, lr=0.01, rounds=2)
    assert (made.name, made.promise, made.rounds) == ("prune", "speed", 2)
    assert (made.epochs, made.lr) == (3, 0.01)


@pytest.mark.parametrize("score", ["l1", "l2", "bn", "taylor", "activation"])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_half_the_time_is_cut_and_the_cut_replays(tmp_path: Path, score: str, scope: str) -> None:
    cut, fresh = network(), network(2)
    before = {name: one.clone() for name, one in cut.state_dict().items()}
    prune = step(latency=0.5, score=score, scope=scope)
    change = json.loads(json.dumps(prune.decide(cut, ground(), 0)))
    assert all(torch.equal(one, before[name]) for name, one in cut.state_dict().items())

    x = torch.rand(2, 2, 8, 8)
    first = sum(stairs([layer.shape for layer in groups_of(cut, (x,)).layers]))
    prune.apply(cut, change)
    prune.apply(fresh, change)
    prune.settle(cut)
    after = sum(stairs([layer.shape for layer in groups_of(cut, (x,)).layers]))
    assert change["price"] == {"before": first, "after": after, "unit": "us"}
    assert after <= 0.5 * first
    for name, (wide, narrow) in change["widths"].items():
        assert len(change["cut"].get(name, [])) == wide - narrow
        assert change["cut"].get(name, []) == sorted(change["cut"].get(name, []))
    fresh.load_state_dict(cut.state_dict())
    assert torch.equal(fresh.eval()(x), cut.eval()(x))
    assert change["fixed"] == {"7": "the network's answers are made of it"}


def test_multiplications_need_no_target(tmp_path: Path) -> None:
    change = step(macs=0.4).decide(network(), ground(None), 0)
    price = change["price"]
    assert price["unit"] == "macs"
    # 64 places * 9 * 2 * 24, 64 * 9 * 24 * 32, and 128 * 4.
    assert price["before"] == 27648 + 442368 + 512
    assert 0.25 * price["before"] < price["after"] <= 0.4 * price["before"]


def test_latency_needs_one(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="needs layers timed on the target") as found:
        step(latency=0.5).decide(network(), ground(None), 0)
    assert "macs" in str(found.value.hint)


def test_a_share_of_each_layer(tmp_path: Path) -> None:
    change = step(ratio=0.5, round_to=1).decide(network(), ground(None), 0)
    assert change["widths"] == {"0": [24, 12], "3": [32, 16]}


def test_the_least_is_cut(tmp_path: Path) -> None:
    weak = network()
    with torch.no_grad():
        weak[3].weight[[1, 30]] *= 1e-3  # type: ignore[index]
        weak[3].bias[[1, 30]] = 0.0  # type: ignore[index]
    change = step(ratio=30 / 32, round_to=1, score="l2", keep=["0"]).decide(weak, ground(), 0)
    assert change["cut"] == {"3": [1, 30]}


def test_rounds_come_to_what_was_asked_for(tmp_path: Path) -> None:
    cut, prune = network(), step(macs=0.25, rounds=2, least=1)
    prices = []
    for round_ in range(2):
        change = prune.decide(cut, ground(), round_)
        prices.append(change["price"])
        prune.apply(cut, change)
    assert prices[0]["after"] <= 0.5 * prices[0]["before"]
    assert prices[1]["before"] == prices[0]["after"]
    assert prices[1]["after"] <= 0.25 * prices[0]["before"]
    assert prices[1]["after"] >= 0.15 * prices[0]["before"]


def test_layers_are_kept_by_name(tmp_path: Path) -> None:
    change = step(macs=0.6, keep=["3*"], round_to=4).decide(network(), ground(), 0)
    assert list(change["widths"]) == ["0"]
    with pytest.raises(BadValue, match="names `stem`, and the network has no such layer"):
        step(macs=0.6, keep=["stem"]).decide(network(), ground(), 0)
    with pytest.raises(Unsupported, match="nothing of the network can be cut"):
        step(macs=0.6, keep=["*"]).decide(network(), ground(), 0)


def test_widths_are_rounded(tmp_path: Path) -> None:
    change = step(macs=0.5, round_to=8, least=8).decide(network(), ground(), 0)
    assert all(after % 8 == 0 and after >= 8 for _, after in change["widths"].values())
    with pytest.raises(BadValue, match="the cheapest widths"):
        step(macs=0.1, least=20).decide(network(), ground(), 0)


def test_the_same_is_decided_again(tmp_path: Path) -> None:
    first, second = (step(latency=0.5).decide(network(), ground(), 0) for _ in range(2))
    assert first == second


def test_without_labels_the_input_is_what_is_learned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 128))
    given = Samples(samples().source, None, samples().rows)
    asked = Ground(given, lambda y, x: ((y - x.flatten(1)) ** 2).mean(), None)
    change = step(macs=0.5).decide(flat, asked, 0)
    assert change["widths"] == {"1": [16, 8]}


@pytest.mark.parametrize("score", ["taylor", "l1"])
def test_where_a_teacher_alone_teaches_what_moves_answers_stays(score: str) -> None:
    # Channels 8 and on make nothing of the answers, whatever their own weights are.
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Flatten(), nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        ours[3].weight[:, 8:] = 0
    given = Samples(samples().source, None, samples().rows)
    asked = ground_of(ours, given, Fit(), distil=Distillation(teacher="m.onnx"))
    assert asked.target == "answers"
    change = step(macs=0.5, score=score).decide(ours, asked, 0)
    assert (change["cut"]["1"] == [*range(8, 16)]) == (score == "taylor")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "here stands none of them"),
        ({"latency": 0.5, "macs": 0.5}, "here stands `latency` and `macs`"),
        ({"latency": 0.0}, "`latency` is 0"),
        ({"ratio": 1.5}, "`ratio` is 1.5"),
        ({"macs": 0.5, "rounds": 0}, "`rounds` is 0"),
        ({"macs": 0.5, "round_to": 0}, "`round_to` is 0"),
        ({"macs": 0.5, "least": 0}, "`least` is 0"),
        ({"macs": 0.5, "epochs": -1}, "`epochs` is -1"),
        ({"macs": 0.5, "score": "best"}, "best"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        step(**given)


def test_prices_are_of_the_shapes_that_come_out(tmp_path: Path) -> None:
    cut = network()
    prune = step(macs=0.5)
    change = prune.decide(cut, ground(), 0)
    prune.apply(cut, change)
    structure = groups_of(cut, (torch.rand(2, 2, 8, 8),))
    assert sum(macs([layer.shape for layer in structure.layers])) == change["price"]["after"]

"""Every network is cut, answers on as it should, and learns on."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, Unsupported
from edgedl.export import export
from edgedl.train.networks.deploy import deployed
from edgedl.train.networks.trial import example
from edgedl.train.shrink.cutting import apply_cut, cut, plan_of, proved
from edgedl.train.shrink.groups import groups_of
from tests.train.networks.cases import CASES, Case
from tests.train.networks.made import made
from tests.train.shrink.cut_cases import (
    IMAGE,
    SERIES,
    WIDE,
    answers,
    counted_macs,
    flat,
    macs_of,
    normalised_together,
    share_of,
    silenced,
    stirred,
    structure_of,
)

EVERY = (*WIDE, *(case for case in CASES if case.name not in {wide.name for wide in WIDE}))


@pytest.mark.parametrize("case", EVERY, ids=str)
def test_a_third_of_every_group_is_cut(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    network = stirred(made(case, monkeypatch))
    names = list(network.state_dict())
    before = [tuple(one.shape) for one in answers(network, case.inputs)]
    structure = structure_of(network, case.inputs)
    assert structure.groups
    assert macs_of([layer.shape for layer in structure.layers]) == counted_macs(
        network, case.inputs
    )
    gone = share_of(structure, 0.3)
    foreseen = [
        layer.cut({name: len(indices) for name, indices in gone.items()})
        for layer in structure.layers
    ]
    fresh = copy.deepcopy(network)
    assert proved(network, structure).groups == structure.groups
    plan = cut(network, structure, gone)

    assert list(network.state_dict()) == names
    assert [tuple(one.shape) for one in answers(network, case.inputs)] == before
    assert [layer.shape for layer in structure_of(network, case.inputs).layers] == foreseen
    assert counted_macs(network, case.inputs) == macs_of(foreseen)
    assert macs_of(foreseen) < macs_of([layer.shape for layer in structure.layers])

    # The same on another one, from JSON, and the weights of the first fit it.
    apply_cut(fresh, json.loads(json.dumps(plan)))
    for name, tensor in network.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name

    network.train()
    total = sum((one.float() ** 2).sum() for one in flat(network(*example(case.inputs, 4))))
    assert isinstance(total, Tensor)
    total.backward()
    trained = {name for name, one in network.named_parameters() if one.grad is not None}
    fed = {part.tensor for parts in structure.parts.values() for part in parts}
    assert fed & {name for name, _ in network.named_parameters()} <= trained


@pytest.mark.parametrize("case", WIDE, ids=str)
def test_channels_that_are_zero_are_not_missed(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    network = stirred(made(case, monkeypatch))
    structure = structure_of(network, case.inputs)
    gone = {
        name: indices
        for name, indices in share_of(structure, 0.4, seed=1).items()
        if not normalised_together(network, structure, name)
    }
    assert gone
    silenced(network, structure, gone)
    before = answers(network, case.inputs)
    cut(network, structure, gone)
    for one, other in zip(answers(network, case.inputs), before, strict=True):
        largest = max(1.0, float(other.abs().max()))
        assert float((one - other).abs().max()) <= 1e-5 * largest


def test_other_channels_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = stirred(made(Case("resnet8", IMAGE, settings={"width": 6}), monkeypatch))
    structure = structure_of(network, IMAGE)
    silenced(network, structure, {"stages.0.first.0": [1, 3]})
    [before] = answers(network, IMAGE)
    cut(network, structure, {"stages.0.first.0": [1, 4]})
    assert float((answers(network, IMAGE)[0] - before).abs().max()) > 1e-3


def test_a_cut_network_exports_to_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case("resnet8", IMAGE, settings={"width": 6})
    network = stirred(made(case, monkeypatch))
    structure = structure_of(network, IMAGE)
    cut(network, structure, share_of(structure, 0.3))
    [image] = example(IMAGE, 1)
    found = export(network, [{"image": image.numpy()}], tmp_path / "cut.onnx")
    assert found.difference <= 1e-4
    assert not found.doubts


def test_a_cut_streaming_network_deploys(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("streaming_gru", SERIES, settings={"hidden": 6, "layers": 2, "chunk": 3})
    network = stirred(made(case, monkeypatch))
    structure = structure_of(network, SERIES)
    cut(network, structure, {"layers.0": [0, 5]})
    step, inputs = deployed(network, SERIES)
    assert inputs["state"].shape == (2, 4)
    [x] = example(SERIES, 2)
    state = torch.zeros(2, 2, 4)
    with torch.no_grad():
        for start in range(0, 12, 3):
            given: Mapping[str, Tensor] = step.eval()(x[:, :, start : start + 3], state)
            state = given["new_state"]
        assert torch.allclose(given["output"], network(x), atol=1e-6)


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


X = (torch.ones(2, 3),)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ({"9": [0]}, "no group `9`"),
        ({"2": [0]}, "`2` cannot be cut: the network's answers"),
        ({"0": [4]}, "group `0` has no channel 4"),
        ({"0": [-1]}, "group `0` has no channel -1"),
        ({"0": [0, 1, 2, 3]}, "all 4 channels of `0` would leave an empty layer"),
    ],
)
def test_cuts_that_cannot_be(gone: dict[str, list[int]], message: str) -> None:
    network = dense()
    structure = groups_of(network, X)
    with pytest.raises(BadValue, match=message):
        cut(network, structure, gone)
    assert groups_of(network, X).groups == structure.groups


def test_heads_go_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("vit", IMAGE, settings={"width": 16, "depth": 1, "heads": 4})
    network = made(case, monkeypatch)
    structure = structure_of(network, IMAGE)
    group = structure.group("blocks.0.attention.query")
    assert (group.size, group.unit) == (16, 4)
    with pytest.raises(BadValue, match="go 4 at once"):
        cut(network, structure, {group.name: [4, 5, 6]})
    cut(network, structure, {group.name: [4, 5, 6, 7, 12, 13, 14, 15]})
    attention: Any = network.get_submodule("blocks.0.attention")
    assert attention.heads == 2
    assert attention.each == 4
    assert tuple(attention.out.weight.shape) == (16, 8)


class Constant(nn.Module):
    """Shapes by a number that nobody can change."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).reshape(-1, 2, 4).flatten(1))  # type: ignore[no-any-return]


def test_a_number_that_does_not_follow_is_named() -> None:
    network = nn.Sequential(Constant())
    structure = groups_of(network, X)
    weights = [one.clone() for one in network.state_dict().values()]
    with pytest.raises(Unsupported, match="once cut, `view` in `0` gives 1 x 2 x 4, and") as found:
        cut(network, structure, {"0.one": [0, 1, 2, 3]})
    assert "keep" in str(found.value.hint)
    sure = proved(network, structure)
    assert sure.groups == ()
    assert sure.fixed["0.one"].startswith("once cut, `view` in `0`")
    for one, other in zip(weights, network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_how_values_lie_in_memory_is_no_matter() -> None:
    """Of a 1x1 convolution of one channel both ways are one, and torch goes on in the other."""
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 6, 1), nn.Flatten(), nn.Linear(96, 2))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    structure = groups_of(network, (torch.rand(2, 3, 6, 6),))
    cut(network, structure, {"0": [0], "1": [0, 2]})
    assert network(torch.rand(1, 3, 6, 6)).shape == (1, 2)


def test_a_plan_for_another_network_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 9), nn.ReLU(), nn.Linear(9, 2))
    plan = plan_of(groups_of(network, X), {"0": [8]})
    with pytest.raises(BadValue, match=r"`0.weight` has no channel 8"):
        apply_cut(dense(), plan)


def test_parameters_stay_the_same_objects() -> None:
    network = dense()
    weight = network[0].weight  # type: ignore[index]
    weight.grad = torch.zeros_like(weight)
    cut(network, groups_of(network, X), {"0": [1]})
    assert network[0].weight is weight  # type: ignore[index]
    assert weight.grad is None
    assert isinstance(network[0], nn.Linear)  # type: ignore[index]
    assert (network[0].out_features, network[2].in_features) == (3, 3)  # type: ignore[index]
    assert np.prod(weight.shape) == 9

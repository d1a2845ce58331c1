"""Which channels go together, by hand; what cannot be cut, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgedl.core.errors import Unsupported
from edgedl.core.layers import Group, LayerShape
from edgedl.train.shrink.cutting import cut, proved
from edgedl.train.shrink.groups import Structure, groups_of
from tests.train.networks.cases import Case
from tests.train.networks.made import made
from tests.train.shrink.cut_cases import IMAGE, flat, share_of, silenced, stirred, structure_of


def of(network: nn.Module, *shape: int) -> Structure:
    return groups_of(network, (torch.rand(2, *shape),))


def exact(network: nn.Module, *shape: int, share: float = 0.5) -> Structure:
    """Zeroes a share of every group's channels and cuts them: answers stay."""
    stirred(network)
    structure = of(network, *shape)
    gone = share_of(structure, share)
    silenced(network, structure, gone)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = flat(network(x))
        cut(network, structure, gone)
        for one, other in zip(flat(network(x)), before, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
    return structure


def parts(structure: Structure, group: str) -> dict[tuple[str, int], list[Any]]:
    return {(p.tensor, p.axis): p.indices.tolist() for p in structure.parts[group]}


def test_flattened_places_are_read_so_often() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3 * 4, 2))
    structure = exact(network, 1, 3, 3)
    assert structure.groups == (Group("0", 3),)
    conv, head = structure.layers
    assert conv.shape == LayerShape("conv", 1, 3, (3, 3), (2, 2), (1, 1), (0, 0, 0, 0), (1, 1))
    assert (conv.reads, conv.makes) == ({}, {"0": 1})
    assert head.shape == LayerShape("linear", 12, 2, (1,))
    assert (head.reads, head.makes) == ({"0": 4}, {})
    assert parts(structure, "0")["2.weight", 1][1] == [4, 5, 6, 7]
    assert head.cut({"0": 2}).inputs == 4


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(2, 3, 1), nn.Conv1d(2, 2, 1)
        self.last = nn.Conv1d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left = self.left(x)
        return self.last(torch.cat([left, self.right(x)], 1))  # type: ignore[no-any-return]


def test_parts_of_a_concatenation_are_groups_of_their_own() -> None:
    structure = exact(Joined(), 2, 4)
    assert [(g.name, g.size) for g in structure.groups] == [("left", 3), ("right", 2)]
    assert parts(structure, "right")["last.weight", 1] == [[3], [4]]
    assert dict(structure.layers[2].reads) == {"left": 1, "right": 1}


def test_a_sum_and_a_depthwise_convolution_are_one_group(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("mobilenetv2", IMAGE, settings={"alpha": 0.25})
    structure = structure_of(made(case, monkeypatch), IMAGE)
    wide = parts(structure, "features.3.conv.0.0")
    assert ("features.3.conv.1.0.weight", 0) in wide
    assert ("features.3.conv.2.weight", 1) in wide
    narrow = parts(structure, "features.4.conv.2")  # summed with those of blocks 5 and 6
    assert {("features.5.conv.2.weight", 0), ("features.6.conv.2.weight", 0)} <= set(narrow)


def test_grouped_convolutions_keep_their_groups() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 8, 1),
        nn.Conv2d(8, 12, 3, padding=1, groups=2),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 2, 1),
    )
    structure = exact(network, 1, 4, 4)
    assert structure.groups == (Group("0", 8, 2), Group("1", 12, 2))
    assert parts(structure, "0")["0.weight", 0] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    grouped: Any = network[1]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (2, 4, 6)


def test_depthwise_convolutions_may_make_several_channels_each() -> None:
    network = nn.Sequential(
        nn.Conv1d(1, 3, 1), nn.Conv1d(3, 6, 3, groups=3), nn.ReLU(), nn.Conv1d(6, 2, 1)
    )
    structure = exact(network, 1, 5)
    assert structure.groups == (Group("0", 3),)
    assert dict(structure.layers[1].makes) == {"0": 2}
    assert dict(structure.layers[2].reads) == {"0": 2}


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolutions(groups: int) -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.ConvTranspose2d(4, 8, 2, 2, groups=groups), nn.Conv2d(8, 2, 1)
    )
    exact(network, 1, 3, 3)


class Shuffled(nn.Module):
    """Halves of channels, interleaved (as ShuffleNet), and a gated unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 12, 1)
        self.norm, self.slope = nn.GroupNorm(2, 6), nn.PReLU(6)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(torch.tanh(self.first(x)))
        x = self.slope(functional.glu(x, 1))
        left, right = x.chunk(2, 1)
        return self.last(left * right)  # type: ignore[no-any-return]


def test_halves_are_cut_alike() -> None:
    structure = exact(Shuffled(), 2, 3, 3, share=0.4)
    assert structure.groups[0] == Group("first", 8)
    # Two quarters of what the gate makes are gates, and the other two are halves.
    assert structure.groups[1] == Group("gate", 3)
    assert dict(structure.layers[1].makes) == {"gate": 4}
    assert parts(structure, "gate")["gate.weight", 0][1] == [1, 4, 7, 10]


class Odd(nn.Module):
    """Rolls channels round, of which nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rolled, self.next = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 4)
        self.last = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rolled(torch.relu(self.first(x)))
        return self.last(self.next(torch.roll(x, 1, 1)))  # type: ignore[no-any-return]


def test_what_cannot_be_cut_is_named() -> None:
    structure = of(nn.Sequential(Odd()), 4)
    assert [g.name for g in structure.groups] == ["0.first", "0.next"]
    assert structure.fixed == {
        "0.rolled": "operator `roll` in `0` (Odd)",
        "0.last": "the network's answers are made of it",
    }


def test_tied_weights_are_cut_once() -> None:
    network = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2))
    network[2].weight = network[1].weight
    structure = exact(network, 3)
    # A square weight that stands twice ties what it reads to what it makes.
    assert {g.name for g in structure.groups} == {"0"}
    assert network[2].weight is network[1].weight
    assert network[1].weight.shape == (3, 3)


def test_a_shortcut_from_the_input_is_kept() -> None:
    class Shortcut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(x + self.one(x))  # type: ignore[no-any-return]

    structure = of(Shortcut(), 4)
    assert structure.groups == ()
    assert structure.fixed["one"] == "operator `add` in the network's own forward (Shortcut)"


def test_attention_by_torch_is_kept_and_the_layers_behind_it_are_not() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    structure = exact(nn.Sequential(nn.Linear(3, 8), layer, nn.Linear(8, 2)), 5, 3)
    assert structure.groups == (Group("1.linear1", 16),)
    assert "MultiheadAttention" in structure.fixed["0"]


def test_channels_normalised_by_their_own_places() -> None:
    network = nn.Sequential(nn.Conv2d(1, 6, 2), nn.InstanceNorm2d(6, affine=True), nn.ReLU(),
                            nn.Conv2d(6, 2, 2))  # fmt: skip
    assert exact(network, 1, 5, 5).groups == (Group("0", 6),)


def test_channels_that_become_places_go_together() -> None:
    network = nn.Sequential(nn.Conv2d(1, 12, 1), nn.PixelShuffle(2), nn.Conv2d(3, 4, 3),
                            nn.PixelUnshuffle(2), nn.Conv2d(16, 2, 1))  # fmt: skip
    assert exact(network, 1, 4, 4).groups == (Group("0", 3), Group("2", 4))


def test_channels_of_zeros_that_are_added_stay() -> None:
    class Widening(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1)
            self.last = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            x = self.second(x) + functional.pad(x, (0, 0, 0, 0, 0, 2))
            return self.last(x)  # type: ignore[no-any-return]

    assert exact(Widening(), 1, 3, 3).groups == (Group("first", 4),)


def test_a_weight_that_is_computed_is_kept() -> None:
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    structure = exact(nn.Sequential(normed, nn.Linear(4, 6), nn.Linear(6, 2)), 3)
    assert structure.groups == (Group("1", 6),)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("ways", [1, 2])
def test_several_recurrent_layers_in_a_module(kind: type[nn.LSTM | nn.GRU], ways: int) -> None:
    class Series(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 5)
            self.state = kind(5, 4, num_layers=2, batch_first=True, bidirectional=ways == 2)
            self.last = nn.Linear(4 * ways, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.state(self.first(x))[0])  # type: ignore[no-any-return]

    structure = exact(Series(), 6, 3)
    assert structure.groups == (Group("first", 5), Group("state", 4))
    first, second = (one for one in structure.layers if one.name.startswith("state"))
    word = kind.__name__.lower()
    assert first.shape == LayerShape(word, 5, 4, (6,), directions=ways)
    assert second.shape == LayerShape(word, 4 * ways, 4, (6,), directions=ways)
    assert (dict(second.reads), dict(second.makes)) == ({"state": ways}, {"state": 1})


class Stepped(nn.Module):
    """A loop of its own around a cell, whose state begins by an attribute or by itself."""

    def __init__(self, kind: type[nn.LSTMCell | nn.GRUCell], begins: str) -> None:
        super().__init__()
        self.first, self.cell, self.last = nn.Linear(3, 5), kind(5, 4), nn.Linear(4, 2)
        self.begins = begins

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        state: Any = None
        if self.begins:
            state = x.new_zeros(len(x), self.cell.hidden_size if self.begins == "told" else 4)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.last(state[0] if isinstance(state, tuple) else state)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "begins"), [(nn.LSTMCell, ""), (nn.GRUCell, ""), (nn.GRUCell, "told")]
)
def test_cells_in_a_loop(kind: type[nn.LSTMCell | nn.GRUCell], begins: str) -> None:
    network = Stepped(kind, begins)
    structure = exact(network, 6, 3)
    assert structure.groups == (Group("first", 5), Group("cell", 4))
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}[kind]
    read, kept, *more = (one for one in structure.layers if one.name.startswith("cell"))
    assert len(more) == 2 * 5
    assert read.shape == LayerShape("linear", 5, 4 * gates, (1,))
    assert (dict(read.reads), dict(read.makes)) == ({"first": 1}, {"cell": gates})
    assert kept.shape == LayerShape("linear", 4, 4 * gates, (1,))
    assert (dict(kept.reads), dict(kept.makes)) == ({"cell": 1}, {"cell": gates})
    assert (network.cell.input_size, network.cell.hidden_size) == (3, 2)


def test_a_state_as_long_as_a_number_in_the_code_is_told() -> None:
    network = Stepped(nn.GRUCell, "four")
    sure = proved(network, of(network, 6, 3))
    assert sure.groups == (Group("first", 5),)
    assert "`cell` (GRUCell)" in sure.fixed["cell"]


class Attention(nn.Module):
    """Queries, keys and values of one layer, in the order that torch has, or head by head."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.order, self.num_heads, self.head_dim = order, 3, 2
        self.first = nn.Linear(5, 6)
        self.qkv, self.out, self.last = nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        made, heads, size = self.qkv(x), self.num_heads, self.head_dim
        parts: Any
        if self.order == "chunks":
            parts = [one.unflatten(-1, (-1, size)) for one in made.chunk(3, -1)]
        elif self.order == "parts":
            parts = made.reshape(*x.shape[:2], 3, heads, size).permute(2, 0, 1, 3, 4).unbind(0)
        elif self.order == "picked":
            made = made.reshape(*x.shape[:2], 3, -1)
            parts = [made[:, :, i].reshape(*x.shape[:2], -1, size) for i in range(3)]
        else:
            parts = made.reshape(*x.shape[:2], heads, 3, size).unbind(3)
        query, key, value = (one.transpose(1, 2) for one in parts)
        given = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(given.transpose(1, 2).flatten(2))
        return self.last(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("order", ["parts", "chunks", "picked", "heads"])
def test_heads_of_one_layer_go_together(order: str) -> None:
    structure = exact(Attention(order), 4, 5, share=0.34)
    group = structure.group("qkv")
    assert (group.size, group.unit) == (6, 2)
    [rows] = [p.indices for p in structure.parts["qkv"] if (p.tensor, p.axis) == ("qkv.weight", 0)]
    wanted = [6, 7, 8, 9, 10, 11] if order == "heads" else [2, 3, 8, 9, 14, 15]
    assert sorted(rows[1].tolist()) == wanted


def test_modes_and_weights_are_left_alone() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    network[1].eval()
    before = {name: one.clone() for name, one in network.state_dict().items()}
    of(network, 3)
    assert [m.training for m in network] == [True, False, True]
    assert all(torch.equal(one, before[n]) for n, one in network.state_dict().items())
    assert not network[0]._forward_hooks


def test_a_network_that_fails_names_the_module() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2))
    with pytest.raises(Unsupported, match=r"followed through `1` \(Linear\)"):
        of(network, 3)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2", "efficientnet_lite0"])
def test_the_same_groups_as_torch_pruning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutional networks, where it is known to be right: made by others, in another way."""
    pruning = pytest.importorskip("torch_pruning")
    settings = {"resnet18": {"width": 4}, "mobilenetv2": {"alpha": 0.1}}.get(name, {})
    table = {"resnet18": ("resnet:DEPTHS", 2), "mobilenetv2": ("mobilenetv2:STAGES", 4)}
    case = Case(name, IMAGE, settings=settings,
                table=table.get(name, ("efficientnet:STAGES", 3)))  # fmt: skip
    network = made(case, monkeypatch)
    structure = structure_of(network, IMAGE)
    graph = pruning.DependencyGraph().build_dependency(network, torch.rand(2, 3, 16, 16))
    paths = {module: path for path, module in network.named_modules()}
    for group in structure.groups:
        module = network.get_submodule(group.name)
        prune = graph.get_pruner_of_module(module).prune_out_channels
        theirs: set[tuple[str, int, tuple[int, ...]]] = set()
        for one, indices in graph.get_pruning_group(module, prune, idxs=[1]):
            if isinstance(one.target.module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                inside = "in_channels" in one.handler.__name__
                depthwise = getattr(one.target.module, "groups", 1) > 1
                axis = int(
                    inside
                    and not depthwise
                    and isinstance(one.target.module, (nn.Conv2d, nn.Linear))
                )
                theirs.add((paths[one.target.module], axis, tuple(sorted(indices))))
        ours = {
            (part.tensor.removesuffix(".weight"), part.axis, tuple(part.indices[1].tolist()))
            for part in structure.parts[group.name]
            if part.tensor.endswith("weight")
        }
        assert ours == theirs

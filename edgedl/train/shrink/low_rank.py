"""Dense layers and convolutions as two thinner ones, by the singular values of their weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, NoGain, OutOfReach, Unsupported
from edgedl.core.layers import LayerShape, Price
from edgedl.train.bounds import above, within
from edgedl.train.shrink.layer_shapes import KINDS, called_shapes
from edgedl.train.shrink.step import Change, Ground, Training
from edgedl.train.shrink.weights import layers_of, release, shared_weights
from edgedl.train.shrink.widths import Prices, macs

# Ranks that are priced for a layer, and grains that a budget is counted in.
RANKS, GRAINS = 16, 4000
# Layers that an error names.
MOST_TOLD = 4
# Rounding of float32 weights leaves this share of energy where there was none.
NOISE = 1e-11
# Modules that look at the weights of layers in them, and so need layers that have one.
READING = (nn.TransformerEncoderLayer,)


@dataclass(frozen=True, kw_only=True)
class LowRank(Training):
    """Makes two layers of one: a dense layer two of the same, a convolution one of as many places
    to fewer channels and one of 1 x 1 from there.

    The factors are the singular value decomposition of the weight as a matrix of outputs by all
    that they are made from (Denton et al., Exploiting Linear Structure, NIPS 2014; Zhang et al.,
    Accelerating Very Deep Convolutional Networks, 2016; Jaderberg et al., BMVC 2014, who part
    height and width instead). A layer is factored only where two are cheaper than one: on the
    target's engine where that can be timed, else in multiplications.

    Attributes:
        energy: the share of the squares of its singular values that each layer keeps. The setting
            where none of the three is given, 0.9.
        latency: the share that remains of the time of all dense layers and convolutions, each
            alone; ranks are then those of most energy, multiplied over layers as Zhang et al. do.
        rank: the share of its singular values that each layer keeps.
        keep: layers that stay as they are, by name or pattern.
    """

    name: Literal["low_rank"] = "low_rank"
    energy: float | None = None
    latency: float | None = None
    rank: float | None = None
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [n for n in ("energy", "latency", "rank") if getattr(self, n) is not None]
        if len(given) > 1:
            raise BadValue(
                f"`{given[0]}` and `{given[1]}` both say what is kept",
                keys=(given[1],),
                hint="leave one of them out",
            )
        for one in given:
            above(self, 0, one)
            within(self, 0, 1, one)
        super().__post_init__()

    @property
    def promise(self) -> Literal["speed"]:
        """Two thin layers for one."""
        return "speed"

    @property
    def rounds(self) -> int:
        """Factors are not factored again."""
        return 1

    @property
    def is_priced(self) -> bool:
        """Each layer is."""
        return True

    def check(self, network: nn.Module, ground: Ground) -> None:  # noqa: ARG002
        """That there are such layers."""
        layers_of(network, self.keep)

    def foreseen(self, network: nn.Module, ground: Ground) -> nn.Module:
        """With all layers factored that may be, to a quarter of their rank."""
        found, chosen = copy.deepcopy(network), layers_of(network, self.keep)
        shapes = called_shapes(network, ground, layers_of(network))
        ranks = {
            name: -(-min(_matrix(one).shape) // 4)
            for name, one in chosen.items()
            if not _reason(network, one, shapes.get(name))
        }
        self.apply(found, {"ranks": ranks})
        return found

    def decide(
        self,
        network: nn.Module,
        ground: Ground,
        round_: int,  # noqa: ARG002
    ) -> Change:
        """The rank of each layer that is factored, and why others are not: `{"ranks": {layer:
        rank}, "energy": {layer: share}, "left": {layer: reason}}`.

        Raises:
            BadValue: a pattern matches no layer.
            OutOfReach: the latency cannot be had.
            NoGain: no layer pays.
            Unsupported: a latency is wanted where no engine of the target can be timed.
        """
        if self.latency is not None and ground.price is None:
            raise Unsupported(
                "no engine of the target can be timed here, so ranks cannot be chosen by latency",
                hint="energy: 0.9",
            )
        price = Prices(ground.price or macs)
        chosen, every = layers_of(network, self.keep), layers_of(network)
        shapes = called_shapes(network, ground, every)
        left = {name: _reason(network, every[name], shapes.get(name)) for name in chosen}
        spectra = {
            name: _spectrum(one, ground, i, len(chosen))
            for i, (name, one) in enumerate(chosen.items())
            if not left[name]
        }
        if self.latency is None:
            found = {name: self._rank(spectrum) for name, spectrum in spectra.items()}
            pairs = {name: factors(shapes[name], rank) for name, rank in found.items()}
            price([one for name, pair in pairs.items() for one in (*pair, shapes[name])])
            ranks = {}
            for name, rank in found.items():
                two, whole = sum(price(pairs[name])), price([shapes[name]])[0]
                if two < whole:
                    ranks[name] = rank
                else:
                    left[name] = f"rank {rank} costs {two / whole:.2f} of what it costs whole"
        else:
            ranks = self._within_budget(shapes, spectra, price)
            for name in spectra.keys() - ranks:
                left[name] = "best left whole"
        left = {name: why for name, why in left.items() if why and name not in ranks}
        if not ranks:
            told = "; ".join(f"`{name}`: {why}" for name, why in [*left.items()][:MOST_TOLD])
            more = f"; and {len(left) - MOST_TOLD} more" if len(left) > MOST_TOLD else ""
            raise NoGain(f"no layer pays: {told}{more}", hint="keep less, or leave the step out")
        energy = {name: float(spectra[name][rank - 1]) for name, rank in ranks.items()}
        return {"ranks": ranks, "energy": energy, "left": left}

    def apply(self, network: nn.Module, change: Change) -> None:
        """Put the factors of what the weights are now in the place of each layer.

        Raises:
            BadValue: the change is another network's.
        """
        release(network)
        modules = dict(network.named_modules())
        ranks: Mapping[str, int] = change["ranks"]
        for name, rank in ranks.items():
            layer = modules.get(name)
            if type(layer) not in KINDS or rank > min(_matrix(layer).shape):
                said = "is not here" if layer is None else "is another layer here"
                raise BadValue(
                    f"the step was decided for another network: `{name}` {said}",
                    hint="build the network with the settings that it was trained with",
                )
            assert layer is not None
            pair = Factored(layer, rank)
            for parent in modules.values():
                for key, child in parent._modules.items():
                    if child is layer:
                        parent._modules[key] = pair

    def settle(self, network: nn.Module) -> None:
        """Nothing: the factors are layers as any others."""

    def _rank(self, spectrum: np.ndarray) -> int:
        if self.rank is not None:
            return max(1, round(self.rank * spectrum.size))
        energy = 0.9 if self.energy is None else self.energy
        return int(np.searchsorted(spectrum, energy - NOISE)) + 1

    def _within_budget(
        self, shapes: Mapping[str, LayerShape], spectra: Mapping[str, np.ndarray], price: Price
    ) -> dict[str, int]:
        """The ranks of most energy whose summed price keeps the budget, by dynamic programming."""
        assert self.latency is not None
        ranks = {name: _ranks(shapes[name], one.size) for name, one in spectra.items()}
        priced = [one for n, few in ranks.items() for r in few for one in factors(shapes[n], r)]
        price([*shapes.values(), *priced])
        total = sum(price(list(shapes.values())))
        fixed = sum(price([shape for name, shape in shapes.items() if name not in spectra]))
        costs, worth = [], []
        for name, spectrum in spectra.items():
            whole = price([shapes[name]])[0]
            pairs = [sum(price(factors(shapes[name], r))) for r in ranks[name]]
            # The first choice is the layer as it is.
            costs.append([whole, *pairs])
            gains = [np.log(spectrum[r - 1]) for r in ranks[name]]
            worth.append([0.0, *(g if p < whole else -np.inf
                                 for g, p in zip(gains, pairs, strict=True))])  # fmt: skip
        taken = most_worth(costs, worth, self.latency * total - fixed)
        if taken is None:
            least = fixed + sum(map(min, costs))
            raise OutOfReach(
                f"{self.latency:.0%} of the latency cannot be had by low rank:"
                f" {least / total:.0%} is the least",
                keys=("latency",),
                hint=f"latency: {min(1.0, np.ceil(least / total * 100) / 100 + 0.01):.2f}"
                if least < total
                else "leave the step out",
            )
        names = zip(spectra, taken, strict=True)
        return {name: ranks[name][i - 1] for name, i in names if i}


class Factored(nn.Sequential):
    """A layer as two: to `rank` channels or features, and from there to its outputs.

    Its weights are the best of this rank for the layer's, both halves of the same norm.
    """

    def __init__(self, layer: nn.Module, rank: int) -> None:
        assert isinstance(layer, KINDS)
        narrow: nn.Module
        widen: nn.Module
        device, dtype = layer.weight.device, layer.weight.dtype
        bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            narrow = nn.Linear(layer.in_features, rank, bias=False, device=device, dtype=dtype)
            widen = nn.Linear(rank, layer.out_features, bias=bias, device=device, dtype=dtype)
        else:
            kind: Callable[..., nn.Module] = type(layer)
            narrow = kind(
                layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding,
                layer.dilation, bias=False, padding_mode=layer.padding_mode, device=device,
                dtype=dtype,
            )  # fmt: skip
            widen = kind(rank, layer.out_channels, 1, bias=bias, device=device, dtype=dtype)
        super().__init__()
        self.add_module("narrow", narrow)
        self.add_module("widen", widen)
        left, right = halves(_matrix(layer), rank)
        with torch.no_grad():
            _fill(narrow, right)
            _fill(widen, left)
            if layer.bias is not None:
                widen.get_parameter("bias").copy_(layer.bias)
        for one in (narrow.get_parameter("weight"), widen.get_parameter("weight")):
            one.requires_grad_(layer.weight.requires_grad)
        if layer.bias is not None:
            widen.get_parameter("bias").requires_grad_(layer.bias.requires_grad)
        self.train(layer.training)


def halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The two matrices whose product is the nearest of this rank, their vectors' norms the roots of
    the singular values."""
    if len(matrix) > len(matrix.T):
        left, right = halves(matrix.T, rank)
        return right.T, left.T
    # By the shorter side's square, ten times as fast as by both; float64 has the digits for it.
    _, vectors = torch.linalg.eigh(matrix @ matrix.T)
    basis = vectors[:, -rank:].flip(1)
    rest = basis.T @ matrix
    root = rest.norm(dim=1).sqrt()
    root = torch.where(root > 0, root, 1.0)
    return basis * root, rest / root[:, None]


def factors(shape: LayerShape, rank: int) -> tuple[LayerShape, LayerShape]:
    """The shapes of the two layers that a layer of this rank becomes."""
    narrow = shape.with_widths(shape.inputs, rank)
    if shape.kind == "linear":
        return narrow, shape.with_widths(rank, shape.outputs)
    ones = (1,) * len(shape.kernel)
    widen = replace(
        shape, inputs=rank, size=shape.out_size, kernel=ones, stride=ones, dilation=ones,
        padding=(0,) * 2 * len(ones),
    )  # fmt: skip
    return narrow, widen


def most_worth(
    costs: Sequence[Sequence[float]], worth: Sequence[Sequence[float]], budget: float
) -> list[int] | None:
    """One choice of each, of most summed worth, whose costs do not exceed a budget.

    Costs are counted in grains of the budget, rounded up: the budget is kept, to a grain a choice.

    Returns:
        None where there is none.
    """
    if budget <= 0:
        return None if costs else []
    best = np.zeros(GRAINS + 1)
    steps = []
    for each, gains in zip(costs, worth, strict=True):
        rows = np.full((len(each), GRAINS + 1), -np.inf)
        for i, (cost, gain) in enumerate(zip(each, gains, strict=True)):
            grains = int(np.ceil(cost / budget * GRAINS - 1e-9))
            if grains <= GRAINS:
                rows[i, grains:] = best[: GRAINS + 1 - grains] + gain
        steps.append((rows.argmax(axis=0), each))
        best = rows.max(axis=0)
    if not np.isfinite(best[-1]):
        return None
    place, taken = GRAINS, []
    for chosen, each in reversed(steps):
        taken.append(int(chosen[place]))
        place -= int(np.ceil(each[taken[-1]] / budget * GRAINS - 1e-9))
    return taken[::-1]


def _reason(network: nn.Module, layer: nn.Module, shape: LayerShape | None) -> str:
    """Why a layer cannot be factored; empty where it can."""
    if type(layer) not in KINDS:
        return "not a plain dense layer or convolution"
    if shape is None:
        return "the network does not call it"
    if shape.is_depthwise:
        return "depthwise"
    if shape.groups > 1:
        return f"a convolution of {shape.groups} groups"
    if "weight" not in layer._parameters:
        return "its weight is parametrized"
    if id(layer.weight) in shared_weights(network):
        return "its weight is shared"
    if any(layer in one.children() for one in network.modules() if isinstance(one, READING)):
        return "torch's own layer of transformers reads its weight"
    if not torch.count_nonzero(layer.get_parameter("weight")):
        return "its weight is zero"
    return ""


def _matrix(layer: Any) -> Tensor:
    """The weight as outputs by all that they are made from, in float64."""
    weight: Tensor = layer.weight.detach()
    return weight.double().reshape(len(weight), -1)


def _fill(layer: nn.Module, matrix: Tensor) -> None:
    weight = layer.get_parameter("weight")
    weight.copy_(matrix.reshape(weight.shape))


def _spectrum(layer: nn.Module, ground: Ground, done: int, count: int) -> np.ndarray:
    """The share of energy that is kept by each rank from 1 on."""
    matrix = _matrix(layer)
    matrix = matrix if len(matrix) <= len(matrix.T) else matrix.T
    squares = torch.linalg.eigvalsh(matrix @ matrix.T).clamp(min=0).flip(0).cpu().numpy()
    ground.progress("singular values", done + 1, count)
    shares: np.ndarray = np.cumsum(squares) / squares.sum()
    return shares


def _ranks(shape: LayerShape, most: int) -> list[int]:
    """Ranks that are tried: up to that which no longer saves multiplications, evenly."""
    pair = sum(one.macs for one in factors(shape, 1))
    highest = min(most, (shape.macs - 1) // pair)
    return sorted({round(highest * (i + 1) / RANKS) for i in range(RANKS)} - {0})

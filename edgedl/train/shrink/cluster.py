"""Weights of few distinct values, a palette for each tensor, which learns on as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.train.bounds import within
from edgedl.train.shrink.step import Change, Ground, Training
from edgedl.train.shrink.weights import (
    RECURRENT,
    TRANSPOSED,
    Hold,
    found_in,
    release,
    weights_of,
)

# k-means is begun so often, from so many of a tensor's values, and is stopped after so many steps.
BEGINNINGS, DRAWN_FROM, STEPS = 4, 1 << 16, 1000


@dataclass(frozen=True, kw_only=True)
class Cluster(Training):
    """Gives each weight the nearest colour of its tensor's palette, and trains the colours.

    Han et al., Deep Compression, ICLR 2016. Where a weight is zero, it stays so: zero is a colour
    of its own then. What it promises is bytes, and a payload that is deflated where it ships keeps
    that: a palette costs log2(colours) bits a weight at the most, and less as colours are not as
    frequent as one another.

    int8 weights with a scale for each output channel have more distinct values than a palette of
    the tensor's: each channel is divided by its own largest. So colours are times the channel's
    scale, which int8 divides by again.

    Attributes:
        colours: distinct values of each tensor, or channel, at most.
        scale: `channel`, a tensor's colours are times the largest of each output channel, but for
            recurrent layers; `tensor`, they are the weights.
        keep: layers that stay as they are, by name or pattern.
    """

    holds_zeros: ClassVar[bool] = True
    undone_by_training: ClassVar[str] = "the palettes"

    name: Literal["cluster"] = "cluster"
    colours: int = 16
    scale: Literal["channel", "tensor"] = "channel"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        within(self, 2, 256, "colours")
        super().__post_init__()

    @property
    def promise(self) -> Literal["bytes"]:
        """Not speed: engines compute with the weights as any others."""
        return "bytes"

    @property
    def rounds(self) -> int:
        """Trained colours stay where they are when clustered again."""
        return 1

    @property
    def is_priced(self) -> bool:
        """Never."""
        return False

    def check(self, network: nn.Module, ground: Ground) -> None:  # noqa: ARG002
        """That there are such layers."""
        weights_of(network, self.keep)

    def decide(
        self,
        network: nn.Module,
        ground: Ground,
        round_: int,  # noqa: ARG002
    ) -> Change:
        """The palettes, as `{"palettes": {weight: {"shape": ..., "axis": ..., "colours": [...]}}}`,
        ascending; `axis` is that of the channels that have scales, or None.

        Which colour a weight has, and the scales, are not in the change: they are those of what the
        weight is when the change is made, and lie in the network's state from then on, a byte a
        weight.

        Raises:
            BadValue: a pattern matches no layer, or nothing is left.
        """
        weights = weights_of(network, self.keep)
        palettes = {}
        for i, weight in enumerate(weights):
            random = np.random.default_rng([ground.seed, i])
            transposed, flat = (isinstance(weight.module, k) for k in (TRANSPOSED, RECURRENT))
            axis = None if flat or self.scale == "tensor" else int(transposed)
            scaled = (weight.tensor / scales_of(weight.tensor, axis)).float().cpu().numpy()
            palettes[weight.name] = {
                "shape": list(weight.tensor.shape),
                "axis": axis,
                "colours": palette_of(scaled, self.colours, random).tolist(),
            }
            ground.progress("finding palettes", i + 1, len(weights))
        return {"palettes": palettes}

    def apply(self, network: nn.Module, change: Change) -> None:
        """Hold the weights to their palettes.

        Raises:
            BadValue: the change is another network's.
        """
        palettes: Mapping[str, Mapping[str, Any]] = change["palettes"]
        shapes = {name: one["shape"] for name, one in palettes.items()}
        for weight in list(found_in(network, shapes)):
            palette = palettes[weight.name]
            weight.hold(Palette(weight.tensor, palette["colours"], palette["axis"]))

    def settle(self, network: nn.Module) -> None:
        """Plain weights, of no more distinct values than there are colours; by channel, where each
        has its scale."""
        release(network)


class _Shared(torch.autograd.Function):
    """The same, whose gradient is divided by the squares of what each value is multiplied by."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, squares: Tensor) -> Tensor:
        ctx.save_for_backward(squares)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (squares,) = ctx.saved_tensors
        return torch.where(squares > 0, gradients[0] / squares, 0.0), None


class Palette(Hold):
    """A weight of few distinct values: what is learned are these values.

    Without scales, a colour's gradient is the mean of its weights' gradients, not their sum as in
    the paper: that is the weights' own step, kept to the palette, so that the rate of their
    training fits. With scales, it is that step all the same.

    Attributes:
        codes: the place of each weight's colour, in the weight's shape.
        scales: what the colours are multiplied by, 1 in the mean of all channels.
        squares: of each colour, summed over its weights, the scales' squares.
    """

    codes: Tensor
    scales: Tensor
    squares: Tensor
    learns: Tensor

    def __init__(self, weight: Tensor, colours: Sequence[float], axis: int | None) -> None:
        super().__init__()
        values = np.array(colours, np.float32)
        scales = scales_of(weight, axis)
        codes = nearest_of((weight / scales).float().cpu().numpy(), values)
        each = scales.double().square().expand_as(weight).cpu().numpy()
        squares = np.bincount(codes.reshape(-1), each.reshape(-1), minlength=len(values))
        self.digest = hashlib.sha256(values.tobytes()).hexdigest()[:16]
        self.first = torch.from_numpy(values).to(weight)
        self.register_buffer("codes", torch.from_numpy(codes).to(weight.device))
        self.register_buffer("scales", scales)
        self.register_buffer("squares", torch.from_numpy(squares).to(weight))
        learns = torch.from_numpy(values != 0).to(weight.device)
        self.register_buffer("learns", learns, persistent=False)

    def forward(self, colours: Tensor) -> Tensor:
        """The weight."""
        drawn: Tensor = _Shared.apply(colours, self.squares)  # type: ignore[no-untyped-call]
        return torch.where(self.learns, drawn, 0.0)[self.codes.int()] * self.scales

    def right_inverse(self, weight: Tensor) -> Tensor:  # noqa: ARG002
        """The colours to begin with."""
        return self.first.clone()

    def extra_repr(self) -> str:
        """Of another palette, another run."""
        return self.digest


def scales_of(weight: Tensor, axis: int | None) -> Tensor:
    """The largest magnitude of each channel by the mean of all, in axes as the weight's; 1 where a
    channel is zero, or there is no axis."""
    if axis is None:
        return weight.new_ones([1] * weight.ndim)
    others = [i for i in range(weight.ndim) if i != axis]
    largest = weight.abs().amax(dim=others, keepdim=True)
    mean = largest.mean()
    return torch.where(largest > 0, largest / mean, 1.0)


def palette_of(weights: np.ndarray, colours: int, random: np.random.Generator) -> np.ndarray:
    """The float32 values, ascending, that are nearest to all weights in the square mean.

    Lloyd's k-means from the beginnings of k-means++ (Arthur and Vassilvitskii, 2007), the best of
    some. Zero is one of them where a weight is zero.
    """
    values = np.sort(weights.reshape(-1).astype(np.float64))
    zero = np.zeros(int((values == 0).any()))
    values = values[values != 0]
    wanted = colours - zero.size
    distinct = np.unique(values[:: max(1, values.size // DRAWN_FROM)])
    if distinct.size <= wanted:
        distinct = np.unique(values)
    if distinct.size <= wanted:
        return np.sort(np.concatenate([distinct, zero])).astype(np.float32)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    tries = [_lloyd(values, sums, _begin(distinct, wanted, random)) for _ in range(BEGINNINGS)]
    centres = min(tries, key=lambda one: _loss(values, sums, one))
    rounded = np.unique(centres.astype(np.float32))
    return np.sort(np.concatenate([rounded[rounded != 0], zero.astype(np.float32)]))


def nearest_of(weights: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """The place of the nearest colour of each weight, as uint8; zero is for what is zero alone."""
    others = np.flatnonzero(palette)
    colours = palette[others].astype(np.float64)
    if not others.size:
        return np.zeros(weights.shape, np.uint8)
    between = (colours[1:] + colours[:-1]) / 2
    codes = others[np.searchsorted(between, weights.astype(np.float64))]
    if others.size < palette.size:
        codes[weights == 0] = int(np.flatnonzero(palette == 0)[0])
    return codes.astype(np.uint8)


def _begin(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """k-means++: each beginning is drawn by the square of how far it is from those before it."""
    chosen = [values[random.integers(values.size)]]
    far = np.square(values - chosen[0])
    while len(chosen) < count:
        summed = np.cumsum(far)
        place = int(np.searchsorted(summed, random.random() * summed[-1], side="right"))
        chosen.append(values[min(place, values.size - 1)])
        far = np.minimum(far, np.square(values - chosen[-1]))
    return np.sort(np.array(chosen))


def _lloyd(values: np.ndarray, sums: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Centres that are the means of what is nearest to them; of sorted values, ranges."""
    for _ in range(STEPS):
        ends = _ends(values, centres)
        counts = np.diff(ends)
        means = np.diff(sums[ends]) / np.maximum(counts, 1)
        moved = np.where(counts > 0, means, centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _loss(values: np.ndarray, sums: np.ndarray, centres: np.ndarray) -> float:
    """The sum of squares of what values miss their centres by, less that of the values."""
    ends = _ends(values, centres)
    return float((np.square(centres) * np.diff(ends) - 2 * centres * np.diff(sums[ends])).sum())


def _ends(values: np.ndarray, centres: np.ndarray) -> np.ndarray:
    between = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
    return np.concatenate([[0], between, [values.size]])

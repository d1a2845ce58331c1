"""Weights that are zero, in a pattern, and stay so while the others learn on."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.errors import BadValue, Unsupported
from edgedl.train.bounds import above, least
from edgedl.train.shrink.ground import drawn
from edgedl.train.shrink.step import Change, Ground, Training
from edgedl.train.shrink.weights import (
    RECURRENT,
    TRANSPOSED,
    Hold,
    Weight,
    found_in,
    release,
    weights_of,
)

# What the Taylor score looks at: so many batches of so many samples.
BATCHES, BATCH = 16, 32


@dataclass(frozen=True, kw_only=True)
class Sparsity(Training):
    """Sets the weights of least score to zero, in rounds, each followed by training.

    What it promises is bytes, and a payload that is deflated where it ships keeps that. Nothing
    here makes a network faster on a processor: onnxruntime has no sparse kernels, and OpenVINO's
    (`CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE`, int8 dense layers) are for x86 with AMX alone. Round r
    of n has the share s (1 - (1 - r/n)^3) of zeros (Zhu and Gupta, To Prune, or Not to Prune,
    2017).

    Attributes:
        pattern: `unstructured`, weights one by one; `block`, blocks of outputs x inputs of the
            weight as a matrix, those at its edges smaller; `2:4`, two of each four along the inputs
            (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021), where inputs are a
            multiple of 4.
        share: of the chosen layers' weights that are zero in the end.
        score: `l1`, magnitudes; `lamp`, their squares over the sum of those in the layer that are
            no smaller, for `scope: network` (Lee et al., Layer-Adaptive Sparsity, ICLR 2021);
            `taylor`, what the loss would change by in first order, over some batches (Molchanov et
            al., Importance Estimation, CVPR 2019).
        scope: whether each layer has this share, or all layers together.
        block: rows and columns.
        keep: layers that stay as they are, by name or pattern.
    """

    makes_zeros: ClassVar[bool] = True
    holds_zeros: ClassVar[bool] = True

    name: Literal["sparsity"] = "sparsity"
    pattern: Literal["2:4", "block", "unstructured"] = "unstructured"
    share: float = 0.5
    score: Literal["l1", "lamp", "taylor"] = "l1"
    scope: Literal["layer", "network"] = "layer"
    block: tuple[int, int] = (1, 4)
    keep: tuple[str, ...] = ()
    rounds: int = 3

    def __post_init__(self) -> None:
        above(self, 0, "share")
        least(self, 1, "rounds")
        if self.share >= 1:
            raise BadValue(
                f"`share` is {self.share}: all weights would be zero",
                keys=("share",),
                hint="less than 1",
            )
        if self.pattern == "2:4" and self.share != 0.5:
            raise BadValue(
                f"`share` is {self.share}, and `2:4` sets half of all weights to zero",
                keys=("share",),
                hint="leave `share` out, or `pattern: unstructured`",
            )
        if min(self.block) < 1:
            raise BadValue(
                f"a block of {self.block[0]} x {self.block[1]}", keys=("block",), hint="1 or more"
            )
        super().__post_init__()

    @property
    def promise(self) -> Literal["bytes"]:
        """Not speed: see above."""
        return "bytes"

    @property
    def is_priced(self) -> bool:
        """Never."""
        return False

    def share_of(self, round_: int) -> float:
        """The share of zeros in this round, counted from 0."""
        left = (1 - (round_ + 1) / self.rounds) ** 3
        return float(self.share * (1 - left))

    def check(self, network: nn.Module, ground: Ground) -> None:
        """That there are such layers, and something is left of each."""
        replace(self, score="l1", scope="layer").decide(network, ground, self.rounds - 1)

    def decide(self, network: nn.Module, ground: Ground, round_: int) -> Change:
        """The masks of this round, as `{"masks": {weight: {"shape": ..., "bits": ...}}}`.

        They are part of the change, packed: what they were found by, such as gradients, is not
        there when the change is made again, and a file beside it could be lost. They take up to an
        eighth of a byte a weight and a third more in JSON, 4 % of float weights at the most.

        Raises:
            BadValue: a pattern matches no layer, no layer fits `2:4`, or a layer would be empty.
            Unsupported: gradients are wanted where there is nothing to learn from.
        """
        if not 0 <= round_ < self.rounds:
            raise BadValue(f"round {round_} of {self.rounds}", hint="rounds are counted from 0")
        weights = weights_of(network, self.keep)
        if self.pattern == "2:4":
            weights = [one for one in weights if _by_inputs(one, _values(one)).shape[-1] % 4 == 0]
            if not weights:
                raise BadValue(
                    "no chosen layer has a multiple of 4 inputs",
                    keys=("pattern",),
                    hint="pattern: unstructured",
                )
        scores = self._scores(weights, network, ground)
        units = [self._units(one, score) for one, score in zip(weights, scores, strict=True)]
        share = self.share_of(round_) * (2 if self.pattern == "2:4" else 1)
        gone = [_least(one, share) for one in units]
        if self.scope == "network":
            ends = np.cumsum([one.size for one in units])[:-1]
            gone = np.split(_least(np.concatenate(units), share), ends)
        masks = {}
        for weight, score, these in zip(weights, scores, gone, strict=True):
            mask = self._mask(weight, score, these)
            if not mask.any():
                raise BadValue(
                    f"a share of {self.share} would leave nothing of `{weight.name}`, which has"
                    f" {mask.size} weights",
                    keys=("share",),
                    hint=f"a smaller share, or `keep: [{weight.layer}]`"
                    + (", or `scope: layer`" if self.scope == "network" else ""),
                )
            masks[weight.name] = {"shape": list(mask.shape), "bits": packed(mask)}
        return {"masks": masks, "share": share / (2 if self.pattern == "2:4" else 1)}

    def apply(self, network: nn.Module, change: Change) -> None:
        """Hold the weights that are gone at zero.

        Raises:
            BadValue: the change is another network's, or damaged.
        """
        masks: Mapping[str, Mapping[str, Any]] = change["masks"]
        shapes = {name: mask["shape"] for name, mask in masks.items()}
        for weight in list(found_in(network, shapes)):
            bits = masks[weight.name]["bits"]
            mask = torch.from_numpy(unpacked(bits, shapes[weight.name], weight.name))
            digest = hashlib.sha256(bits.encode()).hexdigest()[:16]
            weight.hold(Masked(mask.to(weight.tensor.device), digest))

    def settle(self, network: nn.Module) -> None:
        """Plain weights, whose zeros are exact."""
        release(network)

    def _scores(
        self, weights: list[Weight], network: nn.Module, ground: Ground
    ) -> list[np.ndarray]:
        """What each weight is worth, in its shape; what is zero is worth nothing."""
        if self.score == "taylor":
            return _taylor(weights, network, ground)
        values = [np.abs(_values(one)) for one in weights]
        return values if self.score == "l1" else [_lamp(one) for one in values]

    def _units(self, weight: Weight, score: np.ndarray) -> np.ndarray:
        """What goes at once, by what is lost by it."""
        if self.pattern == "unstructured":
            return score.reshape(-1)
        if self.pattern == "2:4":
            fours = _by_inputs(weight, score).reshape(-1, 4)
            lesser: np.ndarray = np.sort(fours, axis=1)[:, :2].sum(axis=1)
            return lesser
        matrix = score.reshape(len(score), -1)
        sums, sizes = (self._blocks(one) for one in (matrix, np.ones_like(matrix)))
        means: np.ndarray = sums / sizes
        return means.reshape(-1)

    def _mask(self, weight: Weight, score: np.ndarray, gone: np.ndarray) -> np.ndarray:
        """Which weights stay, once these units are gone."""
        if self.pattern == "unstructured":
            return ~gone.reshape(score.shape)
        if self.pattern == "2:4":
            moved = _by_inputs(weight, score)
            fours = moved.reshape(-1, 4)
            stays = np.ones(fours.shape, bool)
            lesser = np.argsort(fours, axis=1, kind="stable")[:, :2]
            stays[np.arange(len(fours))[gone, None], lesser[gone]] = False
            back = np.moveaxis(stays.reshape(moved.shape), -1, _input_axis(weight))
            return np.ascontiguousarray(back)
        matrix = score.reshape(len(score), -1)
        high, wide = (-(-n // b) for n, b in zip(matrix.shape, self.block, strict=True))
        blocks = gone.reshape(high, wide)
        whole = blocks.repeat(self.block[0], axis=0).repeat(self.block[1], axis=1)
        return ~whole[: matrix.shape[0], : matrix.shape[1]].reshape(score.shape)

    def _blocks(self, matrix: np.ndarray) -> np.ndarray:
        """The sum of each block."""
        high, wide = (-(-n // b) for n, b in zip(matrix.shape, self.block, strict=True))
        whole = np.zeros((high * self.block[0], wide * self.block[1]))
        whole[: matrix.shape[0], : matrix.shape[1]] = matrix
        sums: np.ndarray = whole.reshape(high, self.block[0], wide, self.block[1]).sum(axis=(1, 3))
        return sums


class Masked(Hold):
    """A weight of which some values are zero, whatever is learned."""

    mask: Tensor

    def __init__(self, mask: Tensor, digest: str) -> None:
        super().__init__()
        self.digest = digest
        # The change holds it; checkpoints need not.
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its zeros."""
        return torch.where(self.mask, weight, 0.0)

    def extra_repr(self) -> str:
        """Of another mask, another run."""
        return self.digest


def hold_zeros(network: nn.Module) -> bool:
    """Hold at zero what is zero in weights of layers, until `release`; whether there is any."""
    found = False
    for weight in weights_of(network):
        mask = weight.tensor != 0
        if not bool(mask.all()):
            digest = hashlib.sha256(mask.cpu().numpy().tobytes()).hexdigest()[:16]
            weight.hold(Masked(mask, digest))
            found = True
    return found


def packed(mask: np.ndarray) -> str:
    """A mask as text: its bits, deflated, in base 64."""
    return base64.b64encode(zlib.compress(np.packbits(mask).tobytes(), 9)).decode()


def unpacked(bits: str, shape: list[int], name: str) -> np.ndarray:
    """The mask that `packed` wrote.

    Raises:
        BadValue: the text is damaged.
    """
    size = int(np.prod(shape))
    try:
        data = zlib.decompress(base64.b64decode(bits, validate=True))
    except (ValueError, zlib.error) as error:
        raise BadValue(f"the mask of `{name}` is damaged", hint="decide the step again") from error
    if len(data) != -(-size // 8):
        raise BadValue(f"the mask of `{name}` is damaged", hint="decide the step again")
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=size)
    return flat.astype(bool).reshape(shape)


def _least(units: np.ndarray, share: float) -> np.ndarray:
    """The share of units of least score, the first of equals."""
    count = round(share * units.size)
    if not count:
        return np.zeros(units.size, bool)
    # No sort: the last that goes is found in linear time.
    last = np.partition(units, count - 1)[count - 1]
    gone: np.ndarray = units < last
    gone[np.flatnonzero(units == last)[: count - int(gone.sum())]] = True
    return gone


def _values(weight: Weight) -> np.ndarray:
    values: np.ndarray = weight.tensor.double().cpu().numpy()
    return values


def _input_axis(weight: Weight) -> int:
    return 0 if isinstance(weight.module, TRANSPOSED) else 1


def _by_inputs(weight: Weight, array: np.ndarray) -> np.ndarray:
    """With the inputs as the last axis, as products of matrices run over them."""
    moved: np.ndarray = np.moveaxis(array, _input_axis(weight), -1)
    return moved


def _lamp(magnitudes: np.ndarray) -> np.ndarray:
    squares: np.ndarray = np.square(magnitudes).reshape(-1)
    order = np.argsort(squares, kind="stable")
    rest = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    np.divide(squares[order], rest, out=rest, where=rest > 0)
    scores[order] = rest
    shaped: np.ndarray = scores.reshape(magnitudes.shape)
    return shaped


def _taylor(weights: list[Weight], network: nn.Module, ground: Ground) -> list[np.ndarray]:
    """The squares of weight times gradient, summed over batches."""
    batches = drawn(network, ground, BATCHES * BATCH, BATCH)
    was, sums = network.training, [torch.zeros_like(one.tensor).double() for one in weights]
    network.eval()
    tensors = [getattr(one.module, one.kind) for one in weights]
    if not all(one.requires_grad for one in tensors):
        raise Unsupported("a chosen layer does not learn: it has no gradients", hint="score: l1")
    recurrent = any(isinstance(one, RECURRENT) for one in network.modules())
    try:
        for i, batch in enumerate(batches):
            # cuDNN's recurrent layers have gradients in training mode alone.
            with torch.enable_grad(), torch.backends.cudnn.flags(enabled=not recurrent):
                tensors = [getattr(one.module, one.kind) for one in weights]
                loss = ground.loss(network(*batch.inputs), batch.targets)
                grads = torch.autograd.grad(loss, tensors, allow_unused=True)
            for one, tensor, grad in zip(sums, tensors, grads, strict=True):
                if grad is not None:
                    one += (tensor.detach() * grad).double().square()
            ground.progress("looking at gradients", i + 1, len(batches))
    finally:
        network.train(was)
    return [one.cpu().numpy() for one in sums]

"""Structured pruning: whole channels, heads and units go, as many as the device's time asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from torch import Tensor, nn

from edgedl.core.errors import BadValue, Unsupported, nearest
from edgedl.train.augment import Batch
from edgedl.train.bounds import above, within
from edgedl.train.bounds import least as at_least
from edgedl.train.shrink.cutting import apply_cut, proved, tried
from edgedl.train.shrink.ground import drawn
from edgedl.train.shrink.groups import Structure, groups_of
from edgedl.train.shrink.refit import refit
from edgedl.train.shrink.scores import Score, scores_of
from edgedl.train.shrink.step import Change, Ground, Training
from edgedl.train.shrink.widths import (
    Prices,
    best_widths,
    even_widths,
    even_within,
    macs,
    shapes_of,
)

SAMPLES, BATCH = 512, 64


@dataclass(frozen=True, kw_only=True)
class Prune(Training):
    """Cuts channels, chosen by their scores and by what they cost, out of a network.

    One of `latency`, `macs` and `ratio` says how much stays.

    Attributes:
        latency: share of the summed time of all layers on the target, in the precision that ships.
        macs: share of multiplications, for comparison or where nothing can be timed.
        ratio: share of each group's channels.
        score: what a channel is worth; see `edgedl.train.shrink.scores`.
        scope: `global`: each group keeps what is worth most for its price; `layer`: all keep the
            same share. `ratio` is by layer.
        rounds: cut and train so often, each by the same share.
        keep: names of layers, with `*` and `?`, whose channels all stay.
        round_to: widths are multiples of it; None: of 1, 4 or 8 by their size.
        least: channels that stay of each group.
        refit_weights: whether the weights that stay are solved for what their layers gave before
            the cut, by `edgedl.train.shrink.refit`, ahead of training.
    """

    name: Literal["prune"] = "prune"
    latency: float | None = None
    macs: float | None = None
    ratio: float | None = None
    score: Literal["l1", "l2", "bn", "taylor", "activation"] = "taylor"
    scope: Literal["global", "layer"] = "global"
    rounds: int = 1
    keep: tuple[str, ...] = ()
    round_to: int | None = None
    least: int = 4
    refit_weights: bool = True

    def __post_init__(self) -> None:
        asked = [n for n in ("latency", "macs", "ratio") if getattr(self, n) is not None]
        if len(asked) != 1:
            said = " and ".join(f"`{n}`" for n in asked) or "none of them"
            raise BadValue(
                f"one of `latency`, `macs` and `ratio` says how much stays, and here stands {said}",
                keys=(asked[-1],) if asked else (),
                hint="latency: 0.5",
            )
        above(self, 0, *asked)
        within(self, 0, 1, *asked)
        at_least(self, 1, "rounds", "least", *(["round_to"] if self.round_to is not None else []))
        super().__post_init__()

    @property
    def promise(self) -> Literal["speed"]:
        """It has to be faster on the target."""
        return "speed"

    @property
    def is_priced(self) -> bool:
        """By latency alone."""
        return self.latency is not None

    @property
    def share(self) -> float:
        """What stays of what there is in each round, so that all rounds together come to what was
        asked for."""
        asked = next(n for n in (self.latency, self.macs, self.ratio) if n is not None)
        return float(asked ** (1 / self.rounds))

    def check(self, network: nn.Module, ground: Ground) -> None:
        """That something can be cut, and as much as is asked for where no engine is asked."""
        structure, batches = self._structure(network, ground)
        score: Score = "bn" if self.score == "bn" else "l1"
        scores = scores_of(network, structure, score, batches=batches)
        if self.latency is None:
            price = Prices(macs)
            self._kept(structure, scores, price, float(sum(price(shapes_of(structure, {})))))

    def decide(self, network: nn.Module, ground: Ground, round_: int) -> Change:  # noqa: ARG002
        """What to cut, as plain data.

        `cut`: by group the channels to remove; `widths`: by group its channels before and after;
        `price`: of all layers `before` and `after`, in `unit`; `fixed`: what could not be cut, and
        why; `plan`: what `apply` does.

        Raises:
            Unsupported: no engine times layers, or the network has nothing that can be cut, or
                cannot be followed.
            BadValue: `keep` names no layer.
            OutOfReach: the share cannot be met.
        """
        if self.latency is not None and ground.price is None:
            raise Unsupported(
                "`latency` needs layers timed on the target, and none of its engines can be",
                hint="macs: 0.5 goes by multiplications instead",
            )
        structure, batches = self._structure(network, ground)
        scores = scores_of(
            network, structure, self.score, batches=batches, loss=ground.loss, seed=ground.seed
        )
        timed = self.latency is not None
        price = Prices(ground.price if timed and ground.price is not None else macs)
        before = float(sum(price(shapes_of(structure, {}))))
        kept = self._kept(structure, scores, price, before)
        gone = {
            group.name: _worst(scores[group.name], group.unit, group.size - kept[group.name])
            for group in structure.groups
            if kept[group.name] < group.size
        }
        after = float(sum(price(shapes_of(structure, kept))))
        return {
            "cut": gone,
            "widths": {g.name: [g.size, kept[g.name]] for g in structure.groups},
            "price": {"before": before, "after": after, "unit": "us" if timed else "macs"},
            "fixed": dict(structure.fixed),
            "plan": tried(network, structure, gone),
        }

    def refit(self, network: nn.Module, change: Change, ground: Ground) -> Mapping[str, Tensor]:
        """Weights with which the layers that stay give what they gave."""
        if not self.refit_weights:
            return {}
        batches = drawn(network, ground, SAMPLES, BATCH)
        return refit(
            network, change["plan"], batches,
            seed=ground.seed, keeps_zeros=ground.keeps_zeros, progress=ground.progress,
        )  # fmt: skip

    def apply(self, network: nn.Module, change: Change) -> None:
        """Cuts, in place."""
        apply_cut(network, change["plan"])

    def settle(self, network: nn.Module) -> None:
        """Nothing: what is cut is gone."""

    def _structure(self, network: nn.Module, ground: Ground) -> tuple[Structure, list[Batch]]:
        """What can be cut, and samples to score it by."""
        batches = drawn(network, ground, SAMPLES, BATCH)
        inputs = tuple(one[:2] if len(one) > 1 else one.repeat_interleave(2, 0)
                       for one in batches[0].inputs)  # fmt: skip
        return self._free(proved(network, groups_of(network, inputs))), batches

    def _free(self, structure: Structure) -> Structure:
        """Without the groups of layers to keep."""
        names = {layer.name for layer in structure.layers} | set(structure.parts)
        for pattern in self.keep:
            if not any(fnmatchcase(name, pattern) for name in names):
                message = f"`keep` names `{pattern}`, and the network has no such layer"
                raise BadValue(message, keys=("keep",), hint=nearest(pattern, names))

        def kept(name: str) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in self.keep)

        makers = {group for layer in structure.layers if kept(layer.name) for group in layer.makes}
        groups = tuple(
            one for one in structure.groups if one.name not in makers and not kept(one.name)
        )
        if not groups:
            why = "; ".join(f"`{name}`: {reason}" for name, reason in structure.fixed.items())
            raise Unsupported(
                f"nothing of the network can be cut ({why or 'all of it is to be kept'})",
                hint="fewer layers under `keep`, or another step: low_rank",
            )
        return replace(
            structure, groups=groups, parts={g.name: structure.parts[g.name] for g in groups}
        )

    def _kept(
        self, structure: Structure, scores: Mapping[str, np.ndarray], price: Prices, before: float
    ) -> Mapping[str, int]:
        """The channels that each group keeps."""
        step, fewest = self.round_to, self.least
        if self.ratio is not None:
            return even_widths(structure, self.share, step=step, least=fewest)
        budget = before * self.share
        if self.scope == "layer":
            return even_within(structure, price, budget, step=step, least=fewest)
        return best_widths(structure, scores, price, budget, step=step, least=fewest).kept


def _worst(scores: np.ndarray, unit: int, count: int) -> list[int]:
    """The channels of least score, so many, in order."""
    order = np.argsort(scores, kind="stable")[: count // unit]
    return [int(one * unit + i) for one in np.sort(order) for i in range(unit)]

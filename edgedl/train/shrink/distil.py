"""Training on, under the guide that the recipe's `distil:` names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgedl.train.shrink.step import Change, Ground, Training

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class Distil(Training):
    """Changes nothing: the training behind it is what it does, taught as the recipe's `distil:`
    says, as is all training of the recipe.
    """

    needs_guide: ClassVar[bool] = True

    name: Literal["distil"] = "distil"

    @property
    def promise(self) -> Literal["accuracy"]:
        """What it is judged by."""
        return "accuracy"

    def decide(self, network: nn.Module, ground: Ground, round_: int) -> Change:  # noqa: ARG002
        """Nothing."""
        return {}

    def apply(self, network: nn.Module, change: Change) -> None:
        """The network stays."""

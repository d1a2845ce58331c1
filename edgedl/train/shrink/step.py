"""What every shrinking step is, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from edgedl.core.layers import Price
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.bounds import above, least

if TYPE_CHECKING:
    from torch import Tensor, nn

# Plain data, as JSON holds it: what a step does to a network, all decided.
Change = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every step says of the training that follows each of its rounds; what is None is as the
    recipe's `train:` has it.

    Attributes:
        epochs: None: a third of the recipe's, at least 1.
        lr: None: a tenth of the recipe's.
    """

    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            least(self, 0, "epochs")
        if self.lr is not None:
            above(self, 0, "lr")

    def refit(self, network: nn.Module, change: Change, ground: Ground) -> Mapping[str, Tensor]:  # noqa: ARG002
        """No weights; see `Step`."""
        return {}


@dataclass(frozen=True)
class Ground:
    """What a step decides on.

    Attributes:
        train: samples with labels where there are any.
        loss: the mean loss of outputs for a batch's targets, as training has it; gradients pass.
        price: None where no engine of the target can be timed.
        target: `input`: that is learned, whatever labels there are; `answers`: there is nothing to
            learn but a teacher's answers; None: the labels are, or the input where there are none.
        seed: of all that is drawn.
        keeps_zeros: whether zeros in weights are an earlier step's, which `refit` leaves alone.
    """

    train: Samples
    loss: Callable[[Any, Tensor], Tensor]
    price: Price | None
    target: Literal["input", "labels", "answers"] | None = None
    seed: int = 0
    progress: Progress = silent
    keeps_zeros: bool = False


class Step(Protocol):
    """One step, a frozen dataclass whose fields are its settings in the recipe; a `Training`.

    `check` raises, before anything is trained, what `decide` would whatever was learned. `decide`
    looks and gives plain data; `apply` does it in place, the same each time it is called
    on the same network; `refit` gives, of a network before a change, what some of its parameters
    had better be behind it, in the shapes that they have then; what must hold while the network is
    trained is put there as parametrizations, which `settle` makes plain weights again. Where it
    would win nothing, `decide` raises `NoGain`, and where the network lets go less than is asked
    for, `OutOfReach`: the line leaves it out and says so.

    Attributes:
        name: in the recipe.
        promise: what the step is judged by: it is rolled back where it did not come true.
        is_priced: whether `decide` asks for the price of layers on the target.
        rounds: how often it is decided, applied and trained.
    """

    @property
    def name(self) -> str: ...
    @property
    def promise(self) -> Literal["speed", "bytes", "accuracy"]: ...
    @property
    def is_priced(self) -> bool: ...
    @property
    def rounds(self) -> int: ...
    @property
    def epochs(self) -> int | None: ...
    @property
    def lr(self) -> float | None: ...
    def check(self, network: nn.Module, ground: Ground) -> None: ...
    def decide(self, network: nn.Module, ground: Ground, round_: int) -> Change: ...
    def refit(self, network: nn.Module, change: Change, ground: Ground) -> Mapping[str, Tensor]: ...
    def apply(self, network: nn.Module, change: Change) -> None: ...
    def settle(self, network: nn.Module) -> None: ...

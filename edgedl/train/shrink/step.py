"""What every shrinking step is, and what it may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

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
    """What every step stands on: what it says of the training that follows each of its rounds, None
    being as the recipe's `train:` has it, and what most steps have in common.

    Attributes:
        epochs: None: a third of the recipe's, at least 1.
        lr: None: a tenth of the recipe's.
    """

    needs_guide: ClassVar[bool] = False
    makes_zeros: ClassVar[bool] = False
    holds_zeros: ClassVar[bool] = False
    undone_by_training: ClassVar[str] = ""

    epochs: int | None = None
    lr: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is not None:
            least(self, 0, "epochs")
        if self.lr is not None:
            above(self, 0, "lr")

    @property
    def rounds(self) -> int:
        """Once."""
        return 1

    @property
    def is_priced(self) -> bool:
        """Never."""
        return False

    def check(self, network: nn.Module, ground: Ground) -> None:
        """Nothing."""

    def foreseen(self, network: nn.Module, ground: Ground) -> nn.Module | None:  # noqa: ARG002
        """No other network; see `Step`."""
        return None

    def refit(self, network: nn.Module, change: Change, ground: Ground) -> Mapping[str, Tensor]:  # noqa: ARG002
        """No weights; see `Step`."""
        return {}

    def settle(self, network: nn.Module) -> None:
        """There is nothing to settle."""


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
    """One step: a frozen dataclass whose fields are its settings in the recipe. It stands on
    `Training`, and has `name`, `promise`, `decide` and `apply` of its own.

    Attributes:
        name: in the recipe and in the table `STEPS`.
        promise: what the step is judged by: it is rolled back where it did not come true.
        is_priced: whether `decide` asks for the price of layers on the target.
        rounds: how often it is decided, applied and trained.
        needs_guide: whether the recipe has to have a `distil:`.
        makes_zeros: whether weights are zero behind it, which later training keeps zero.
        holds_zeros: whether zeros stay zero in its own training without that.
        undone_by_training: what later training would undo, in the plural; such a step comes last.
            Empty: nothing.
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

    needs_guide: ClassVar[bool]
    makes_zeros: ClassVar[bool]
    holds_zeros: ClassVar[bool]
    undone_by_training: ClassVar[str]

    def check(self, network: nn.Module, ground: Ground) -> None:
        """Raise, before anything is trained, what `decide` would whatever is learned."""

    def foreseen(self, network: nn.Module, ground: Ground) -> nn.Module | None:
        """A copy of the network as it may be behind the step, on which later steps are checked as
        well; None where the network alone will do."""

    def decide(self, network: nn.Module, ground: Ground, round_: int) -> Change:
        """What to do, as plain JSON; the network stays as it is.

        Args:
            round_: counted from 0.

        Raises:
            NoGain: it would win nothing: the line leaves the step out and says so.
            OutOfReach: the network lets go less than is asked for: likewise, with the least.
        """

    def refit(self, network: nn.Module, change: Change, ground: Ground) -> Mapping[str, Tensor]:
        """Of the network before the change: what some of its parameters had better be behind it, by
        name, in the shapes that they have then."""

    def apply(self, network: nn.Module, change: Change) -> None:
        """Do it in place, the same each time on the same network. What has to hold while the
        network is trained is put there as parametrizations."""

    def settle(self, network: nn.Module) -> None:
        """Make parametrizations plain weights again, once the network is trained."""

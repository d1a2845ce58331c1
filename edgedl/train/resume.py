"""A run that may be killed at any moment: where it stands, kept in its folder, and found again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgedl.core.errors import BadCheckpoint, Diverged, EdgeError
from edgedl.core.fields import to_plain
from edgedl.train import checkpoint
from edgedl.train.batches import Data
from edgedl.train.ema import Average
from edgedl.train.processes import Processes
from edgedl.train.settings import Fit
from edgedl.train.sharded import gathered, load_state
from edgedl.train.track import Epoch

FORMAT = 1
LAST, BEST = "last.safetensors", "best.safetensors"
# What a process that was killed while it wrote one of them leaves behind.
LEFT = ".*.safetensors.*.tmp"
# Settings that change nothing in the weights that come out.
FREE = ("metric", "checkpoint_seconds", "track", "memory", "threads", "divide")


@dataclass
class Place:
    """Where a run stands.

    Attributes:
        history: its finished epochs.
        step: steps done of the epoch under way.
        loss: the sum over the samples of these steps.
        seconds: that they took.
    """

    history: list[Epoch] = field(default_factory=list)
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0

    @property
    def best(self) -> int:
        """The number of the best epoch, the first of equals; a score that is NaN is the worst."""
        scores = [-math.inf if math.isnan(e.better) else e.better for e in self.history]
        return scores.index(max(scores)) + 1

    def is_over(self, settings: Fit) -> bool:
        """Whether all epochs are done, or too many were no better than the best before them."""
        done = len(self.history)
        if done >= settings.epochs:
            return True
        return bool(done and settings.patience and done - self.best >= settings.patience)


@dataclass(frozen=True, eq=False)
class Run:
    """All that changes while a network learns, and the folder that it is kept in.

    Attributes:
        identity: what must be the same for the run to go on: plain JSON.
        adapters: what is learned along with the network, and is no part of it.
    """

    folder: Path
    identity: dict[str, Any]
    network: nn.Module
    average: Average | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    processes: Processes
    adapters: nn.Module | None = None

    def save(self, place: Place) -> None:
        """Write all of it, from the first process; the checkpoint before stays until that is done.

        Divided tensors are written whole: the file is the same however many processes there are.

        Raises:
            Diverged: a weight is not finite; nothing is written.
            EdgeError: it cannot be written.
        """
        states = self.processes.gather(checkpoint.random_states(self.processes.device))
        beside = {} if self.adapters is None else self.adapters.state_dict()
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= {f"adapters.{name}": tensor for name, tensor in beside.items()}
        tensors = gathered(tensors, self.processes)
        if not all_finite(tensors):
            epoch, step = len(place.history), place.step
            when = (
                f"in step {step} of epoch {epoch + 1}" if step else f"at the end of epoch {epoch}"
            )
            raise diverged(f"a weight is not finite {when}", self.folder)
        if self.average is not None:
            average = gathered(self.average.settled().state_dict(), self.processes)
            tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
        remembered, rest = checkpoint.optimizer_tensors(self.optimizer)
        remembered = gathered(remembered, self.processes)
        tensors |= {f"optimizer.{name}": tensor for name, tensor in remembered.items()}
        if not self.processes.is_first:
            return
        tensors |= {f"random.{rank}": state for rank, state in enumerate(states)}
        document = {
            "identity": self.identity,
            "history": [epoch.to_json() for epoch in place.history],
            "step": place.step,
            "loss": place.loss,
            "seconds": place.seconds,
            "optimizer": rest,
            "averaged": self.average.steps if self.average is not None else 0,
            "scaler": self.scaler.state_dict(),
        }
        checkpoint.write(self.folder / LAST, tensors, document)

    def save_best(self, place: Place, metric: str) -> None:
        """Write the weights alone, those of the average where there is one."""
        network = self.network if self.average is None else self.average.settled()
        tensors = gathered(network.state_dict(), self.processes)
        if self.processes.is_first:
            epoch = place.history[-1]
            document = {"epoch": epoch.number, "metric": metric, "score": epoch.score}
            checkpoint.write(self.folder / BEST, tensors, document)

    def resume(self) -> Place:
        """Where the run stands, all of it as it was then; its beginning where nothing is there.

        What a killed process had half written is removed.

        Raises:
            BadCheckpoint: the checkpoint is damaged, or another run's; what differs is named.
        """
        path = self.folder / LAST
        if self.processes.is_first:
            for left in self.folder.glob(LEFT):
                left.unlink(missing_ok=True)
        if not path.exists():
            return Place()
        tensors, document = checkpoint.read(path)
        if said := checkpoint.differing(document.get("identity", {}), self.identity):
            raise BadCheckpoint(
                f"the run in this folder is another one: {said}",
                where=str(path),
                hint=f"to begin anew, remove the folder: rm -r '{self.folder}'",
            )

        def part(prefix: str) -> dict[str, torch.Tensor]:
            return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}

        load_state(self.network, part("network."))
        if self.average is not None:
            load_state(self.average.network, part("average."))
            self.average.steps = document["averaged"]
        if self.adapters is not None:
            self.adapters.load_state_dict(part("adapters."))
        checkpoint.restore_optimizer(self.optimizer, part("optimizer."), document["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(document["scaler"])
        if (state := tensors.get(f"random.{self.processes.rank}")) is not None:
            checkpoint.restore_random_states(state, self.processes.device)
        history = [Epoch(**row) for row in document["history"]]
        return Place(history, document["step"], document["loss"], document["seconds"])


def identity_of(
    network: nn.Module,
    train: Data,
    validation: Data,
    settings: Fit,
    seed: int,
    metric: str,
    guide: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What makes a run this run and no other.

    Args:
        guide: what tells its teacher; a run without one says nothing of it.
    """
    plain = to_plain(settings)
    taught = {} if guide is None else {"guide": dict(guide)}
    return {
        "format": FORMAT,
        "network": checkpoint.tensors_of(network),
        "layers": checkpoint.modules_of(network),
        "settings": {name: value for name, value in plain.items() if name not in FREE},
        "data": {"train": train.digest, "validation": validation.digest},
        "seed": seed,
        "metric": metric,
        **taught,
    }


def make_folder(folder: Path) -> None:
    """Make a run's folder, if it is not there yet.

    Raises:
        EdgeError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EdgeError(
            f"cannot be made ({error.strerror})",
            where=str(folder),
            hint="name a folder where you may write",
        ) from error


def check_finite(
    sums: Sequence[float], place: Place, folder: Path, why: Callable[[int], str]
) -> None:
    """Check the losses of the last steps.

    Args:
        why: what may be wrong with the batch of a step, for the hint.

    Raises:
        Diverged: one is not finite.
    """
    for i, one in enumerate(sums):
        if not math.isfinite(one):
            step = place.step - len(sums) + i + 1
            said = f"the loss is {one} at epoch {len(place.history) + 1}, step {step}"
            raise diverged(said, folder, why(step - 1))


def diverged(what: str, folder: Path, why: str = "") -> Diverged:
    """The error of a run that left the finite numbers."""
    last = folder / LAST
    kept = f"; the last good checkpoint is kept: `{last}`" if last.exists() else ""
    return Diverged(
        f"{what}{kept}",
        where=str(folder),
        hint=why or "a lower `lr`, a longer warm-up, or `clip: 1.0`",
    )


@torch.no_grad()
def all_finite(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether all numbers are, of those that are real."""
    reals = [t for t in tensors.values() if t.is_floating_point()]
    return all(bool(torch.isfinite(one).all()) for one in reals)

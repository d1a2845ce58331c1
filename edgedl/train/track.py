"""Figures of each epoch: JSON lines beside the checkpoints, and to services that are installed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgedl.core.errors import EdgeError, first_line
from edgedl.core.registry import load
from edgedl.core.store import atomic_write

LOG = "log.jsonl"
Told = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        number: from 1.
        loss: mean over the samples that were learned from.
        validation_loss: mean over those that were not.
        score: the metric's figure, in its field's direction; the validation loss without one.
        better: the same, turned so that more is better.
        rate: of the optimizer in the last step.
        seconds: of training, without what a kill lost.
        samples: that were learned from.
    """

    number: int
    loss: float
    validation_loss: float
    score: float
    better: float
    rate: float
    seconds: float
    samples: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def figures(self, metric: str) -> dict[str, float]:
        """What people look at, by name."""
        return {
            "loss": self.loss,
            "validation_loss": self.validation_loss,
            metric: self.score,
            "rate": self.rate,
            "samples_per_second": self.samples / self.seconds if self.seconds > 0 else 0.0,
        }


def line_of(epoch: Epoch, metric: str) -> str:
    """An epoch as a line of the log; figures that are not finite are null."""
    row = {"epoch": epoch.number, **epoch.figures(metric), "seconds": round(epoch.seconds, 3)}
    return json.dumps({k: v if abs(v) < float("inf") else None for k, v in row.items()})


def write_log(path: Path, history: Iterable[Epoch], metric: str) -> None:
    """The log anew, with these epochs: a line that a kill cut in half is gone.

    Raises:
        EdgeError: it cannot be written.
    """
    with atomic_write(path) as work:
        work.write_text("".join(line_of(epoch, metric) + "\n" for epoch in history))


def add_line(path: Path, epoch: Epoch, metric: str) -> None:
    """One more epoch.

    Raises:
        EdgeError: it cannot be written.
    """
    try:
        with path.open("a") as file:
            file.write(line_of(epoch, metric) + "\n")
    except OSError as error:
        raise EdgeError(
            f"cannot be written ({error.strerror})",
            where=str(path),
            hint="make room and start again: it goes on from the last checkpoint",
        ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, as far as they are whole."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def trackers(names: Sequence[str], folder: Path, after: int) -> list[Told]:
    """What tells each of these services of an epoch's figures.

    Args:
        folder: of the run; what a service needs to go on after a kill lies there, too.
        after: epochs that were told of before.

    Raises:
        Missing: a service's package is not installed.
    """
    known = {"tensorboard": _tensorboard, "mlflow": _mlflow}
    return [_guarded(name, _guarded(name, known[name])(folder, after)) for name in names]


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, whatever a service raises told as an error that the user can put right."""

    def call(*given: Any) -> Any:
        try:
            return function(*given)
        except EdgeError:
            raise
        except Exception as error:
            raise EdgeError(
                f"{name} failed ({first_line(error, 200)})",
                hint="mend it, or leave it out of `track`, and start again: training goes on",
            ) from error

    return call


def _tensorboard(folder: Path, after: int) -> Told:
    make = load("torch.utils.tensorboard:SummaryWriter", "`track: tensorboard`")
    writer = make(str(folder / "tensorboard"), purge_step=after + 1 if after else None)

    def tell(epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    return tell


def _mlflow(folder: Path, after: int) -> Told:
    client = load("mlflow:MlflowClient", "`track: mlflow`")()
    place = folder / "mlflow.txt"
    if after and place.exists():
        run = place.read_text()
    else:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "edgedl")
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        run = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        with atomic_write(place) as work:
            work.write_text(run)

    def tell(epoch: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            client.log_metric(run, name.replace("@", "_at_"), value, step=epoch)

    return tell

"""How well a network answers samples that it does not learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.train.augment import Batch
from edgedl.train.batches import Data, groups_of
from edgedl.train.losses import PerSample
from edgedl.train.processes import Processes

Answers = dict[str, np.ndarray]
Figure = Callable[[Answers, "np.ndarray | None"], float]


@runtime_checkable
class Score(Protocol):
    """A figure of answers and labels: what `edgedl.benchmark.metrics.metric_of` gives is one."""

    @property
    def name(self) -> str:
        """What the figure is called."""

    def rows(self, answered: Iterable[tuple[Mapping[str, np.ndarray], Any, Any]]) -> list[Any]:
        """A row for each sample, of its answers, its label and its inputs; all but the label have
        a batch axis of 1."""

    def total(self, rows: Sequence[Any]) -> float:
        """The figure of all rows."""

    def turned(self, value: float) -> float:
        """The same, turned so that more is better."""


def name_of(score: Score | Figure | None) -> str:
    """What a score is called; without one, it is the loss."""
    if score is None:
        return "validation_loss"
    if isinstance(score, Score):
        return score.name
    return str(getattr(score, "__name__", "score"))


@torch.no_grad()
def validate(
    network: nn.Module,
    data: Data,
    loss: PerSample,
    score: Score | Figure | None,
    processes: Processes,
    prepare: Callable[[Batch], Batch],
    size: int,
) -> tuple[float, float, float]:
    """The mean loss, the score, and the score turned so that more is better.

    The network answers in float32, as it will once it is exported. Each process answers its part
    of each batch; all see all answers.
    """
    network.eval()
    kept: list[Any] = []
    total = 0.0
    groups = groups_of(np.arange(len(data)), size, whole=False)
    parts = [_filled(processes.part(group), group, processes.count) for group in groups]
    for group, batch in zip(groups, data.stream(parts), strict=True):
        batch = prepare(batch)
        outputs = network(*batch.inputs)
        losses = _whole(loss(outputs, batch.targets), group, processes)
        total += float(losses.double().sum())
        answers = {
            name: _whole(one, group, processes).cpu().numpy() for name, one in named(outputs)
        }
        if isinstance(score, Score):
            kept += score.rows(_each(answers, data, group))
        elif score is not None:
            kept.append(answers)
    mean = total / len(data)
    if score is None:
        return mean, mean, -mean
    if isinstance(score, Score):
        figure = float(score.total(kept))
        return mean, figure, float(score.turned(figure))
    all_answers = {name: np.concatenate([one[name] for one in kept]) for name in kept[0]}
    figure = float(score(all_answers, data.samples.chosen_labels))
    return mean, figure, -figure if getattr(score, "lower_is_better", False) else figure


def rehearse(
    network: nn.Module, data: Data, score: Score | Figure | None, prepare: Callable[[Batch], Batch]
) -> Any:
    """The network's outputs for two samples: what does not fit is told before a long training."""
    network.eval()
    group = np.arange(min(2, len(data)))
    with torch.no_grad():
        outputs = network(*prepare(data.batch(group)).inputs)
    answers = {name: one.float().cpu().numpy() for name, one in named(outputs)}
    if isinstance(score, Score):
        score.rows(_each(answers, data, group))
    return outputs


def named(outputs: Any) -> list[tuple[str, Tensor]]:
    """A network's outputs by name: `output` for one, `output_0` and so on for a tuple."""
    if isinstance(outputs, Mapping):
        return list(outputs.items())
    if isinstance(outputs, (tuple, list)):
        return [(f"output_{i}", one) for i, one in enumerate(outputs)]
    return [("output", outputs)]


def _filled(part: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """As many rows for each process, since only equal shapes can be gathered."""
    most = -(-len(group) // count)
    return np.concatenate([part, np.repeat(group[-1:], most - len(part))])


def _whole(ours: Tensor, group: np.ndarray, processes: Processes) -> Tensor:
    """All processes' rows of a batch in order, without those that only filled up."""
    if processes.count == 1:
        return ours.float() if ours.is_floating_point() else ours
    found = processes.gather(ours.float() if ours.is_floating_point() else ours)
    places = np.arange(len(group))
    lengths = [len(Processes(r, processes.count, processes.device).part(places))
               for r in range(processes.count)]  # fmt: skip
    return torch.cat([one[:length] for one, length in zip(found, lengths, strict=True)])


def _each(answers: Answers, data: Data, group: np.ndarray) -> Iterator[tuple[Answers, Any, Any]]:
    labels = data.samples.chosen_labels
    for i, place in enumerate(group):
        label = None if labels is None else labels[place]
        feed = _Feed(data, int(place))
        yield {name: one[i : i + 1] for name, one in answers.items()}, label, feed


class _Feed(Mapping[str, np.ndarray]):
    """One sample's inputs, fetched when a metric looks at them."""

    def __init__(self, data: Data, place: int) -> None:
        self._data, self._place = data, place

    def __getitem__(self, name: str) -> np.ndarray:
        [batch] = [self._data.batch(np.array([self._place]))]
        found = dict(zip(self._data.names, batch.inputs, strict=True))
        return found[name].cpu().numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._data.names)

    def __len__(self) -> int:
        return len(self._data.names)

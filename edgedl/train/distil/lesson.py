"""A teacher in one run: its answers to each batch, asked or kept, and what is learned from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgedl.core.fields import to_plain
from edgedl.core.progress import Progress
from edgedl.core.store import key_of
from edgedl.train.augment import Batch
from edgedl.train.batches import Data, groups_of
from edgedl.train.checkpoint import random_states, restore_random_states
from edgedl.train.distil.kept import Kept, compute, opened
from edgedl.train.distil.layers import Learner, related
from edgedl.train.distil.pairs import Pair, packed, soft, unpacked
from edgedl.train.distil.settings import Distillation
from edgedl.train.distil.teacher import Ask
from edgedl.train.processes import Processes
from edgedl.train.settings import Fit
from edgedl.train.validate import named

Parts = Sequence[np.ndarray]
# This process's batches of an epoch from one on, changed by chance as that epoch has it.
Stream = Callable[[Parts, int], Iterator[Batch]]
Prepare = Callable[[Batch], Batch]

# Samples that are answered together where it is not batches that are.
CHUNK = 64


@dataclass(eq=False)
class Lesson:
    """A guide, in one run.

    Attributes:
        teacher: its key.
        learner: what is called and learned in the network's place, where layers are looked into.
        alone: whether only the teacher teaches.
    """

    told: Distillation
    teacher: str
    folder: Path
    ask: Ask
    pairs: tuple[Pair, ...]
    learner: Learner | None
    alone: bool
    settings: Fit
    seed: int
    processes: Processes
    prepare: Prepare
    progress: Progress
    _kept: Kept | None = None
    _places: Parts = ()
    _view: int | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What of it changes the weights that come out, plain JSON."""
        return {**to_plain(self.told), "teacher": self.teacher}

    @property
    def adapters(self) -> nn.Module | None:
        """What is learned along with the network, and is no part of it."""
        return None if self.learner is None else self.learner.adapters

    def turn(self, epoch: int) -> int:
        """The epoch whose order and chances this one has."""
        views = self.told.views
        return epoch % views if views and self.settings.augment else epoch

    def open(self, data: Data, turn: int, parts: Parts, stream: Stream) -> None:
        """Have the answers to an epoch's batches ready, where they are kept: computed now, if they
        are not there yet.

        Args:
            parts: the places of this process's samples in each batch.
        """
        views = self.told.views
        if not views:
            return
        if not self.settings.augment:
            self._kept = self._kept or self.answers(data)
            self._places = parts
            return
        ends = np.cumsum([0, *map(len, parts)])
        self._places = [np.arange(ends[i], ends[i + 1]) for i in range(len(parts))]
        if self._view == turn:
            return
        view = {"turn": turn, "seed": self.seed, "batch": self.settings.batch,
                "balance": self.settings.balance, "augment": to_plain(self.settings.augment),
                "count": self.processes.count}  # fmt: skip
        label = f"the teacher's answers, view {turn + 1} of {views}"
        path = self._path(data, view, self.processes.rank)
        self._compute(path, parts, stream, label)
        self._kept = Kept((self._opened(path, int(ends[-1])),), (int(ends[-1]),))
        self._view = turn
        self.processes.wait()

    def answers(self, data: Data, label: str = "the teacher's answers") -> Kept:
        """Those to samples as they are, in their order, each process having computed its part."""
        count = self.processes.count
        parts = [
            Processes(rank, count, self.processes.device).part(np.arange(len(data)))
            for rank in range(count)
        ]
        view = {"count": count}

        def stream(groups: Parts, first: int) -> Iterator[Batch]:
            return map(self.prepare, data.stream(groups[first:]))

        ours = groups_of(parts[self.processes.rank], CHUNK, whole=False)
        self._compute(self._path(data, view, self.processes.rank), ours, stream, label)
        self.processes.wait()
        found = [self._opened(self._path(data, view, r), len(parts[r])) for r in range(count)]
        return Kept(tuple(found), tuple(np.cumsum([len(part) for part in parts]).tolist()))

    def judging(self, unseen: Data) -> Data:
        """Samples whose answers by the teacher are their targets."""
        found = self.answers(unseen, "the teacher's answers, validation")
        whole = found.maps[0] if len(found.maps) == 1 else np.concatenate(found.maps)
        return replace(unseen, targets=torch.from_numpy(whole))

    def judge(self, outputs: Any, targets: Tensor) -> Tensor:
        """What a network's outputs lack to such targets, [batch]."""
        return soft(self.pairs, outputs, targets, self.told.temperature)

    def given(self, batch: Batch, step: int) -> Batch:
        """A batch with the answers to it, where they are kept."""
        if self._kept is None:
            return batch
        rows = torch.from_numpy(self._kept.rows(self._places[step]))
        return replace(batch, answers=rows.to(self.processes.device, non_blocking=True))

    def losses(self, hard: Callable[[Any, Batch], Tensor], outputs: Any, batch: Batch) -> Tensor:
        """What a batch is learned by, [batch].

        Args:
            hard: the loss of outputs by the batch's labels.
            outputs: the learner's where there is one, else the network's.
        """
        ours: dict[str, Tensor] = {}
        adapted: list[Tensor] = []
        if self.learner is not None:
            outputs, ours, adapted = outputs
        theirs: dict[str, Tensor] = {}
        rows = batch.answers
        if rows is None:
            answers, theirs = self.ask(batch.inputs)
            rows = packed(self.pairs, answers) if self.pairs else None
        share = 1.0 if self.alone else self.told.weight
        parts = [(1 - share) * hard(outputs, batch)] if share < 1 else []
        if rows is not None and share:
            parts.append(share * soft(self.pairs, outputs, rows, self.told.temperature))
        relations = self.told.relations
        if rows is not None and relations is not None and relations.student is None:
            first = dict(named(outputs))[self.pairs[0].student]
            parts += related(relations, first, unpacked(self.pairs, rows)[0])
        if self.learner is not None:
            parts += self.learner.losses(ours, adapted, theirs)
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(dim=0)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(self.told.kept)

    @property
    def _width(self) -> int:
        return sum(pair.size for pair in self.pairs)

    def _compute(self, path: Path, parts: Parts, stream: Stream, label: str) -> None:
        def ask(first: int) -> Iterator[np.ndarray]:
            for batch in stream(parts, first):
                yield packed(self.pairs, self.ask(batch.inputs)[0]).cpu().numpy()

        before = random_states(self.processes.device)
        try:
            compute(path, parts, self._width, self._dtype, ask, label, self.progress)
        finally:
            restore_random_states(before, self.processes.device)

    def _opened(self, path: Path, rows: int) -> np.ndarray:
        return opened(path, rows, self._width, self._dtype)

    def _path(self, data: Data, view: dict[str, Any], rank: int) -> Path:
        key = key_of(
            teacher=self.teacher,
            samples=data.digest,
            outputs=[[pair.teacher, list(pair.shape)] for pair in self.pairs],
            kept=self.told.kept,
            view=view,
            layout=self.settings.channels_last,
            device=self.processes.device.type,
            torch=torch.__version__,
        )
        return self.folder / f"{key[:32]}-{rank}.npy"

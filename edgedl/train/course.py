"""The course of a training run: its epochs, and the steps that these are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgedl.core.progress import Progress
from edgedl.train.augment import Batch
from edgedl.train.batches import Data
from edgedl.train.distil.lesson import Lesson
from edgedl.train.epoch import groups_in, stream, suspects
from edgedl.train.losses import PerSample
from edgedl.train.resume import Place, Run, check_finite
from edgedl.train.schedules import share_of
from edgedl.train.settings import Fit
from edgedl.train.sharded import follow_first
from edgedl.train.track import LOG, Epoch, Told, add_line
from edgedl.train.validate import Figure, Score, validate

Clock = Callable[[], float]
Teach = Callable[[Any, Batch], Tensor]

# Losses stay on the device, and are looked at so often: each look waits for it.
LOOK = 16


@dataclass(frozen=True, eq=False)
class Step:
    """One step of learning.

    Attributes:
        forward: the network, and what is learned along with it, as processes share it.
        compiled: the same, compiled where the settings say so.
        teach: losses of outputs, [batch].
    """

    forward: nn.Module
    compiled: Callable[..., Any]
    teach: Teach
    run: Run
    settings: Fit

    def __call__(self, batch: Batch, whole: int) -> Tensor:
        """The sum of this process's losses; `whole` counts the batch of all processes."""
        run, settings = self.run, self.settings
        together = isinstance(self.forward, DistributedDataParallel)
        if run.processes.count > 1 and not together:
            follow_first(self.forward, run.processes)
        parts = batch.cut(settings.accumulate)
        sums = []
        for part in parts:
            # divided gradients are summed each time: whole ones would not fit
            alone = together and part is not parts[-1]
            with self.forward.no_sync() if alone else nullcontext():  # type: ignore[operator]
                sums.append(self._backward(part, whole))
        if settings.clip is not None:
            run.scaler.unscale_(run.optimizer)
            nn.utils.clip_grad_norm_(self.forward.parameters(), settings.clip)
        run.scaler.step(run.optimizer)
        run.scaler.update()
        run.optimizer.zero_grad()
        if run.average is not None:
            run.average.update()
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum()

    def _backward(self, part: Batch, whole: int) -> Tensor:
        processes = self.run.processes
        half = {"bf16": torch.bfloat16, "float16": torch.float16}.get(self.settings.precision)
        with torch.autocast(processes.device.type, half) if half else nullcontext():
            outputs = self.compiled(*part.inputs)
        losses = self.teach(outputs, part)
        # over processes the mean is taken; what counts is that over the samples of all
        counts = torch.full_like(losses, processes.count / whole)
        self.run.scaler.scale(losses).backward(counts)  # type: ignore[no-untyped-call]
        return losses.detach().sum()


@dataclass(frozen=True, eq=False)
class Course:
    """All that the epochs of a run need.

    Attributes:
        network: what is put into training; a run's own, divided or not.
        labels: of the samples to learn from, where there are any.
        has_boxes: whether labels are boxes, which move as their images do.
        loss, score: what is judged by.
        metric: the name of the score.
        lesson: what a teacher teaches; None without one.
        rates: of each group of the optimizer, which the schedule lowers.
        prepare: puts a batch into memory as the network wants it.
        tell: services that are told of each epoch.
    """

    network: nn.Module
    settings: Fit
    seed: int
    seen: Data
    unseen: Data
    labels: np.ndarray | None
    has_boxes: bool
    loss: PerSample
    score: Score | Figure | None
    metric: str
    lesson: Lesson | None
    run: Run
    step: Step
    rates: Sequence[float]
    prepare: Callable[[Batch], Batch]
    tell: Sequence[Told]
    progress: Progress
    clock: Clock

    def epoch(self, place: Place) -> Place:
        """Learn from all samples once, from the step on that `place` says, which moves on with
        each; where the run stands then, judged and kept.

        Raises:
            Diverged: a loss or a weight is not finite.
        """
        settings, processes, lesson = self.settings, self.run.processes, self.lesson
        number = len(place.history)
        turn = number if lesson is None else lesson.turn(number)
        groups = groups_in(self.seen, self.labels, settings, self.seed, turn, processes.count)
        parts = [processes.part(rows) for rows in groups]
        batches = partial(
            stream, self.seen, settings, self.seed, self.has_boxes, turn, processes, self.prepare
        )
        if lesson is not None:
            lesson.open(self.seen, turn, parts, batches)
        began = self.clock() - place.seconds
        self._learn(place, groups, batches(parts, place.step), began)
        return self._judged(place, sum(map(len, groups)), self.clock() - began)

    def _learn(
        self, place: Place, groups: list[np.ndarray], batches: Iterable[Batch], began: float
    ) -> None:
        """The steps that are left of an epoch, with checkpoints as time goes by."""
        settings, processes = self.settings, self.run.processes
        steps, number, saved = len(groups), len(place.history), self.clock()
        label = f"epoch {number + 1} of {settings.epochs}"
        sums: list[Tensor] = []
        self.network.train()
        for batch in batches:
            self._set_rates(steps * number + place.step, steps)
            if self.lesson is not None:
                batch = self.lesson.given(batch, place.step)
            sums.append(self.step(batch, len(groups[place.step])))
            del batch  # its memory serves the next one
            place.step += 1
            self.progress(label, place.step, steps)

            late = self.clock() - saved >= settings.checkpoint_seconds
            if place.step % LOOK == 0 or place.step == steps or (late and processes.count == 1):
                due = self._look(sums, place, groups, late)
                sums = []
                if due and place.step < steps:
                    place.seconds = self.clock() - began
                    self.run.save(place)
                    saved = self.clock()

    def _set_rates(self, done: int, steps: int) -> None:
        """By the schedule, after so many steps of so many an epoch."""
        share = share_of(self.settings.schedule, done, steps * self.settings.epochs, steps)
        for group, rate in zip(self.run.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

    def _look(
        self, sums: Sequence[Tensor], place: Place, groups: list[np.ndarray], late: bool
    ) -> bool:
        """Add the latest losses of all processes up; whether the first one finds it late."""
        processes = self.run.processes
        ours = [*torch.stack(list(sums)).tolist(), float(late and processes.is_first)]
        *losses, due = processes.sums(ours)
        check_finite(losses, place, self.run.folder, partial(suspects, self.seen, groups))
        for one in losses:
            place.loss += one
        return bool(due)

    def _judged(self, place: Place, learned: int, seconds: float) -> Place:
        """Where the run stands after an epoch of so many samples, kept and told of."""
        run = self.run
        judged = self.network if run.average is None else run.average.settled()
        figures = validate(
            judged, self.unseen, self.loss, self.score, run.processes, self.prepare,
            self.settings.batch,
        )  # fmt: skip
        rate, mean = run.optimizer.param_groups[0]["lr"], place.loss / learned
        latest = Epoch(len(place.history) + 1, mean, *figures, rate, seconds, learned)
        place = Place([*place.history, latest])
        if place.best == len(place.history):
            run.save_best(place, self.metric)
        run.save(place)
        if run.processes.is_first:
            add_line(run.folder / LOG, latest, self.metric)
        for told in self.tell:
            told(latest.number, latest.figures(self.metric))
        return place

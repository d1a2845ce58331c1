"""Training: one plain loop, which goes on where it was killed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgedl.core.errors import BadOption, BadValue, EdgeError, Unsupported
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.augment import Batch, augmented
from edgedl.train.batches import Data, groups_of, open_data, order_of
from edgedl.train.checkpoint import load_weights, random_states, restore_random_states
from edgedl.train.distil.guide import Guide
from edgedl.train.ema import Average
from edgedl.train.losses import PerSample, check_labels, chosen, loss_of
from edgedl.train.networks.deploy import boxes_of
from edgedl.train.optimizers import optimizer_of
from edgedl.train.processes import Processes, joined
from edgedl.train.resume import BEST, Place, Run, check_finite, identity_of, make_folder
from edgedl.train.schedules import share_of
from edgedl.train.settings import Fit
from edgedl.train.sharded import divided, divides, explained, follow_first
from edgedl.train.track import LOG, Epoch, add_line, trackers, write_log
from edgedl.train.validate import Figure, Score, name_of, rehearse, validate

__all__ = ["Epoch", "Fitted", "fit", "load_weights"]

Clock = Callable[[], float]
Teach = Callable[[Any, Batch], Tensor]

# Losses stay on the device, and are looked at so often: each look waits for it.
LOOK = 16


@dataclass(frozen=True)
class Fitted:
    """What training came to.

    Attributes:
        weights: of the best epoch, a safetensors file.
        metric: what was best by it.
        best: its figure then.
        epochs: how many were made.
        history: what each came to.
    """

    weights: Path
    metric: str
    best: float
    epochs: int
    history: tuple[Epoch, ...]


def fit(
    network: nn.Module,
    train: Samples,
    validation: Samples,
    settings: Fit,
    *,
    folder: Path,
    seed: int = 0,
    score: Score | Figure | None = None,
    guide: Guide | None = None,
    device: str = "auto",
    progress: Progress = silent,
    clock: Clock = time.monotonic,
) -> Fitted:
    """Train a network, which then has the weights of its best epoch, in evaluation mode.

    Killed at any moment and called again, it goes on at the last checkpoint in `folder`, and on
    the same device its weights come out as if nothing had happened. Under `torchrun` the processes
    share each batch, and its weights where the settings say so; all need to see the folder.

    Args:
        network: takes the samples' inputs in their order, each with a batch axis; gives a tensor,
            or a tuple or dict of them.
        settings: see `Fit`.
        folder: what comes to lie there: `last.safetensors`, all that the run needs to go on;
            `best.safetensors`, the weights; `log.jsonl`, a line an epoch.
        seed: of the order of samples, augmentation, and what else is drawn. Not of the network's
            first weights: the caller made them.
        score: what is best: a metric, as `edgedl.benchmark.metrics.metric_of` gives it, or a
            function of the outputs by name and the labels, more being better unless it has an
            attribute `lower_is_better`; None: the loss.
        guide: a teacher, which teaches beside the labels; alone where there are none and no loss
            or target is named: the loss in validation, too, is then what its answers make it.
        device: `auto`, or a name of torch's.
        clock: seconds, for checkpoints and for the log.

    Raises:
        BadCheckpoint: the folder holds another run, or a damaged checkpoint.
        BadSamples: samples or labels do not fit the network, the loss or one another.
        BadValue: the teacher does not fit them.
        Diverged: a loss is not finite.
        Missing: what `track` names is not installed.
        EdgeError: the folder cannot be written.
    """
    if seed < 0:
        raise BadOption(f"the seed is {seed}", hint="0 or more")
    if not settings.epochs:
        raise BadOption("there are no epochs to train", hint="epochs: 1")
    folder = Path(folder)
    processes = joined(device)
    with _reproducible(processes.device, seed, processes.rank):
        try:
            make_folder(folder)
            place = _trained(
                network, train, validation, settings, folder, seed, score, guide, processes,
                progress, clock,
            )  # fmt: skip
            processes.wait()
            load_weights(network.eval(), folder / BEST)
        except torch.cuda.OutOfMemoryError as error:
            hint = f"`accumulate: {2 * settings.accumulate}`, or a smaller `batch`"
            hint += "; under torchrun, `divide: weights`" * (settings.divide == "samples")
            raise EdgeError("the device has too little memory", hint=hint) from error
        except Exception as error:
            if settings.compile and type(error).__module__.startswith("torch._"):
                said = str(error).strip().splitlines()[0][:200]
                raise Unsupported(
                    f"torch cannot compile the network ({said})", hint="compile: false"
                ) from error
            if known := explained(error):
                raise known from error
            raise
    best = place.history[place.best - 1]
    history = tuple(place.history)
    return Fitted(folder / BEST, name_of(score), best.score, len(history), history)


def _trained(
    network: nn.Module,
    train: Samples,
    validation: Samples,
    settings: Fit,
    folder: Path,
    seed: int,
    score: Score | Figure | None,
    guide: Guide | None,
    processes: Processes,
    progress: Progress,
    clock: Clock,
) -> Place:
    device, metric = processes.device, name_of(score)
    progress = progress if processes.is_first else silent
    whole, apart = network, divides(settings, processes)
    if apart:
        network = divided(whole, processes)
    else:
        network.to(device)
        if settings.channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    seen, unseen = (_opened(one, settings, device, progress) for one in (train, validation))
    prepare = partial(prepared, channels_last=settings.channels_last)
    labels = train.chosen_labels if seen.targets is not None else None
    alone = all(one is None for one in (settings.loss, settings.target, seen.targets))
    settings = replace(settings, loss=chosen(settings.loss, network, labels))
    assert settings.loss is not None
    loss = loss_of(settings.loss, labels, device, network)
    outputs = rehearse(network, unseen, score, prepare)
    for samples in (train, validation):
        known = samples.chosen_labels if seen.targets is not None else None
        check_labels(settings.loss, outputs, known, samples.where)

    teach: Teach = partial(_taught, loss)
    learner, lesson = network, None
    if guide is not None:
        lesson = guide.begin(
            network, outputs, seen, unseen, settings, alone, seed, processes, prepare, progress
        )
        teach, learner = partial(lesson.losses, teach), lesson.learner or network

    forward = learner if processes.count == 1 or apart else DistributedDataParallel(learner)
    optimizer = optimizer_of(settings.optimizer, learner)
    copied = divided(whole, processes) if apart and settings.ema else None
    average = Average(network, settings.ema, copied) if settings.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "float16")
    learn = partial(
        _learn, forward, torch.compile(forward) if settings.compile else forward, teach, optimizer,
        scaler, average, settings, processes,
    )  # fmt: skip

    key, adapters = (None, None) if lesson is None else (lesson.key, lesson.adapters)
    identity = identity_of(whole, seen, unseen, settings, seed, metric, key)
    run = Run(folder, identity, network, average, optimizer, scaler, processes, adapters)
    place = run.resume()
    processes.wait()
    if lesson is not None and alone:
        unseen, loss = lesson.judging(unseen), lesson.judge
    tell = []
    if processes.is_first:
        tell = trackers(settings.track, folder, len(place.history))
        write_log(folder / LOG, place.history, metric)

    has_boxes = boxes_of(whole) is not None
    rates = [group["lr"] for group in optimizer.param_groups]
    while not place.is_over(settings):
        epoch = len(place.history)
        turn = epoch if lesson is None else lesson.turn(epoch)
        groups = _groups(seen, labels, settings, seed, turn, processes.count)
        parts = [processes.part(rows) for rows in groups]
        stream = partial(_stream, seen, settings, seed, has_boxes, turn, processes, prepare)
        if lesson is not None:
            lesson.open(seen, turn, parts, stream)
        steps, began, saved = len(groups), clock() - place.seconds, clock()
        label = f"epoch {epoch + 1} of {settings.epochs}"
        sums: list[Tensor] = []
        network.train()
        for batch in stream(parts, place.step):
            count, done = steps * settings.epochs, steps * epoch + place.step
            share = share_of(settings.schedule, done, count, steps)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            if lesson is not None:
                batch = lesson.given(batch, place.step)
            sums.append(learn(batch, len(groups[place.step])))
            del batch  # its memory serves the next one
            place.step += 1
            progress(label, place.step, steps)

            late = clock() - saved >= settings.checkpoint_seconds
            if place.step % LOOK == 0 or place.step == steps or (late and processes.count == 1):
                ours = [*torch.stack(sums).tolist(), float(late and processes.is_first)]
                *losses, due = processes.sums(ours)
                check_finite(losses, place, folder, partial(_suspects, seen, groups))
                for one in losses:
                    place.loss += one
                sums = []
                if due and place.step < steps:
                    place.seconds = clock() - began
                    run.save(place)
                    saved = clock()

        seconds, learned = clock() - began, sum(map(len, groups))
        judged = network if average is None else average.settled()
        figures = validate(judged, unseen, loss, score, processes, prepare, settings.batch)
        rate, mean = optimizer.param_groups[0]["lr"], place.loss / learned
        latest = Epoch(epoch + 1, mean, *figures, rate, seconds, learned)
        place = Place([*place.history, latest])
        if place.best == len(place.history):
            run.save_best(place, metric)
        run.save(place)
        if processes.is_first:
            add_line(folder / LOG, latest, metric)
        for told in tell:
            told(latest.number, latest.figures(metric))
    return place


def _learn(
    forward: nn.Module,
    compiled: Callable[..., Any],
    teach: Teach,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: Average | None,
    settings: Fit,
    processes: Processes,
    batch: Batch,
    whole: int,
) -> Tensor:
    """One step: the sum of this process's losses. `whole` counts the batch of all processes."""
    half = {"bf16": torch.bfloat16, "float16": torch.float16}.get(settings.precision)
    sums = []
    parts = batch.cut(settings.accumulate)
    together = isinstance(forward, DistributedDataParallel)
    if processes.count > 1 and not together:
        follow_first(forward, processes)
    for part in parts:
        # divided gradients are summed each time: whole ones would not fit
        alone = together and part is not parts[-1]
        with forward.no_sync() if alone else nullcontext():  # type: ignore[operator]
            with torch.autocast(processes.device.type, half) if half else nullcontext():
                outputs = compiled(*part.inputs)
            losses = teach(outputs, part)
            # over processes the mean is taken; what counts is that over the samples of all
            counts = torch.full_like(losses, processes.count / whole)
            scaler.scale(losses).backward(counts)  # type: ignore[no-untyped-call]
            sums.append(losses.detach().sum())
    if settings.clip is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(forward.parameters(), settings.clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    if average is not None:
        average.update()
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum()


def _taught(loss: PerSample, outputs: Any, batch: Batch) -> Tensor:
    """The loss of outputs by a batch's labels, [batch]."""
    losses = loss(outputs, batch.targets)
    if batch.others is None:
        return losses
    return losses.lerp(loss(outputs, batch.others), 1 - batch.share)


def _stream(
    data: Data,
    settings: Fit,
    seed: int,
    has_boxes: bool,
    turn: int,
    processes: Processes,
    prepare: Callable[[Batch], Batch],
    parts: Sequence[np.ndarray],
    first: int,
) -> Iterator[Batch]:
    """This process's batches of an epoch from one on, changed by chance as epoch `turn` has it.

    Args:
        has_boxes: whether labels are boxes, which move as their images do.
    """
    for step, batch in enumerate(data.stream(parts[first:]), first):
        if settings.augment:
            dice = _dice(processes.device, seed, turn, step, processes.rank)
            batch = augmented(settings.augment, batch, dice, data.names[0], has_boxes=has_boxes)
        batch = prepare(batch)
        yield batch
        del batch  # its memory serves the next one


def _opened(samples: Samples, settings: Fit, device: torch.device, progress: Progress) -> Data:
    return open_data(
        samples,
        device,
        target=settings.target,
        memory=settings.memory,
        threads=settings.threads,
        progress=progress,
    )


def _groups(
    data: Data, labels: np.ndarray | None, settings: Fit, seed: int, epoch: int, processes: int
) -> list[np.ndarray]:
    """The places of each step's samples, of all processes together.

    Raises:
        BadValue: there is not one for each process, or classes to balance are not there.
    """
    if min(settings.batch, len(data)) < processes:
        raise BadValue(
            f"a batch of {min(settings.batch, len(data))} for {processes} processes",
            keys=("batch",),
            hint="at least one sample for each process",
        )
    if not settings.balance:
        return groups_of(order_of(len(data), seed, epoch), settings.batch, whole=True)
    if labels is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise BadValue(
            "`balance` needs one class index a sample", keys=("balance",), hint="balance: false"
        )
    return groups_of(order_of(len(data), seed, epoch, labels), settings.batch, whole=True)


def prepared(batch: Batch, *, channels_last: bool) -> Batch:
    """The batch, its images in memory as the network's weights are."""
    return batch.channels_last() if channels_last else batch


def _dice(device: torch.device, seed: int, epoch: int, step: int, rank: int) -> torch.Generator:
    """What augments one batch: the same again, whoever comes to it and when."""
    drawn = np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(drawn[0] >> np.uint64(1)))


def _suspects(data: Data, groups: list[np.ndarray], step: int) -> str:
    """What in a step's batch is not finite, as a hint; empty where all of it is."""
    for place in groups[step]:
        batch = data.batch(np.array([place]))
        reals = [t for t in (*batch.inputs, batch.targets) if t.is_floating_point()]
        if not all(bool(torch.isfinite(one).all()) for one in reals):
            return f"sample {data.samples.rows[place]} or its label is not finite: remove it"
    return ""


@contextmanager
def _reproducible(device: torch.device, seed: int, rank: int) -> Iterator[None]:
    """Random states from the seed, and on a GPU only such ways as give the same each time; after
    that, all as it was."""
    before = random_states(device)
    drawn = int(np.random.SeedSequence([seed, rank]).generate_state(1)[0])
    random.seed(drawn)
    np.random.seed(drawn)
    torch.manual_seed(drawn)
    cudnn = torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic
    cudnn.benchmark, cudnn.deterministic = False, True
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic = flags
        restore_random_states(before, device)

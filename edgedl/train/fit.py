"""Training: all that a run needs, made from settings; it goes on where it was killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgedl.core.errors import BadOption, EdgeError, Unsupported, first_line
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.train.augment import Batch
from edgedl.train.batches import Data, open_data
from edgedl.train.checkpoint import load_weights, random_states, restore_random_states
from edgedl.train.course import Clock, Course, Step, Teach
from edgedl.train.distil.guide import Guide
from edgedl.train.ema import Average
from edgedl.train.epoch import prepared
from edgedl.train.losses import PerSample, check_labels, chosen, loss_of
from edgedl.train.networks.deploy import boxes_of
from edgedl.train.optimizers import optimizer_of
from edgedl.train.processes import Processes, joined
from edgedl.train.resume import BEST, Place, Run, identity_of, make_folder
from edgedl.train.settings import Fit
from edgedl.train.sharded import divided, divides, explained
from edgedl.train.track import LOG, Epoch, trackers, write_log
from edgedl.train.validate import Figure, Score, name_of, rehearse

__all__ = ["Epoch", "Fitted", "fit", "load_weights"]


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
                said = first_line(error, 200)
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
    network = divided(whole, processes) if apart else _placed(whole, settings, device)
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
    compiled = torch.compile(forward) if settings.compile else forward

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
    course = Course(
        network, settings, seed, seen, unseen, labels, boxes_of(whole) is not None, loss, score,
        metric, lesson, run, Step(forward, compiled, teach, run, settings),
        [group["lr"] for group in optimizer.param_groups], prepare, tell, progress, clock,
    )  # fmt: skip
    while not place.is_over(settings):
        place = course.epoch(place)
    return place


def _placed(network: nn.Module, settings: Fit, device: torch.device) -> nn.Module:
    """The network itself, on the device, in memory as the settings say."""
    network.to(device)
    if settings.channels_last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


def _opened(samples: Samples, settings: Fit, device: torch.device, progress: Progress) -> Data:
    return open_data(
        samples,
        device,
        target=settings.target,
        memory=settings.memory,
        threads=settings.threads,
        progress=progress,
    )


def _taught(loss: PerSample, outputs: Any, batch: Batch) -> Tensor:
    """The loss of outputs by a batch's labels, [batch]."""
    losses = loss(outputs, batch.targets)
    if batch.others is None:
        return losses
    return losses.lerp(loss(outputs, batch.others), 1 - batch.share)


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

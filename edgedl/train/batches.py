"""Samples as batches of tensors: held in memory where they fit, else prepared ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from edgedl.core.errors import BadSamples
from edgedl.core.memory import available_bytes, usable_cores
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Arrays, Samples
from edgedl.train.augment import Batch

CHUNK = 64
# Types that torch computes little with, and the next one that it does.
SMALL = ("uint8", "int8", "int16")
WIDER = {"float64": "float32", "uint16": "int32", "uint32": "int64", "uint64": "int64"}


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of one shape, as tensors by their place among them.

    Attributes:
        names: of the inputs, in the order that the network takes them.
        held: all samples' inputs, [samples, ...] each; None where they are prepared when used.
        targets: all samples' labels; None where the first input is the target. Maps of classes
            stay in the type that they come in, and are int64 in a batch.
        device: where batches are wanted.
        threads: how many prepare samples ahead.
    """

    samples: Samples
    names: tuple[str, ...]
    held: tuple[Tensor, ...] | None
    targets: Tensor | None
    device: torch.device
    threads: int

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """Of the samples, and of what the first one is prepared to."""
        found = sha256(self.samples.digest.encode())
        for name, one in zip(
            self.names, _prepared(self.samples, self.names, np.zeros(1, np.int64)), strict=True
        ):
            found.update(f"{name} {one.dtype} {one.shape}".encode() + one.tobytes())
        return found.hexdigest()

    def batch(self, rows: np.ndarray) -> Batch:
        """The samples at these places, on the device; floats are float32."""
        if self.held is not None:
            places = torch.from_numpy(rows).to(self.held[0].device)
            inputs = tuple(one[places] for one in self.held)
        else:
            inputs = tuple(map(torch.from_numpy, _prepared(self.samples, self.names, rows)))
        if inputs[0].device != self.device:
            if self.device.type == "cuda":
                inputs = tuple(one.pin_memory() for one in inputs)
            inputs = tuple(one.to(self.device, non_blocking=True) for one in inputs)
        inputs = tuple(one.float() if one.is_floating_point() else one for one in inputs)
        if self.targets is None:
            return Batch(inputs, inputs[0])
        targets = self.targets[torch.from_numpy(rows).to(self.targets.device)]
        targets = targets.to(self.device, non_blocking=True)
        return Batch(inputs, targets if targets.is_floating_point() else targets.long())

    def stream(self, groups: Sequence[np.ndarray]) -> Iterator[Batch]:
        """A batch for each group of places, in this order, the next ones prepared meanwhile."""
        if self.held is not None and self.held[0].device == self.device:
            yield from map(self.batch, groups)
            return
        with ThreadPoolExecutor(self.threads, "edgedl-batches") as pool:
            yield from _ahead(pool, self.batch, groups, self.threads + 1)


def open_data(
    samples: Samples,
    device: torch.device,
    *,
    target: Literal["labels", "input"] | None = None,
    memory: float = 0.5,
    threads: int | None = None,
    label: str = "preparing samples",
    progress: Progress = silent,
) -> Data:
    """Samples, prepared once where they fit into a share of free memory.

    They lie on the device itself where they fit into that share of its memory, too. Sources are
    asked for samples by several threads at once.

    Args:
        memory: that share.

    Raises:
        BadSamples: there are none, they are of unlike shapes, or their labels are no numbers.
    """
    if not len(samples):
        raise BadSamples("there are no samples", where=samples.where, hint="give at least one")
    targets = _targets(samples) if target != "input" else None
    if target == "labels" and targets is None:
        raise BadSamples(
            "there are no labels to learn", where=samples.where, hint="or say `target: input`"
        )
    threads = threads or usable_cores()
    names = _names(samples)
    first = _prepared(samples, names, np.zeros(1, np.int64))
    size = len(samples) * sum(one.nbytes for one in first)
    free = available_bytes()
    held = None
    if free is None or size <= memory * free:
        held = _hold(samples, names, first, threads, label, progress)
        if device.type == "cuda" and size <= memory * torch.cuda.mem_get_info(device)[0]:
            held = tuple(one.to(device) for one in held)
            targets = None if targets is None else targets.to(device)
    return Data(samples, names, held, targets, device, threads)


def order_of(count: int, seed: int, epoch: int, labels: np.ndarray | None = None) -> np.ndarray:
    """The places of an epoch's samples, drawn from the seed and the epoch alone: int64, [count].

    Args:
        labels: class indices of shape [count], to draw each class equally often: within one, and
            each of a class's samples equally often within one.
    """
    random = np.random.default_rng([seed, epoch])
    if labels is None:
        return random.permutation(count)
    classes = np.unique(labels)
    drawn = []
    for number, each in enumerate(random.permutation(classes)):
        rows = np.flatnonzero(labels == each)
        wanted = count // len(classes) + (number < count % len(classes))
        turns = -(-wanted // len(rows))
        drawn.append(np.concatenate([random.permutation(rows) for _ in range(turns)])[:wanted])
    return random.permutation(np.concatenate(drawn))


def groups_of(order: np.ndarray, batch: int, *, whole: bool) -> list[np.ndarray]:
    """An order in batches of shape [batch]; `whole` leaves out a last one that is smaller, unless
    it is alone."""
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    return groups[:-1] if whole and len(groups) > 1 and len(groups[-1]) < batch else groups


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[np.ndarray], Batch],
    groups: Sequence[np.ndarray],
    most: int,
) -> Iterator[Batch]:
    waiting: deque[Future[Batch]] = deque()
    try:
        for group in groups:
            waiting.append(pool.submit(prepare, group))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for one in waiting:
            one.cancel()


def _names(samples: Samples) -> tuple[str, ...]:
    if isinstance(samples.source, Arrays):
        return tuple(samples.source.arrays)
    return tuple(samples.feed(0))


def _prepared(samples: Samples, names: Sequence[str], places: np.ndarray) -> tuple[np.ndarray, ...]:
    """The inputs of some samples, [samples, ...] each, in types that torch takes."""
    source = samples.source
    if isinstance(source, Arrays):
        rows = samples.rows[places]
        return tuple(_plain(source.arrays[name][rows]) for name in names)
    feeds = [samples.feed(int(i)) for i in places]
    return tuple(_plain(_joined([feed[name] for feed in feeds], name, samples, places))
                 for name in names)  # fmt: skip


def _joined(
    arrays: Sequence[np.ndarray], name: str, samples: Samples, places: np.ndarray
) -> np.ndarray:
    shape = arrays[0].shape
    for array, place in zip(arrays, places, strict=True):
        if array.shape != shape:
            raise _unlike(name, array.shape, shape, int(place), samples)
    return np.concatenate(arrays)


def _unlike(
    name: str, given: tuple[int, ...], wanted: tuple[int, ...], place: int, samples: Samples
) -> BadSamples:
    return BadSamples(
        f"sample {place} of `{name}` has shape {given[1:]}, others {wanted[1:]}",
        where=samples.where,
        hint="samples are trained on together: resize, cut or fill them to one shape",
    )


def _hold(
    samples: Samples,
    names: Sequence[str],
    first: Sequence[np.ndarray],
    threads: int,
    label: str,
    progress: Progress,
) -> tuple[Tensor, ...]:
    count = len(samples)
    if isinstance(samples.source, Arrays):
        return tuple(map(torch.from_numpy, _prepared(samples, names, np.arange(count))))
    whole = [np.empty((count, *one.shape[1:]), one.dtype) for one in first]
    groups = groups_of(np.arange(count), CHUNK, whole=False)

    def prepare(places: np.ndarray) -> int:
        for name, all_of_it, some in zip(
            names, whole, _prepared(samples, names, places), strict=True
        ):
            if some.shape[1:] != all_of_it.shape[1:]:
                raise _unlike(name, some.shape, all_of_it.shape, int(places[0]), samples)
            all_of_it[places[0] : places[-1] + 1] = some
        return int(places[-1]) + 1

    with ThreadPoolExecutor(threads, "edgedl-prepare") as pool:
        try:
            for done in pool.map(prepare, groups):
                progress(label, done, count)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(map(torch.from_numpy, whole))


def _targets(samples: Samples) -> Tensor | None:
    labels = samples.chosen_labels
    if labels is None:
        return None
    if labels.dtype.kind not in "iufb":
        raise BadSamples(
            f"labels are {labels.dtype}, not numbers",
            where=samples.where,
            hint="save class indices as int64, or values as float32",
        )
    maps = labels.ndim > 2 and labels.dtype.name in SMALL
    wanted = "float32" if labels.dtype.kind == "f" else labels.dtype.name if maps else "int64"
    return torch.from_numpy(labels.astype(wanted))


def _plain(array: np.ndarray) -> np.ndarray:
    wanted = np.dtype(WIDER.get(array.dtype.name, array.dtype.name))
    return np.require(array, wanted, ["C", "W"])

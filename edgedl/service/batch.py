"""One call of the engine for several requests, and its answers split; on a worker's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from edgedl.core.errors import EngineFailed

Feed = Mapping[str, np.ndarray]
Run = Callable[[Feed], Mapping[str, np.ndarray]]
Result = Mapping[str, np.ndarray] | Exception


@dataclass(frozen=True)
class Ran:
    """What became of a batch: a result for each request in order, and the engine's time for it.

    Attributes:
        calls: of the engine; more than one where a batch failed and was run request by request.
    """

    results: tuple[Result, ...]
    calls: int
    seconds: float


def answered(run: Run, feeds: Sequence[Feed], rows: Sequence[int]) -> Ran:
    """Every feed's answers, from one call where there are several, `rows` samples of each.

    A call that fails is taken apart, so that only the requests that fail alone get its error.
    """
    start = perf_counter()
    if len(feeds) > 1:
        together = _tried(run, feeds)
        if not isinstance(together, Exception):
            parts = _parted(together, rows)
            if parts is not None:
                return Ran(parts, 1, perf_counter() - start)
    alone = tuple(_tried(run, [feed]) for feed in feeds)
    return Ran(alone, len(feeds) + (len(feeds) > 1), perf_counter() - start)


def _tried(run: Run, feeds: Sequence[Feed]) -> Result:
    try:
        return run(_joined(feeds) if len(feeds) > 1 else _plain(feeds[0]))
    except Exception as error:
        return error


def _joined(feeds: Sequence[Feed]) -> Feed:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _plain(feed: Feed) -> Feed:
    """Arrays that engines may read where they lie: those that do not begin at a multiple of their
    item's size are copied."""
    if all(array.flags.aligned for array in feed.values()):
        return feed
    return {name: array if array.flags.aligned else array.copy() for name, array in feed.items()}


def _parted(outputs: Mapping[str, np.ndarray], rows: Sequence[int]) -> tuple[Result, ...] | None:
    """The requests' own rows of every output; None where an output does not have them."""
    total = sum(rows)
    if any(array.ndim == 0 or array.shape[0] != total for array in outputs.values()):
        return None
    parts: list[Result] = []
    start = 0
    for count in rows:
        parts.append({name: array[start : start + count] for name, array in outputs.items()})
        start += count
    return tuple(parts)


def failure(error: Exception) -> EngineFailed:
    """An engine's exception that is no error of ours, as one."""
    return EngineFailed(f"the engine failed: {type(error).__name__}: {str(error)[:300]}")

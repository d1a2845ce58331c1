"""Along the graph, tensor by tensor: how far it is off, what is added, what the codes do."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Samples
from edgedl.core.stats import decibels
from edgedl.passes.quantizers import Grid, codes_of, dequantized
from edgedl.passes.switches import Switchboard

FIRST_BLOCK, MOST_AT_ONCE = 6, 32
CHUNK = 1 << 18
MOST_CODES = 1 << 16
MOST_BYTES = 48 << 20
TWICE = 2.0


@dataclass
class Walked:
    """Running sums of one tensor.

    `signal`, `noise` and `dot` compare the model with all quantizers on with the float one; `added`
    is the power that the quantizers at this very tensor add to a float input. `low` and `high` are
    by channel, where the tensor has channels; `counts` are those of codes.
    """

    tensor: str
    node: str
    switch: int | None = None
    twins: tuple[int, ...] = ()
    signal: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    power: float = 0.0
    added: float = 0.0
    elements: int = 0
    clipped: int = 0
    axis: int | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    counts: np.ndarray | None = None
    finite: bool = True
    float_finite: bool = True
    local: dict[int, float] = field(default_factory=dict)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise, in decibels."""
        return decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Of the angle between both models' tensors, over all samples."""
        norms = (self.signal * self.power) ** 0.5
        return self.dot / norms if norms else 1.0

    @property
    def used(self) -> tuple[float, float]:
        """The least and the largest value seen."""
        if self.low is None or self.high is None:
            return 0.0, 0.0
        return float(self.low.min()), float(self.high.max())

    @property
    def saturated(self) -> float:
        """The share of values beyond what the codes hold."""
        return self.clipped / self.elements if self.elements else 0.0

    @property
    def dead(self) -> float:
        """The share of codes that nothing used."""
        return float(np.mean(self.counts == 0)) if self.counts is not None else 0.0


def walk(
    board: Switchboard, samples: Samples, more: Samples, progress: Progress = silent
) -> list[Walked]:
    """Every quantized tensor and every result of coded weights, in graph order, in blocks.

    Args:
        samples: those that both models run, whose codes are counted.
        more: those that widen the ranges besides, in the float model alone.
    """
    plan = _plan(board)
    inputs = set(samples.feed(0))
    done, at_once = 0, FIRST_BLOCK
    while done < len(plan):
        block = plan[done : done + at_once]
        _walk_block(board, samples, block, inputs)
        done += len(block)
        largest = max(4 * one.elements // len(samples) for one in block)
        at_once = int(np.clip(MOST_BYTES // (4 * max(largest, 1)), FIRST_BLOCK, MOST_AT_ONCE))
        progress("walking along the graph", done, len(plan))
    _widen(board, [w for w in plan if w.switch is not None], inputs, more, len(samples))
    return plan


def _walk_block(
    board: Switchboard, samples: Samples, block: list[Walked], inputs: set[str]
) -> None:
    watch = list(dict.fromkeys(w.tensor for w in block if w.tensor not in inputs))
    twins = [t for w in block for t in w.twins]
    with (
        board.open({}, watch=watch, twins=twins) as plain,
        board.open(board.all_on, watch=watch) as coded,
    ):
        for feed in samples:
            expected, given = {**feed, **plain.run(feed)}, {**feed, **coded.run(feed)}
            for one in block:
                _add(one, board, expected, given)


def _widen(
    board: Switchboard, plan: list[Walked], inputs: set[str], more: Samples, seen_on: int
) -> None:
    """Ranges over more samples, in blocks of bounded size."""
    blocks: list[list[Walked]] = [[]]
    room = MOST_BYTES
    for one in plan:
        room -= 4 * one.elements // seen_on
        if room < 0 and blocks[-1]:
            blocks.append([])
            room = MOST_BYTES
        blocks[-1].append(one)
    for block in blocks if len(more) else ():
        with board.open({}, watch=[w.tensor for w in block if w.tensor not in inputs]) as plain:
            for feed in more:
                seen = {**feed, **plain.run(feed)}
                for one in block:
                    if seen[one.tensor].dtype == np.float32:
                        _range(one, seen[one.tensor])


def _plan(board: Switchboard) -> list[Walked]:
    found: dict[str, Walked] = {}
    for switch, one in enumerate(board.found):
        if one.kind == "activation":
            tensor = board.inputs_of[one.stored][0]
            entry = found.setdefault(tensor, Walked(tensor, one.node))
            entry.switch = switch if entry.switch is None else entry.switch
        elif one.kind == "weight" and one.node in board.tensors and switch not in board.unmatched:
            if board.operators[one.node] == "Gather":
                continue
            tensor = board.tensors[one.node]
            entry = found.setdefault(tensor, Walked(tensor, one.node))
            entry.twins = (*entry.twins, switch)
    last = len(board.order)
    return sorted(
        found.values(),
        key=lambda w: -1 if w.tensor not in board.producers
        else board.order.get(board.producers[w.tensor], last),
    )  # fmt: skip


def _add(
    one: Walked,
    board: Switchboard,
    expected: dict[str, np.ndarray],
    given: dict[str, np.ndarray],
) -> None:
    x, y = expected[one.tensor], given[one.tensor]
    if x.dtype != np.float32 or x.shape != y.shape:
        return
    a, b = x.reshape(-1), y.reshape(-1)
    difference = b - a
    noise = float(np.dot(difference, difference))
    one.float_finite &= bool(np.isfinite(np.dot(a, a)))
    one.finite &= bool(np.isfinite(noise))
    one.signal += float(np.dot(a, a))
    one.elements += x.size
    one.noise += noise
    one.dot += float(np.dot(a, b))
    one.power += float(np.dot(b, b))
    for twin in one.twins:
        result = expected.get(f"edgedl_twin_{twin}")
        if result is not None and result.shape == x.shape:
            gap = result.reshape(-1) - a
            power = float(np.dot(gap, gap))
            one.added += power
            one.local[twin] = one.local.get(twin, 0.0) + power
    _range(one, x)
    if one.switch is not None:
        grid = board.found[one.switch].grid
        if grid is not None and one.float_finite:
            _codes(one, x, grid)


def _channels_of(x: np.ndarray) -> int | None:
    """The axis of a tensor's channels: of one of three dimensions the last, as in transformers, or
    the middle one, as in heads of detectors, where sizes differ more along it."""
    if x.ndim != 3:
        return 1 if x.ndim == 4 else -1 if x.ndim == 2 else None
    middle, last = (times_median(np.abs(x).max(axis=axis).max(axis=0)) for axis in (2, 1))
    return -2 if middle > TWICE * last else -1


def times_median(values: np.ndarray) -> float:
    """The largest over the median of those above zero."""
    alive = values[values > 0]
    return float(alive.max() / np.median(alive)) if alive.size else 1.0


def _range(one: Walked, x: np.ndarray) -> None:
    if one.low is None:
        one.axis = _channels_of(x)
    rows = (
        np.moveaxis(x, one.axis, 0).reshape(x.shape[one.axis], -1) if one.axis else x.reshape(1, -1)
    )
    if not rows.size:
        return
    low, high = rows.min(axis=1), rows.max(axis=1)
    if one.low is None or one.high is None or one.low.shape != low.shape:
        one.low, one.high = low, high
    else:
        one.low, one.high = np.minimum(one.low, low), np.maximum(one.high, high)


def _codes(one: Walked, x: np.ndarray, grid: Grid) -> None:
    assert one.switch is not None
    size = grid.most - grid.least + 1
    whole = grid.axis is None
    parts = np.array_split(x.reshape(-1), -(-x.size // CHUNK) or 1) if whole else [x]
    for part in parts:
        codes = codes_of(part, grid)
        gap = (dequantized(codes, grid) - part).reshape(-1)
        power = float(np.dot(gap, gap))
        one.added += power
        one.local[one.switch] = one.local.get(one.switch, 0.0) + power
        if not whole:
            continue
        half = float(grid.scale) / 2
        beyond = (part > grid.high + half) | (part < grid.low - half)
        one.clipped += int(np.count_nonzero(beyond))
        if size <= MOST_CODES:
            places = (codes - grid.least).astype(np.int64)
            seen = np.bincount(places, minlength=size)
            one.counts = seen if one.counts is None else one.counts + seen

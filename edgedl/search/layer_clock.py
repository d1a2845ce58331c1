"""Time stands of layers on an engine, in turns, so that a noisy moment decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, quiet, timed
from edgedl.core.errors import EngineFailed
from edgedl.core.layers import LayerShape
from edgedl.passes.layers import INPUT, Stand, Written, written
from edgedl.runtime import engine
from edgedl.runtime.session import Session

LEAST_TURNS, MOST_TURNS = 5, 15
STEADY, AGREED = 0.05, 0.04
TURN_NS, YARDSTICK_NS = 4_000_000, 2_000_000
# What all else is timed beside: a machine that others share may be half as fast a second later.
YARDSTICK = Stand(
    LayerShape("conv", 16, 16, (14, 14), (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)), rows=8
)
FLOAT = "float32"


@dataclass(frozen=True)
class Rig:
    """How layers are run.

    Attributes:
        precision: `int8`, or one of the engine's float precisions.
        scheme: how int8 is written.
        settings: how the engine opens a model in that precision, and one in float32.
        threads: processor threads for one call.
    """

    engine: str
    precision: str
    scheme: str
    settings: Mapping[str, Any]
    float_settings: Mapping[str, Any]
    threads: int

    def in_float(self) -> Rig:
        """The same in float32."""
        if self.precision == FLOAT:
            return self
        return Rig(
            self.engine, FLOAT, self.scheme, self.float_settings, self.float_settings, self.threads
        )


@dataclass(frozen=True)
class Taken:
    """What one call of a stand takes.

    Attributes:
        us: in microseconds, when a call of the yardstick takes `beside_us`.
        refused: why it computed in float though int8 was asked for; empty where it did not.
    """

    us: float
    refused: str = ""
    beside_us: float = 1.0


def time_stands(rig: Rig, stands: Sequence[Stand], clock: Clock = perf_counter_ns) -> list[Taken]:
    """What one call of each takes, all of them open at once and timed in turns between turns of a
    yardstick: the median of their ratios to it, times the yardstick's least.

    Each has five turns, and more while the middle half of its ratios spreads over more than 4 %, 15
    at most. A turn in which the machine's speed changed by more than 5 % does not count, unless all
    are like that. What the engine cannot compute in int8 is timed in float32.

    Raises:
        EngineFailed: the engine refuses a stand in float as well. Missing: it is not installed.
    """
    opened: list[tuple[Session, Feed, str]] = []
    try:
        for stand in (YARDSTICK, *stands):
            session, refused = _open(rig, stand)
            opened.append((session, _feed(stand), refused))
        with quiet():
            ratios, beside_ns = _in_turns([(one, feed) for one, feed, _ in opened], clock)
    finally:
        for session, _, _ in opened:
            session.close()
    beside_us = beside_ns / 1000
    return [
        Taken(float(np.median(seen)) * beside_us, refused, beside_us)
        for seen, (_, _, refused) in zip(ratios, opened[1:], strict=True)
    ]


def _in_turns(
    sessions: Sequence[tuple[Session, Feed]], clock: Clock
) -> tuple[list[list[float]], float]:
    """Ratios of each session's calls to those of the first, and the first's least nanoseconds."""

    def call_ns(place: int, at_least_ns: int) -> float:
        session, feed = sessions[place]
        return float(np.median(timed(session, cycle([feed]), at_least_ns, clock)))

    count = len(sessions) - 1
    steady: list[list[float]] = [[] for _ in range(count)]
    others: list[list[float]] = [[] for _ in range(count)]
    least = float("inf")
    for turn in range(MOST_TURNS + 1):
        waiting = [i for i in range(count) if not _agree(steady[i])]
        if not waiting:
            break
        before = call_ns(0, YARDSTICK_NS)
        for i in waiting if turn % 2 else reversed(waiting):
            taken = call_ns(i + 1, TURN_NS)
            after = call_ns(0, YARDSTICK_NS)
            if turn:
                kept = steady if abs(after / before - 1) <= STEADY else others
                kept[i].append(taken / (before * after) ** 0.5)
                least = min(least, before, after)
            before = after
    return [some or rest for some, rest in zip(steady, others, strict=True)], least


def _agree(ratios: Sequence[float]) -> bool:
    """Whether a stand was timed often enough."""
    if len(ratios) < LEAST_TURNS:
        return False
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return bool(high - low <= AGREED * middle)


def _open(rig: Rig, stand: Stand) -> tuple[Session, str]:
    """A session that has answered once, and why it is not in int8."""
    refused = ""
    if rig.precision == "int8":
        found = written(stand, rig.scheme)
        refused = found.refused or ""
        if not refused:
            try:
                return _answered(rig, found, stand), ""
            except EngineFailed as error:
                refused = error.message
        rig = rig.in_float()
    return _answered(rig, written(stand), stand), refused


def _answered(rig: Rig, found: Written, stand: Stand) -> Session:
    run = engine(rig.engine)
    session = run.open_model(found.data, settings=rig.settings, threads=rig.threads)
    try:
        session.run(_feed(stand))
    except BaseException:
        session.close()
        raise
    return session


def _feed(stand: Stand) -> Feed:
    return {INPUT: np.random.default_rng(0).random(stand.given, np.float32)}

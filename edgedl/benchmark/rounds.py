"""Interleaved rounds of several sessions in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, quiet, timed, warm_up
from edgedl.core.stats import bootstrap_ratio
from edgedl.runtime.session import Session

TWIN = "the first once more"
YARDSTICK = "yardstick"
EXTRA = (TWIN, YARDSTICK)
SHORTEST_TURN_NS, LONGEST_TURN_NS = 2_000_000, 100_000_000


@dataclass(frozen=True)
class Rounds:
    """Rounds in which every session had two turns: all of them forth, then back (A B ... B A).

    All by name, the twin and the yardstick included where they took part.

    Attributes:
        samples_ns: every single call, int64.
        warm_up_ns: the calls before the first round, int64.
        steady: whether the warm-up ended by itself, not by its cap.
        forth_ns, back_ns: the median call of the first and of the second turn in each round.
    """

    samples_ns: Mapping[str, np.ndarray]
    warm_up_ns: Mapping[str, np.ndarray]
    steady: Mapping[str, bool]
    forth_ns: Mapping[str, np.ndarray]
    back_ns: Mapping[str, np.ndarray]

    def medians_ns(self, name: str) -> np.ndarray:
        """A session's time in each round in nanoseconds, [rounds]: the geometric mean of its two
        turns' medians."""
        return np.asarray(np.sqrt(self.forth_ns[name] * self.back_ns[name]))


def run_rounds(
    sessions: Mapping[str, Session],
    feeds: Sequence[Feed],
    *,
    seconds: float,
    least_rounds: int,
    precision: float = 0.0,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    on_turn: Callable[[str], None] = lambda _: None,
    on_round: Callable[[float], None] = lambda _: None,
) -> Rounds:
    """Warm every session up, then time them in rounds for about `seconds`.

    The order within a round is random. The rounds end earlier where every session's ratio to the
    first has an interval narrower than twice `precision`, after `least_rounds` at least.

    Args:
        on_turn: told the name of the session whose turn begins.
        on_round: told the share of the time that is spent, after each round.
    """
    names = list(sessions)
    rng = np.random.default_rng(seed)
    turns = {name: cycle(feeds) for name in names}
    samples: dict[str, list[int]] = {name: [] for name in names}
    forth: dict[str, list[float]] = {name: [] for name in names}
    back: dict[str, list[float]] = {name: [] for name in names}
    budget_ns = max(round(seconds * 1e9), 1)
    fair_ns = budget_ns // (6 * len(names) * least_rounds)
    turn_ns = min(max(fair_ns, SHORTEST_TURN_NS), LONGEST_TURN_NS)
    warm = {}
    with quiet():
        for name in names:
            on_turn(name)
            warm[name] = warm_up(sessions[name], feeds, clock)
        began = clock()
        while True:
            order = [names[i] for i in rng.permutation(len(names))]
            for half, of_turn in ((forth, order), (back, order[::-1])):
                for name in of_turn:
                    on_turn(name)
                    times = timed(sessions[name], turns[name], turn_ns, clock)
                    samples[name].extend(times)
                    half[name].append(float(np.median(times)))
            spent = clock() - began
            on_round(min(spent / budget_ns, 1.0))
            enough = len(forth[names[0]]) >= least_rounds
            if enough and (spent > budget_ns or _narrow(forth, back, names, precision)):
                break
    return Rounds(
        {name: np.asarray(times, np.int64) for name, times in samples.items()},
        {name: np.asarray(warm[name][0], np.int64) for name in names},
        {name: warm[name][1] for name in names},
        {name: np.asarray(times) for name, times in forth.items()},
        {name: np.asarray(times) for name, times in back.items()},
    )


def _narrow(
    forth: Mapping[str, list[float]],
    back: Mapping[str, list[float]],
    names: Sequence[str],
    precision: float,
) -> bool:
    if not precision:
        return False
    both = {name: np.sqrt(np.multiply(forth[name], back[name])).tolist() for name in names}
    return all(
        bootstrap_ratio(both[names[0]], both[name]).width < 2 * precision for name in names[1:]
    )

"""Which of several sessions is faster, and by how much, from interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter_ns

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, Measurement, quiet, timed, warm_up
from edgedl.core.progress import Progress, silent
from edgedl.core.stats import Interval, bootstrap_ratio
from edgedl.runtime.session import Session

LEAST_ROUNDS = 10
LEAST_FLOOR = 0.01
TWIN = "the first once more"


@dataclass(frozen=True)
class Comparison:
    """Interleaved rounds of several sessions.

    Attributes:
        measurements: raw samples by name.
        medians_ns: by name, the median call of each round, in order of the rounds.
        noise_floor: how far the first session's rounds differ from its own second runs in the
            same rounds, and from its twin's; no smaller difference is believed. At least 0.01.
        unsteady: names whose warm-up never became steady.
    """

    measurements: Mapping[str, Measurement]
    medians_ns: Mapping[str, tuple[float, ...]]
    noise_floor: float
    unsteady: tuple[str, ...]

    def ratio(self, slow: str, fast: str) -> Interval:
        """How many times faster `fast` is than `slow`."""
        return bootstrap_ratio(self.medians_ns[slow], self.medians_ns[fast])


def compare(
    sessions: Mapping[str, Session],
    feeds: Sequence[Feed],
    *,
    twin: Session | None = None,
    seconds: float = 10.0,
    precision: float = 0.01,
    least_rounds: int = LEAST_ROUNDS,
    seed: int = 0,
    clock: Clock = perf_counter_ns,
    progress: Progress = silent,
) -> Comparison:
    """Time sessions in rounds, each round all of them forth and back again (A B ... B A).

    `twin` is a second session of the first one's model, timed among the others: how far the two
    differ, as sessions of one model do by where their memory lies, widens the noise floor.

    The order within a round is random. Rounds go on until every ratio to the first session has an
    interval narrower than twice `precision`, or until `seconds` are spent, `least_rounds` at least.
    The first session's two turns in a round, compared with one another, give the noise floor.
    """
    sessions = {**sessions, **({TWIN: twin} if twin is not None else {})}
    names = list(sessions)
    rng = np.random.default_rng(seed)
    turns = {name: cycle(feeds) for name in names}
    samples: dict[str, list[int]] = {name: [] for name in names}
    first: dict[str, list[float]] = {name: [] for name in names}
    again: dict[str, list[float]] = {name: [] for name in names}
    budget = round(seconds * 1e9)
    with quiet():
        warm = {name: warm_up(sessions[name], feeds, clock) for name in names}
        slice_ns = min(max(budget // (6 * len(names) * least_rounds), 2_000_000), 100_000_000)
        began = clock()
        while True:
            order = [names[i] for i in rng.permutation(len(names))]
            for half, turn_order in ((first, order), (again, order[::-1])):
                for name in turn_order:
                    times = timed(sessions[name], turns[name], slice_ns, clock)
                    samples[name].extend(times)
                    half[name].append(float(np.median(times)))
            rounds, spent = len(first[names[0]]), clock() - began
            progress("timing", min(round(100 * spent / budget), 99), 100)
            if rounds >= least_rounds and (
                spent > budget or _narrow(first, again, names, precision)
            ):
                break
    progress("timing", 100, 100)
    medians = {
        name: tuple(np.sqrt(np.multiply(first[name], again[name])).tolist()) for name in names
    }
    return Comparison(
        {
            name: Measurement(np.asarray(samples[name]), warm[name][0], warm[name][1])
            for name in names
            if name != TWIN
        },
        {name: rounds for name, rounds in medians.items() if name != TWIN},
        max(
            _noise_floor(first[names[0]], again[names[0]]),
            _noise_floor(medians[names[0]], medians[TWIN]) if twin is not None else 0.0,
        ),
        tuple(name for name in names if not warm[name][1]),
    )


def _narrow(
    first: Mapping[str, list[float]],
    again: Mapping[str, list[float]],
    names: Sequence[str],
    precision: float,
) -> bool:
    both = {name: np.sqrt(np.multiply(first[name], again[name])).tolist() for name in names}
    intervals = [bootstrap_ratio(both[names[0]], both[name]) for name in names[1:]]
    return all(i.high - i.low < 2 * precision * i.ratio for i in intervals)


def _noise_floor(first: Sequence[float], again: Sequence[float]) -> float:
    same = bootstrap_ratio(first, again)
    return max(LEAST_FLOOR, abs(same.low - 1), abs(same.high - 1))

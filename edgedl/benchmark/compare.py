"""Which of several sessions is faster, and by how much, from interleaved rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter_ns

import numpy as np

from edgedl.benchmark.measure import Clock, Feed, Measurement
from edgedl.benchmark.rounds import EXTRA, TWIN, YARDSTICK, Rounds, run_rounds
from edgedl.core.progress import Progress, silent
from edgedl.core.stats import SIGNIFICANT, Interval, Verdict, holm, pooled_ratio
from edgedl.runtime.session import Session

LEAST_ROUNDS = 10
LEAST_FLOOR = 0.01


@dataclass(frozen=True)
class Comparison:
    """Interleaved rounds of several sessions, in one process or in several fresh ones.

    Attributes:
        processes: the rounds, a process each.
    """

    processes: tuple[Rounds, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The sessions that were compared, the first of them first."""
        return tuple(name for name in self.processes[0].samples_ns if name not in EXTRA)

    @cached_property
    def measurements(self) -> Mapping[str, Measurement]:
        """Raw samples by name, all processes one after another."""
        return {
            name: Measurement(
                np.concatenate([rounds.samples_ns[name] for rounds in self.processes]),
                np.concatenate([rounds.warm_up_ns[name] for rounds in self.processes]),
                all(rounds.steady[name] for rounds in self.processes),
            )
            for name in self.names
        }

    @property
    def unsteady(self) -> tuple[str, ...]:
        """Names whose warm-up did not become steady in every process."""
        return tuple(name for name in self.names if not self.measurements[name].steady)

    @cached_property
    def noise_floor(self) -> float:
        """How far the first session may differ from itself; no smaller difference is believed.

        From its twin, as sessions of one model differ by where their memory lies; without a twin,
        from its own second turn in the same rounds. At least 0.01.
        """
        first = self.names[0]
        if all(TWIN in rounds.samples_ns for rounds in self.processes):
            same = self.ratio(first, TWIN)
        else:
            both = [(r.forth_ns[first], r.back_ns[first]) for r in self.processes]
            same = pooled_ratio([(forth.tolist(), back.tolist()) for forth, back in both])
        return max(LEAST_FLOOR, abs(same.low - 1), abs(same.high - 1))

    def ratio(self, slow: str, fast: str) -> Interval:
        """How many times faster `fast` is than `slow`."""
        times = [(r.medians_ns(slow).tolist(), r.medians_ns(fast).tolist()) for r in self.processes]
        return pooled_ratio(times)

    def against_yardstick(self, name: str) -> tuple[float, ...]:
        """By process, the median of a session's time in units of the yardstick's in its round."""
        return tuple(
            float(np.median(rounds.medians_ns(name) / rounds.medians_ns(YARDSTICK)))
            for rounds in self.processes
        )

    def round_medians_ms(self, name: str) -> list[list[float]]:
        """A session's time in each round, by process."""
        return [(rounds.medians_ns(name) / 1e6).tolist() for rounds in self.processes]


def verdicts(intervals: Sequence[Interval], noise_floor: float) -> list[tuple[Verdict, float]]:
    """A verdict on each of several ratios, and its p-value, corrected for their number (Holm).

    For one ratio alone this is `Interval.verdict`.
    """
    corrected = holm([interval.p_value(noise_floor) for interval in intervals])
    found: list[tuple[Verdict, float]] = []
    for interval, p in zip(intervals, corrected, strict=True):
        verdict = interval.verdict(noise_floor) if p <= SIGNIFICANT else "inconclusive"
        found.append((verdict, p))
    return found


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
    """Time open sessions in rounds, in this process.

    `twin` is a second session of the first one's model, timed among the others: how far the two
    differ, as sessions of one model do by where their memory lies, widens the noise floor.
    """
    rounds = run_rounds(
        {**sessions, **({TWIN: twin} if twin is not None else {})},
        feeds,
        seconds=seconds,
        least_rounds=least_rounds,
        precision=precision,
        seed=seed,
        clock=clock,
        on_round=lambda share: progress("timing", round(99 * share), 100),
    )
    progress("timing", 100, 100)
    return Comparison((rounds,))

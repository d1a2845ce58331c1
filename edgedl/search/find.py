"""The search: gather every way, time them, compare the promising ones, keep the limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.backends import Backend
from edgedl.core.errors import EdgeError, EngineFailed
from edgedl.search.candidates import Refusal, Trial
from edgedl.search.choose import Timed, judge_promising, rank, time_candidates
from edgedl.search.limits import relieve
from edgedl.search.memory import judge
from edgedl.search.ways import PLANNED, Ways, gather

Keep = Callable[[Trial], None]


@dataclass(frozen=True, eq=False)
class Search:
    """What was found: the order in which trials may ship, and everything that was tried."""

    order: tuple[Trial, ...]
    trials: tuple[Trial, ...]
    timed: Timed
    refusals: tuple[Refusal, ...]


def find(
    backends: Sequence[Backend],
    ways: Ways,
    feeds: Sequence[Mapping[str, np.ndarray]],
    seed: int,
    keep: Keep,
) -> Search:
    """The trials that may ship, best first.

    Args:
        feeds: the inputs that candidates are timed on.
        keep: is given each trial that is better than those before it.

    Raises:
        EngineFailed: no engine can run the model. Unsupported: nothing that was asked for runs.
    """
    made = gather(backends, ways)
    timed = time_candidates(made.candidates, feeds, ways.threads, seed, ways.progress)
    trials, refused = judge_promising(
        timed, ways.expected, ways.limits, ways.ask, ways.threads, ways.progress, keep
    )
    refusals = [*made.refusals, *timed.refusals, *refused]
    if ways.ask == "plan" and not trials:
        reasons = [refusal.reason for refusal in refusals if refusal.name.endswith(PLANNED)]
        raise EngineFailed(
            f"the plan does not run: {(reasons or ['nothing was made of it'])[0]}",
            hint="are its `settings` the engine's? `edgedl compress --int8 --report DIR` writes one"
            " that runs",
        )
    for built in backends if ways.limits.max_drop is not None and ways.ask != "plan" else ():
        more, failed = _relieved(built, timed, ways)
        if more:
            again = (timed.candidates[0], *(trial.candidate for trial in more))
            late = time_candidates(again, feeds, ways.threads, seed, ways.progress)
            timed = Timed(
                (*timed.candidates, *late.candidates[1:]),
                {**late.latency_ms, **timed.latency_ms},
                timed.refusals,
            )
            failed += late.refusals
            trials += [t for t in more if t.candidate.name in late.latency_ms]
            best = rank(trials, timed.latency_ms, ways.limits, ways.ask)[0]
            if best in more:
                keep(best)
        refusals += failed
    order = rank(trials, timed.latency_ms, ways.limits, ways.ask)
    return Search(tuple(order), tuple(trials), timed, tuple(refusals))


def in_order(search: Search, ways: Ways) -> Iterator[Trial]:
    """The trials that may ship, best first; candidates that were not worth comparing with float
    are compared once everything before them was taken."""
    yield from search.order
    every = list(search.trials)
    judged = {trial.candidate.name for trial in every}
    for candidate in search.timed.candidates:
        if candidate.answers(ways.ask) and candidate.name not in judged:
            with contextlib.suppress(EdgeError):
                every.append(judge(candidate, ways.expected, ways.threads))
    taken = {trial.candidate.name for trial in search.order}
    ranked = rank(every, search.timed.latency_ms, ways.limits, ways.ask)
    yield from (trial for trial in ranked if trial.candidate.name not in taken)


def _relieved(built: Backend, timed: Timed, ways: Ways) -> tuple[list[Trial], list[Refusal]]:
    """Trials with operators back in float, where the fastest plan loses more than it may."""
    assert ways.limits.max_drop is not None
    plans = [c for c in timed.candidates if c.engine == built.engine and c.plan is not None]
    if not plans:
        return [], []
    fastest = min(plans, key=lambda candidate: timed.latency_ms[candidate.name])
    trials: list[Trial] = []
    try:
        if judge(fastest, ways.expected, ways.threads).drop <= ways.limits.max_drop:
            return [], []
        for trial in relieve(
            built,
            fastest,
            ways.expected,
            ways.limits.max_drop,
            ways.threads,
        ):
            trials.append(trial)
            ways.progress(f"trying {trial.candidate.name}", len(trials), len(trials) + 1)
    except EdgeError as error:
        return trials, [Refusal(f"{fastest.name}, with operators in float", error.message)]
    return trials, []

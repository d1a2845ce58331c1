"""The search: gather every way, time them, compare the promising ones, keep the limits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgedl.backends import Backend
from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.search.candidates import Candidate, Refusal, Trial
from edgedl.search.choose import Timed, judge_promising, rank, time_candidates
from edgedl.search.effort import faithful_first, no_worse
from edgedl.search.kernels import with_other_kernels
from edgedl.search.limits import relieve
from edgedl.search.memory import judge
from edgedl.search.paid import paid
from edgedl.search.placement import runs_for
from edgedl.search.tuned import TUNED, tuned
from edgedl.search.ways import PLANNED, Ways, gather

BEHIND = 1.3
NEAR = 1.1
MOST_SHARPENED = 4
CLOSE_DB, CLEARLY_DB = 40.0, 0.3
# What is measured may miss by this; less room than it is none.
LEAST_ROOM = 0.01
Keep = Callable[[Trial], object]


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
    _check_one_fits(timed.candidates)
    timed = _sharpened(backends, timed, ways, feeds, seed)
    trials, refused = judge_promising(
        timed, ways.expected, ways.limits, ways.ask, ways.threads, ways.progress, keep,
        ways.effort.slack,
    )  # fmt: skip
    refusals = [*made.refusals, *refused]
    if ways.ask == "plan" and not trials:
        reasons = [
            refusal.reason
            for refusal in (*timed.refusals, *refusals)
            if refusal.name.endswith(PLANNED)
        ]
        raise EngineFailed(
            f"the plan does not run: {(reasons or ['nothing was made of it'])[0]}",
            hint="are its `settings` the engine's? `edgedl compress --int8 --report DIR` writes one"
            " that runs",
        )
    if ways.effort.tuning_visits and ways.ask in ("int8", "auto"):
        for built in backends:
            timed, better, failed = _tuned(built, timed, trials, ways)
            for trial in better:
                trials.append(trial)
                if (
                    rank(trials, timed.latency_ms, ways.limits, ways.ask, timed.noise_floor)[0]
                    is trial
                ):
                    keep(trial)
            refusals += failed
    if ways.limits.max_drop is None and ways.effort.slack and ways.ask in ("int8", "auto"):
        for built in backends:
            timed, better, failed = _paid(built, timed, trials, ways, feeds, seed)
            trials += better
            refusals += failed
    limited = ways.limits.max_drop is not None and ways.ask in ("int8", "auto")
    for built in backends if limited else ():
        more, failed = _relieved(built, timed, trials, ways)
        if more:
            timed = _with_more(timed, [trial.candidate for trial in more], ways, feeds, seed)
            trials += [t for t in more if t.candidate.name in timed.latency_ms]
            best = rank(trials, timed.latency_ms, ways.limits, ways.ask, timed.noise_floor)[0]
            if best in more:
                keep(best)
        refusals += failed
    order = rank(trials, timed.latency_ms, ways.limits, ways.ask, timed.noise_floor)
    if ways.limits.max_drop is None:
        order = faithful_first(
            order, timed.latency_ms, ways.effort.slack, ways.expected.counts_classes
        )
    return Search(tuple(order), tuple(trials), timed, (*timed.refusals, *refusals))


def _with_more(
    timed: Timed,
    more: Sequence[Candidate],
    ways: Ways,
    feeds: Sequence[Mapping[str, np.ndarray]],
    seed: int,
) -> Timed:
    """Candidates timed beside the first of those that were timed before, and added to them in its
    milliseconds of then."""
    first = timed.candidates[0]
    late = time_candidates((first, *more), feeds, ways.threads, seed, ways.progress)
    drift = timed.latency_ms[first.name] / late.latency_ms[first.name]
    return Timed(
        (*timed.candidates, *late.candidates[1:]),
        {**{name: drift * ms for name, ms in late.latency_ms.items()}, **timed.latency_ms},
        (*timed.refusals, *late.refusals),
        max(timed.noise_floor, late.noise_floor),
    )


def _sharpened(
    backends: Sequence[Backend],
    timed: Timed,
    ways: Ways,
    feeds: Sequence[Mapping[str, np.ndarray]],
    seed: int,
) -> Timed:
    """With the fastest of each engine on the engine's other kernels where those are faster; engines
    that are far behind are left out, and so is a plan, which says its settings."""
    able = [c for c in timed.candidates if c.answers(ways.ask) and not c.as_given]
    if ways.ask == "plan" or not able:
        return timed
    least_ms = min(timed.latency_ms[candidate.name] for candidate in able)
    more: list[Candidate] = []
    for built in backends:
        mine = [candidate for candidate in able if candidate.engine == built.engine]
        mine.sort(key=lambda candidate: timed.latency_ms[candidate.name])
        if not mine or timed.latency_ms[mine[0].name] > BEHIND * least_ms:
            continue
        near = NEAR * timed.latency_ms[mine[0].name]
        feed = ways.expected.feeds[0]
        for candidate in mine[:MOST_SHARPENED]:
            if timed.latency_ms[candidate.name] > near:
                break
            with contextlib.suppress(EdgeError):
                runs = runs_for(built, candidate.model, feed, ways.threads)
                found = with_other_kernels(
                    built, candidate, feed, ways.threads, runs, ways.progress
                )
                more += [found] if found is not None else []
    return _with_more(timed, more, ways, feeds, seed) if more else timed


def _check_one_fits(candidates: Sequence[Candidate]) -> None:
    """Say why nothing can ship where every candidate is too large for one file."""
    reasons = [candidate.unfit for candidate in candidates]
    if all(reasons) and reasons[0]:
        raise Unsupported(reasons[0], hint="compress it in parts, or prune it first")


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
    timed = search.timed
    ranked = rank(every, timed.latency_ms, ways.limits, ways.ask, timed.noise_floor)
    yield from (trial for trial in ranked if trial.candidate.name not in taken)


def _leading_plan(
    built: Backend, timed: Timed, trials: Sequence[Trial], ways: Ways
) -> Candidate | None:
    """The plan that would ship of this engine's; None where it has none, or, without a limit to
    keep, where another engine is faster by more than the effort's slack."""
    mine = [t for t in trials if t.candidate.engine == built.engine and t.candidate.plan]
    if ways.limits.max_drop is not None:
        plans = [c for c in timed.candidates if c.engine == built.engine and c.plan is not None]
        trained = {t.candidate.name for t in mine if t.candidate.is_trained}
        return min(
            plans,
            key=lambda c: (timed.latency_ms[c.name], c.name not in trained),
            default=None,
        )
    if not mine:
        return None
    ranked = rank(mine, timed.latency_ms, ways.limits, ways.ask, timed.noise_floor)
    order = faithful_first(
        ranked, timed.latency_ms, ways.effort.slack, ways.expected.counts_classes
    )
    first = order[0].candidate
    able = [timed.latency_ms[c.name] for c in timed.candidates if c.answers(ways.ask)]
    within = timed.latency_ms[first.name] <= (1 + ways.effort.slack) * min(able)
    return first if within else None


def _tuned(
    built: Backend, timed: Timed, trials: Sequence[Trial], ways: Ways
) -> tuple[Timed, list[Trial], list[Refusal]]:
    """The engine's leading plan with weights and scales trained, where its answers are not float's
    and training brings them nearer: the same kernels, so that it takes as long."""
    start = _leading_plan(built, timed, trials, ways)
    if start is None or timed.latency_ms[start.name] > BEHIND * min(timed.latency_ms.values()):
        return timed, [], []
    try:
        before = judge(start, ways.expected, ways.threads)
        if before.agreement.sqnr_db >= CLOSE_DB:
            return timed, [], []
        found = tuned(built, start, ways.calibration, ways.expected, ways.effort, ways.progress)
        after = judge(found, ways.expected, ways.threads)
    except EdgeError as error:
        return timed, [], [Refusal(f"{start.name}{TUNED}", _with_hint(error))]
    if not nearer(after, before, ways.expected.counts_classes):
        reason = f"training did not help: {_db(before)} before, {_db(after)} after"
        return timed, [], [Refusal(found.name, reason)]
    latency_ms = {**timed.latency_ms, found.name: timed.latency_ms[start.name]}
    return (
        replace(timed, candidates=(*timed.candidates, found), latency_ms=latency_ms), [after], [],
    )  # fmt: skip


def nearer(after: Trial, before: Trial, counts_classes: bool = True) -> bool:
    """Whether answers are clearly nearer to float's than before, and the metric is no worse."""
    gained = after.agreement.sqnr_db - before.agreement.sqnr_db
    return gained >= CLEARLY_DB and no_worse(after, before, counts_classes)


def _db(trial: Trial) -> str:
    return f"{trial.agreement.sqnr_db:.1f} dB"


def _with_hint(error: EdgeError) -> str:
    return error.message if error.hint is None else f"{error.message} ({error.hint})"


def _paid(
    built: Backend,
    timed: Timed,
    trials: Sequence[Trial],
    ways: Ways,
    feeds: Sequence[Mapping[str, np.ndarray]],
    seed: int,
) -> tuple[Timed, list[Trial], list[Refusal]]:
    """Trials with operators of the leading plan in float, where its answers are not faithful and
    the effort has speed to spare."""
    start = _leading_plan(built, timed, trials, ways)
    if start is None or judge(start, ways.expected, ways.threads).agreement.is_faithful:
        return timed, [], []
    start_ms = timed.latency_ms[start.name]
    able = [timed.latency_ms[c.name] for c in timed.candidates if c.answers(ways.ask)]
    room = (1 + ways.effort.slack) * min(able) / start_ms - 1
    if room < LEAST_ROOM:
        return timed, [], []

    def measured(candidate: Candidate) -> float:
        late = time_candidates((start, candidate), feeds, ways.threads, seed, ways.progress)
        if candidate.name not in late.latency_ms:
            raise EngineFailed(late.refusals[0].reason)
        return late.latency_ms[candidate.name] / late.latency_ms[start.name] - 1

    found: list[Trial] = []
    refusals: list[Refusal] = []
    latency_ms = dict(timed.latency_ms)
    try:
        for trial, share in paid(
            built,
            start,
            ways,
            room,
            lambda trial: trial.agreement.is_faithful,
            measured,
            _fastest_float(built, timed),
        ):
            found.append(trial)
            latency_ms[trial.candidate.name] = (1 + share) * start_ms
    except EdgeError as error:
        refusals.append(Refusal(f"{start.name}, with operators in float", error.message))
    candidates = (*timed.candidates, *(trial.candidate for trial in found))
    return replace(timed, candidates=candidates, latency_ms=latency_ms), found, refusals


def _fastest_float(built: Backend, timed: Timed) -> Mapping[str, object]:
    """The settings of the engine's fastest float model."""
    floats = [c for c in timed.candidates if c.engine == built.engine and c.plan is None]
    floats = [c for c in floats if not (c.stored or c.dynamic or c.as_given)]
    fastest = min(floats, key=lambda c: timed.latency_ms[c.name], default=None)
    return {} if fastest is None else fastest.settings


def _relieved(
    built: Backend, timed: Timed, trials: Sequence[Trial], ways: Ways
) -> tuple[list[Trial], list[Refusal]]:
    """Trials with operators back in float, where the leading plan loses more than the limit."""
    start = _leading_plan(built, timed, trials, ways)
    limit = ways.limits.max_drop
    if start is None or limit is None:
        return [], []

    def enough(trial: Trial) -> bool:
        return trial.drop <= limit

    found: list[Trial] = []
    try:
        if enough(judge(start, ways.expected, ways.threads)):
            return [], []
        for trial in relieve(
            built, start, ways.expected, enough, ways.threads, ways.effort.harm_seconds
        ):
            found.append(trial)
            ways.progress(f"trying {trial.candidate.name}", len(found), len(found) + 1)
    except EdgeError as error:
        return found, [Refusal(f"{start.name}, with operators in float", error.message)]
    return found, []

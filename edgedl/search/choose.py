"""Every way tried, timed side by side, and the one to ship."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgedl.backends import Backend
from edgedl.benchmark.compare import Comparison, compare
from edgedl.benchmark.contest import Contestant, contest, must
from edgedl.benchmark.cores import idle_cores
from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.core.model import Model
from edgedl.core.progress import Progress
from edgedl.core.samples import Samples
from edgedl.core.units import format_bytes
from edgedl.passes.calibrate import calibrate, forecast
from edgedl.passes.graph import quantized_already
from edgedl.passes.ranges import METHODS, Histogram, Method
from edgedl.runtime import engine
from edgedl.search.candidates import (
    Ask,
    Candidate,
    Reference,
    Refusal,
    Trial,
    float_candidates,
    int8_candidates,
    tensors_to_watch,
    try_out,
)
from edgedl.search.limits import Limits, relieve

TIE = 0.01
ALIKE = 0.1
UNRELATED = 0.6


@dataclass(frozen=True, eq=False)
class Ways:
    """What trials are made from: the model as given and cleaned, samples, what is expected, and
    what was asked for."""

    given: Model
    clean: Model
    calibration: Samples
    expected: Reference
    limits: Limits
    threads: int
    progress: Progress
    ask: Ask = "int8"


def try_everything(backends: Sequence[Backend], ways: Ways) -> tuple[list[Trial], list[Refusal]]:
    """Every way on every engine, run and compared with float; and those that did not run."""
    trials, refusals = _try_models(backends, ways)
    for built in backends:
        mine = [
            trial.candidate
            for trial in trials
            if trial.candidate.engine == built.engine and not trial.candidate.as_given
        ]
        kinds = _kinds(mine[0], ways) if mine else set()
        for candidate in mine:
            for label, settings in built.variants(candidate.settings, kinds).items():
                again = replace(
                    candidate, label=f"{candidate.label}, {label}", settings=dict(settings)
                )
                _attempt(again, ways, trials, refusals)
    return trials, refusals


def _kinds(candidate: Candidate, ways: Ways) -> set[str]:
    """The kinds of operators that the engine runs for a candidate."""
    found = engine(candidate.engine).operators(
        candidate.model.path,
        ways.expected.feeds[0],
        settings=candidate.settings,
        threads=ways.threads,
    )
    return {operator.kind for operator in found}


def _try_models(backends: Sequence[Backend], ways: Ways) -> tuple[list[Trial], list[Refusal]]:
    trials: list[Trial] = []
    refusals: list[Refusal] = []
    for built in backends:
        for candidate in float_candidates(built, ways.given, ways.clean):
            if candidate.precision == "float32" or candidate.answers(ways.ask):
                _attempt(candidate, ways, trials, refusals)
    if ways.ask not in ("int8", "auto"):
        return trials, refusals
    if quantized_already(ways.clean):
        refusals.append(Refusal("int8", "the model is quantized already, and left as it is"))
        return trials, refusals
    watched = tensors_to_watch(ways.clean, [built.scheme for built in backends])
    if not watched:
        refusals.append(Refusal("int8", "no operator of the graph has an int8 kernel here"))
        return trials, refusals
    need = forecast(ways.clean, watched, ways.calibration)
    ways.progress(f"calibrating, about {format_bytes(need.peak_bytes)} needed", 0, 1)
    histograms = calibrate(ways.clean, watched, ways.calibration, progress=ways.progress)
    for built in backends:
        first: Trial | None = None
        for found in int8_candidates(built, ways.clean, histograms, ways.expected, ways.threads):
            trial = _attempt(found, ways, trials, refusals)
            first = first or trial
        if first is not None:
            _relieve(built, first, histograms, ways, trials, refusals)
    return trials, refusals


def _attempt(
    candidate: Candidate | Refusal, ways: Ways, trials: list[Trial], refusals: list[Refusal]
) -> Trial | None:
    if isinstance(candidate, Refusal):
        refusals.append(candidate)
        return None
    ways.progress(f"trying {candidate.name}", len(trials), len(trials) + 1)
    try:
        trials.append(try_out(candidate, ways.expected, ways.threads))
    except EdgeError as error:
        refusals.append(Refusal(candidate.name, error.message))
        return None
    return trials[-1]


def _relieve(
    built: Backend,
    first: Trial,
    histograms: Mapping[str, Histogram],
    ways: Ways,
    trials: list[Trial],
    refusals: list[Refusal],
) -> None:
    max_drop = ways.limits.max_drop
    if max_drop is None or first.drop <= max_drop:
        return
    method: Method = next(m for m in METHODS if first.candidate.label.endswith(m))
    more = relieve(
        built,
        ways.clean,
        histograms,
        method,
        first.candidate,
        ways.expected,
        max_drop,
        ways.threads,
    )
    try:
        for trial in more:
            trials.append(trial)
            ways.progress(f"trying {trial.candidate.name}", len(trials), len(trials) + 1)
    except EdgeError as error:
        refusals.append(Refusal(f"{built.engine} int8 with operators in float", error.message))


def time_trials(
    trials: Sequence[Trial],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """The median latency of every trial in milliseconds, from few rounds of all of them.

    Each is the first one's median times the median of the rounds' ratios to it, so that a machine
    whose speed drifts ranks them all the same.
    """
    if not trials:
        raise EngineFailed(
            "no engine could run the model in any way", hint="`edgedl bench` shows why"
        )
    sessions = {trial.candidate.name: trial.candidate.open(threads) for trial in trials}
    try:
        found = compare(
            sessions,
            feeds,
            seconds=0.4 * len(sessions),
            least_rounds=8,
            seed=seed,
            progress=progress,
        )
    finally:
        for session in sessions.values():
            session.close()
    [rounds] = found.processes
    first = rounds.medians_ns(found.names[0])
    return {
        name: float(np.median(first) * np.median(rounds.medians_ns(name) / first)) / 1e6
        for name in found.names
    }


def rank(
    every: Sequence[Trial], latency: Mapping[str, float], limits: Limits, ask: Ask = "int8"
) -> list[Trial]:
    """The trials that may ship, best first: of those that were asked for, the ones that break the
    fewest limits.

    The fastest is first; of those within 1 % of it, the smallest, and of those within 10 % of its
    size, the one that answers most like float. Answers that have nothing to do with float's are
    left out where any others are there.

    Raises:
        Unsupported: nothing that was asked for runs here.
    """
    trials = [trial for trial in every if trial.candidate.answers(ask)]
    if not trials:
        engines = ", ".join(sorted({trial.candidate.engine for trial in every}))
        raise Unsupported(
            f"nothing here computes in {ask} ({engines})"
            if ask != "weights"
            else "the model has no weights that are worth storing in 8 bits",
            hint="`edgedl doctor` lists each engine's precisions; --int8 ships what is fastest",
        )

    def troubles(trial: Trial) -> tuple[int, int]:
        candidate = trial.candidate
        broken = limits.broken(trial.drop, latency[candidate.name], candidate.model.bytes)
        same = trial.agreement
        lost = same.cosine < UNRELATED and (same.top1 is None or same.top1 < 0.5)
        return int(lost), len(broken)

    fewest = min(troubles(trial) for trial in trials)
    able = [trial for trial in trials if troubles(trial) == fewest]
    able.sort(key=lambda trial: latency[trial.candidate.name])
    limit = (1 + TIE) * latency[able[0].candidate.name]
    near = [trial for trial in able if latency[trial.candidate.name] <= limit]
    smallest = min(trial.candidate.model.bytes for trial in near)
    near = [trial for trial in near if trial.candidate.model.bytes <= (1 + ALIKE) * smallest]
    near.sort(key=lambda trial: -trial.agreement.sqnr_db)
    return [*near, *(trial for trial in able if trial not in near)]


def confirm(
    order: Sequence[Trial],
    trials: Sequence[Trial],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seconds: float,
    seed: int,
    progress: Progress,
) -> tuple[Trial, Comparison, Candidate]:
    """The first in order that is not slower than its engine's float32 model, measured at length, on
    new rounds in fresh processes.

    Where all of them are slower, which only limits can bring about, the first.

    Returns:
        The trial, the comparison of `baseline` and `result`, and the baseline.
    """
    found: list[tuple[Trial, Comparison, Candidate]] = []
    for trial in order:
        baseline = _baseline(trial.candidate, trials)
        outcome = contest(
            [_contestant("baseline", baseline), _contestant("result", trial.candidate)],
            feeds,
            threads=threads,
            seconds=seconds,
            yardstick=False,
            seed=seed,
            cores=lambda: idle_cores(threads),
            progress=progress,
        )
        comparison = must(outcome, hint="`edgedl bench` it; the engine may be out of memory")
        found.append((trial, comparison, baseline))
        slower = comparison.ratio("baseline", "result").verdict(comparison.noise_floor) == "slower"
        if not slower or trial.candidate is baseline:
            return found[-1]
    return found[0]


def _contestant(name: str, candidate: Candidate) -> Contestant:
    return Contestant(name, candidate.model.path, candidate.engine, candidate.settings)


def _baseline(candidate: Candidate, trials: Sequence[Trial]) -> Candidate:
    """The float32 model on the same engine, as given where the engine takes it so."""
    floats = [
        trial.candidate
        for trial in trials
        if trial.candidate.engine == candidate.engine and trial.candidate.precision == "float32"
    ]
    return next((c for c in floats if c.as_given), floats[0] if floats else candidate)

"""Candidates timed side by side, the promising ones compared with float, and the one to ship."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgedl.benchmark.compare import Comparison, compare
from edgedl.benchmark.contest import Contestant, contest, must
from edgedl.benchmark.cores import idle_cores
from edgedl.core.errors import EdgeError, EngineFailed, Unsupported
from edgedl.core.memory import give_back
from edgedl.core.progress import Progress
from edgedl.runtime.session import Session
from edgedl.search.candidates import Ask, Candidate, Reference, Refusal, Trial
from edgedl.search.limits import Limits
from edgedl.search.memory import Latencies, careful, judge

TIE = 0.01
ALIKE = 0.1
UNRELATED, UNLIKE = 0.6, 0.9
HEAT = 4
HEAT_BYTES = 64_000_000
HOPELESS = 1.15
SAME_OPERATORS = 0.05
SECONDS_EACH = 0.4
BUSY = 0.05
KNOWN = 0.1

Measured = tuple[Trial, Comparison, Candidate]


@dataclass(frozen=True, eq=False)
class Timed:
    """Candidates' median latencies in milliseconds, by name, and those that did not open.

    `noise_floor` is how far the first differed from itself meanwhile, in the middle of the heats.
    """

    candidates: tuple[Candidate, ...]
    latency_ms: Mapping[str, float]
    refusals: tuple[Refusal, ...]
    noise_floor: float = 0.0


def time_candidates(
    candidates: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seed: int,
    progress: Progress,
) -> Timed:
    """Time candidates in heats of a few, the first that opens in each of them.

    Each latency is the first one's median times the median of the rounds' ratios to it, so that a
    machine whose speed drifts ranks all the same, and no more than a heat is in memory at once.
    What was timed on this machine within a day, while it was quiet, is not timed again, nor is what
    was found in the last 30 days to be 15 % slower than the best.

    Raises:
        EngineFailed: none of them opens.
    """
    refusals: list[Refusal] = []
    rest = list(candidates)
    while rest:
        reference = rest.pop(0)
        try:
            with careful(reference):
                first = reference.open(threads)
            break
        except EdgeError as error:
            refusals.append(Refusal(reference.name, error.message))
    else:
        raise EngineFailed(
            "no engine could run the model in any way", hint="`edgedl bench` shows why"
        )
    kept = Latencies(reference, threads, {n: list(a.shape) for n, a in feeds[0].items()})
    ratios: dict[str, float] = {reference.name: 1.0}
    known = {c.name: ratio for c in rest if (ratio := kept.ratio(c)) is not None}
    settled = {n for n, ratio in known.items() if ratio > HOPELESS * min(1.0, *known.values())}
    settled |= {c.name for c in rest if kept.fresh(c)}
    ratios |= {name: known[name] for name in settled}
    waiting = [candidate for candidate in rest if candidate.name not in settled]
    times_ms: list[float] = []
    floors: list[float] = []
    # What is large is opened again for each heat, behind the others: while a model is opened, its
    # engine takes several times what it keeps.
    large = reference.model.bytes > HEAT_BYTES
    with contextlib.nullcontext() if large else first:
        if large:
            first.close()
        for heat in _heats(waiting, reference.model.bytes):
            found, compared, failed = _heat(
                reference if large else first, heat, feeds, threads, seed, progress
            )
            times_ms.append(float(np.median(compared.processes[0].medians_ns(""))) / 1e6)
            floors.append(compared.noise_floor)
            refusals += failed
            ratios |= found
            timed = ((c, found[c.name]) for c in heat if c.name in found)
            kept.add(timed, compared.noise_floor)
    reference_ms = float(np.median(times_ms))
    lasted = tuple(c for c in candidates if c.name in ratios)
    _level(lasted, ratios)
    latency_ms = {n: r * reference_ms for n, r in ratios.items()}
    return Timed(lasted, latency_ms, tuple(refusals), float(np.median(floors)))


def _heats(waiting: Sequence[Candidate], float_bytes: int) -> list[list[Candidate]]:
    """Candidates a heat, one empty heat where there are none: three at most, and no more than take
    64 MB or as much as the float model together, which is open beside them."""
    heats: list[list[Candidate]] = [[]]
    used = 0
    for candidate in waiting:
        size = float_bytes if candidate.stored else candidate.model.bytes
        if heats[-1] and (len(heats[-1]) == HEAT - 1 or used + size > max(HEAT_BYTES, float_bytes)):
            heats.append([])
            used = 0
        heats[-1].append(candidate)
        used += size
    return heats


def _level(candidates: Sequence[Candidate], ratios: dict[str, float]) -> None:
    """Give float models as they came, and those whose weights are stored in 8 bits, the time of the
    cleaned one that runs the same operators, where no more than noise is between them: what is
    smaller then ships."""
    cleaned = [c for c in candidates if not c.stored and not c.as_given]
    for candidate in candidates:
        for twin in cleaned if candidate.stored or candidate.as_given else ():
            if twin.precision != candidate.precision:
                continue
            if (twin.engine, twin.settings) != (candidate.engine, candidate.settings):
                continue
            if abs(ratios[candidate.name] / ratios[twin.name] - 1) < SAME_OPERATORS:
                ratios[candidate.name] = ratios[twin.name]


def _heat(
    reference: Candidate | Session,
    heat: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seed: int,
    progress: Progress,
) -> tuple[dict[str, float], Comparison, list[Refusal]]:
    """Ratios to the reference by name, the comparison, and what did not open or run.

    Args:
        reference: its session, or what is opened once all others are open.
    """
    refusals: list[Refusal] = []
    with contextlib.ExitStack() as stack:
        others: dict[str, Session] = {}
        for candidate in heat:
            progress(f"timing {candidate.name}", 0, 1)
            try:
                with careful(candidate):
                    session = stack.enter_context(candidate.open(threads))
                    session.run(feeds[0])
                others[candidate.name] = session
            except EdgeError as error:
                refusals.append(Refusal(candidate.name, error.message))
        if isinstance(reference, Candidate):
            reference = stack.enter_context(reference.open(threads))
        sessions: dict[str, Session] = {"": reference, **others}
        seconds = SECONDS_EACH * len(sessions)
        found = compare(
            sessions, feeds, seconds=seconds, least_rounds=8, seed=seed, progress=progress
        )
    [rounds] = found.processes
    own = rounds.medians_ns("")
    ratios = {name: float(np.median(rounds.medians_ns(name) / own)) for name in others}
    return ratios, found, refusals


def judge_promising(
    timed: Timed,
    expected: Reference,
    limits: Limits,
    ask: Ask,
    threads: int,
    progress: Progress,
    keep: Callable[[Trial], object] = lambda _: None,
    slack: float = 0.0,
) -> tuple[list[Trial], list[Refusal]]:
    """Candidates compared with float, the fastest first, until one keeps every limit, and all that
    are as fast as it within 1 %, or within the noise of a busy machine, or within the slack.

    Args:
        slack: how much longer one may take for the sake of its answers.
        keep: is given the best trial so far, each time that it is another.
    """
    able = sorted(
        (c for c in timed.candidates if c.answers(ask)), key=lambda c: timed.latency_ms[c.name]
    )
    trials: list[Trial] = []
    refusals: list[Refusal] = []
    enough = np.inf
    best: Trial | None = None
    for candidate in able:
        latency = timed.latency_ms[candidate.name]
        if latency > enough:
            break
        progress(f"comparing {candidate.name} with float", len(trials), len(able))
        try:
            trials.append(judge(candidate, expected, threads))
        except EdgeError as error:
            refusals.append(Refusal(candidate.name, error.message))
            continue
        now = rank(trials, timed.latency_ms, limits, ask, timed.noise_floor)[0]
        if now is not best:
            best = now
            keep(best)
        if enough == np.inf and troubles(trials[-1], timed.latency_ms, limits) == (0, 0):
            noise = timed.noise_floor if timed.noise_floor > BUSY else TIE
            enough = (1 + max(noise, slack)) * latency
    return trials, refusals


def troubles(trial: Trial, latency_ms: Mapping[str, float], limits: Limits) -> tuple[int, int]:
    """Whether the answers have nothing to do with float's, and how many limits are broken."""
    candidate, same = trial.candidate, trial.agreement
    broken = limits.broken_by(trial, latency_ms[candidate.name])
    if same.top1 is None:
        return int(same.cosine < UNLIKE), len(broken)
    lost = same.cosine < UNRELATED and same.top1 < 0.5
    return int(lost), len(broken)


def rank(
    every: Sequence[Trial],
    latency_ms: Mapping[str, float],
    limits: Limits,
    ask: Ask = "int8",
    noise_floor: float = 0.0,
) -> list[Trial]:
    """The trials that may ship, best first: of those that were asked for, the ones that break the
    fewest limits.

    The fastest is first; of those within 1 % of it, the smallest, and of those within 10 % of its
    size, the one that answers most like float. Answers that have nothing to do with float's are
    left out where any others are there. On a machine that was too busy to tell them apart, the plan
    of the rules stands before one that was placed by costs, which were measured there, too.

    Raises:
        Unsupported: nothing that was asked for runs here.
    """
    trials = [trial for trial in every if trial.candidate.answers(ask)]
    if not trials:
        engines = ", ".join(sorted({trial.candidate.engine for trial in every}))
        raise Unsupported(
            f"nothing here computes in {ask}{f' ({engines})' if engines else ''}"
            if ask != "weights"
            else "the model has no weights that are worth storing in 8 bits",
            hint="`edgedl doctor` lists each engine's precisions; --int8 ships what is fastest",
        )
    fewest = min(troubles(trial, latency_ms, limits) for trial in trials)
    able = [trial for trial in trials if troubles(trial, latency_ms, limits) == fewest]
    able.sort(key=lambda trial: latency_ms[trial.candidate.name])
    limit = (1 + TIE) * latency_ms[able[0].candidate.name]
    near = [trial for trial in able if latency_ms[trial.candidate.name] <= limit]
    smallest = min(trial.candidate.model.bytes for trial in near)
    near = [trial for trial in near if trial.candidate.model.bytes <= (1 + ALIKE) * smallest]
    near.sort(key=lambda trial: -trial.agreement.sqnr_db)
    order = [*near, *(trial for trial in able if trial not in near)]
    rules = next((t for t in order if stands_in(t, order[0], latency_ms, noise_floor)), None)
    return order if rules is None else [rules, *(trial for trial in order if trial is not rules)]


def stands_in(
    trial: Trial, placed: Trial, latency_ms: Mapping[str, float], noise_floor: float
) -> bool:
    """Whether a trial is the rules' plan for the engine of one that was placed by costs, and no
    slower than that by more than the noise of a machine that is too busy to measure on; never in
    place of one whose answers were trained."""
    one, other = trial.candidate, placed.candidate
    if noise_floor <= BUSY or (one.origin, other.origin) != ("rules", "costs"):
        return False
    if other.is_trained and not one.is_trained:
        return False
    slower = latency_ms[one.name] / latency_ms[other.name] - 1
    return one.engine == other.engine and slower <= noise_floor


def confirm(
    order: Iterable[Trial],
    candidates: Sequence[Candidate],
    feeds: Sequence[Mapping[str, np.ndarray]],
    threads: int,
    seconds: float,
    seed: int,
    progress: Progress,
    latency_ms: Mapping[str, float],
) -> Measured:
    """The first in order that is not slower than its engine's float32 model, measured at length, on
    new rounds in fresh processes.

    Where all of them are slower, which only limits can bring about, the first. Where the machine
    was too busy to tell, and the rules' plan stands in for one that was placed, that.

    Args:
        latency_ms: what the candidates took before, by name.

    Returns:
        The trial, the comparison of `baseline` and `result`, and the baseline.
    """

    def measured(trial: Trial) -> Measured:
        baseline = baseline_of(trial.candidate, candidates)
        give_back()
        outcome = contest(
            [_contestant("baseline", baseline), _contestant("result", trial.candidate)],
            feeds,
            threads=threads,
            seconds=seconds,
            yardstick=False,
            seed=seed,
            cores=lambda: idle_cores(threads),
            progress=progress,
            enough=_clear,
        )
        hint = "`edgedl bench` it; the engine may be out of memory"
        return trial, must(outcome, hint=hint), baseline

    return decided(iter(order), measured, latency_ms)


def _clear(found: Comparison) -> bool:
    """Whether the result is faster or slower beyond doubt, by a ratio that is known to a tenth."""
    ratio = found.ratio("baseline", "result")
    clear = ratio.verdict(found.noise_floor) != "inconclusive"
    return clear and found.noise_floor <= BUSY and ratio.width <= KNOWN


def decided(
    order: Iterator[Trial],
    measured: Callable[[Trial], Measured],
    latency_ms: Mapping[str, float],
) -> Measured:
    """What `confirm` gives, by whatever measures a trial beside its baseline."""
    found: list[Measured] = []
    for trial in order:
        found.append(measured(trial))
        if not _lost(found[-1]):
            noise = found[-1][1].noise_floor
            if noise <= BUSY or trial.candidate.origin != "costs":
                return found[-1]
            rules = next((t for t in order if stands_in(t, trial, latency_ms, noise)), None)
            other = found[-1] if rules is None else measured(rules)
            return found[-1] if _lost(other) else other
    return found[0]


def _lost(found: Measured) -> bool:
    trial, comparison, baseline = found
    verdict = comparison.ratio("baseline", "result").verdict(comparison.noise_floor)
    return verdict == "slower" and trial.candidate is not baseline


def _contestant(name: str, candidate: Candidate) -> Contestant:
    return Contestant(name, candidate.model.path, candidate.engine, candidate.settings)


def baseline_of(candidate: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """The float32 model on the same engine, as given where the engine takes it so."""
    floats = [c for c in candidates if c.engine == candidate.engine and c.precision == "float32"]
    return next((c for c in floats if c.as_given), floats[0] if floats else candidate)

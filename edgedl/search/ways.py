"""Every way to run a model on the engines of a target that is worth timing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgedl.backends import Backend
from edgedl.backends.ort_gpu import NO_INT8
from edgedl.core.errors import EdgeError
from edgedl.core.model import Model
from edgedl.core.progress import Progress
from edgedl.core.samples import Samples
from edgedl.core.target import Scheme
from edgedl.core.units import format_bytes
from edgedl.passes.calibrate import calibrate, forecast
from edgedl.passes.correct import CorrectBias, channel_means
from edgedl.passes.graph import quantized_already, rewrite
from edgedl.passes.place import Place
from edgedl.passes.plan_file import PlanFile, fit
from edgedl.passes.scales import decide
from edgedl.runtime import engine
from edgedl.search.candidates import (
    Ask,
    Candidate,
    Reference,
    Refusal,
    dynamic_candidate,
    float_candidates,
    has_choices,
    in_half,
    narrower,
    stored_weights,
    tensors_to_watch,
)
from edgedl.search.effort import EFFORTS, WORTH_DB, Effort
from edgedl.search.exactness import FEW, best_ranges, needs_multiplications
from edgedl.search.limits import Limits
from edgedl.search.memory import careful, judge
from edgedl.search.placement import Bench, place_by_cost, runs_for
from edgedl.search.prepared import Prepared, as_planned, counted
from edgedl.search.schemes import in_better_scheme

WORTH_REDUCING = 0.1

PLANNED = "as planned"
REST_IN_HALF = "rest in float16"


@dataclass(frozen=True, eq=False)
class Ways:
    """What candidates are made from: the model as given and cleaned, samples, what is expected, and
    what was asked for."""

    given: Model
    clean: Model
    calibration: Samples
    expected: Reference
    limits: Limits
    threads: int
    progress: Progress
    ask: Ask = "int8"
    plan: PlanFile | None = None
    effort: Effort = EFFORTS["fast"]


@dataclass(frozen=True, eq=False)
class Gathered:
    """Candidates, and those that could not be made."""

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]


def gather(backends: Sequence[Backend], ways: Ways) -> Gathered:
    """The float model as given, cleaned, and in other precisions, and int8 by cost and by rules."""
    found: list[Candidate | Refusal] = []
    for built in backends:
        found += [
            candidate
            for candidate in float_candidates(built, ways.given, ways.clean)
            if candidate.precision == "float32" or candidate.answers(ways.ask)
        ]
    if ways.ask in ("int8", "auto", "dynamic") and not quantized_already(ways.clean):
        found += [one for built in backends if (one := dynamic_candidate(built, ways.clean))]
    prepared = None
    if ways.plan is not None:
        found += [_planned(built, ways, ways.plan) for built in backends]
    if ways.ask in ("int8", "auto"):
        prepared = _prepared(backends, ways)
    if isinstance(prepared, Refusal):
        found.append(prepared)
    elif prepared is not None:
        for built in backends:
            found += _int8(built, ways, prepared)
    candidates = [one for one in found if isinstance(one, Candidate)]
    for built in backends:
        candidates += _variants(built, ways, candidates)
    refusals = tuple(one for one in found if isinstance(one, Refusal))
    return Gathered(tuple(candidates), refusals)


def _prepared(backends: Sequence[Backend], ways: Ways) -> Prepared | Refusal:
    """The cleaned model and its histograms, nothing repaired yet."""
    if quantized_already(ways.clean):
        return Refusal("int8", "the model is quantized already, and left as it is (--force)")
    schemes = [s for b in backends for s in (b.scheme, *b.schemes)]
    watched = tensors_to_watch(ways.clean, schemes)
    if not watched and not has_choices(ways.clean, schemes):
        without = not any(built.scheme.operators for built in backends)
        reason = NO_INT8 if without else "no operator of the graph has an int8 kernel here"
        return Refusal("int8", reason)
    if not watched:
        return Prepared(ways.clean, {})
    need = forecast(ways.clean, watched, ways.calibration)
    ways.progress(f"calibrating, about {format_bytes(need.peak_bytes)} needed", 0, 1)
    histograms = counted(ways.clean, watched, ways.calibration, ways.progress)
    return Prepared(ways.clean, histograms)


def _int8(built: Backend, ways: Ways, prepared: Prepared) -> Iterator[Candidate | Refusal]:
    """The full plan and that of least cost, for each precision of what stays float where that is
    a tenth of the time; where costs cannot be told, the rules' narrower plans."""
    ways.progress(f"choosing ranges for {built.engine}", 0, 1)
    usual = built.scheme
    built = in_better_scheme(built, prepared, ways.expected, ways.threads, ways.progress)
    full = _best(built, ways, prepared)
    if full is None or isinstance(full, Refusal):
        yield from [full] if full else []
        return
    if built.typed:
        yield full
        yield in_half(replace(full, label=f"{full.label}, {REST_IN_HALF}"))
        return
    if (dearer := _dearer(built, ways, prepared, full)) is not None:
        yield from _placed(built, usual, ways, dearer, narrow=False)
    yield from _placed(built, usual, ways, full)


def int8_of(built: Backend, ways: Ways) -> Candidate | Refusal | None:
    """Int8 as far as the rules go, with the ranges that answer most like float; None where they put
    nothing into int8."""
    prepared = _prepared([built], ways)
    return prepared if isinstance(prepared, Refusal) else _best(built, ways, prepared)


def _best(
    built: Backend, ways: Ways, prepared: Prepared, *, insert: bool = False
) -> Candidate | Refusal | None:
    return best_ranges(
        built,
        prepared,
        ways.calibration,
        ways.expected,
        ways.threads,
        ways.effort.mixing_seconds,
        ways.progress,
        insert=insert,
    )


def _dearer(built: Backend, ways: Ways, prepared: Prepared, full: Candidate) -> Candidate | None:
    """Int8 with multiplications that take time and even out channels, where the effort has speed to
    spare, answers are not like float's, and these come clearly nearer."""
    scheme = built.scheme
    if not ways.effort.slack or scheme.free_multiplications:
        return None
    if not needs_multiplications(prepared.model):
        return None
    few = ways.expected.take(FEW)
    before = judge(full, few, ways.threads)
    if before.agreement.is_faithful:
        return None
    found = _best(built, ways, prepared, insert=True)
    if not isinstance(found, Candidate):
        return None
    after = judge(found, few, ways.threads)
    gained = after.agreement.sqnr_db - before.agreement.sqnr_db
    return replace(found, label=f"{found.label} at a price") if gained >= WORTH_DB else None


def _placed(
    built: Backend, usual: Scheme, ways: Ways, full: Candidate, narrow: bool = True
) -> Iterator[Candidate | Refusal]:
    """A full plan and that of least cost, for each precision of what stays float.

    Args:
        narrow: whether the rules' narrower plans come where costs cannot be told.
    """
    method = full.method
    assert method is not None
    if built.scheme != usual:
        full = replace(full, label=f"{full.label}, {built.scheme.name.split(', ')[-1]}")
    feed = ways.expected.feeds[0]
    assert full.prepared is not None
    runs = runs_for(built, full.prepared.model, feed, ways.threads)
    bench = Bench(built, feed, ways.threads, ways.progress, runs, ways.expected.take(2))
    rests = {full.label: full.settings}
    rests |= {f"{full.label}, {label}": s for label, s in built.rests().items()}
    for label, settings in rests.items():
        whole = replace(full, label=label, settings=settings, origin="rules")
        try:
            found = place_by_cost(bench, whole, len(ways.calibration))
        except EdgeError as error:
            yield whole
            yield Refusal(f"{whole.name}, placed by cost", error.message)
            yield from narrower(built, full.prepared, method) if narrow else ()
            return
        yield whole.with_costs(found.costs)
        if found.candidate is not whole:
            yield replace(found.candidate.with_costs(found.costs), origin="costs")
        if found.float_share < WORTH_REDUCING:
            return


def _planned(built: Backend, ways: Ways, written: PlanFile) -> Candidate:
    return planned(built, ways.clean, ways.calibration, written, ways.progress)


def planned(
    built: Backend, clean: Model, calibration: Samples, written: PlanFile, progress: Progress
) -> Candidate:
    """The plan as it was written, with scales from calibration where it has none."""
    prepared = as_planned(clean, written, calibration, progress)
    clean = prepared.model
    found = fit(written, clean)
    given = {found.groups[name] for name in written.scales if name in found.groups}
    lacking = [name for name, group in found.groups.items() if group not in given]
    histograms = calibrate(clean, lacking, calibration, progress=progress) if lacking else {}
    decided = decide(found, built.scheme, histograms, written.ranges, written.scales)
    tables = decided.tables if written.tables is None else written.tables
    decided = replace(
        decided, shifted=written.shifted, narrow=written.narrow, tables=tables, bits=written.bits
    )
    means = channel_means(clean, decided, calibration) if written.corrected else None
    corrected = (CorrectBias(decided, means),) if means is not None else ()
    stored = stored_weights(built.scheme, written.exact)
    model = rewrite(clean, *corrected, Place(decided), stored)
    return Candidate(
        built.engine, "int8", PLANNED, model, dict(written.settings), decided,
        method=written.ranges, means=means, exact=written.exact, prepared=prepared,
    )  # fmt: skip


def _variants(built: Backend, ways: Ways, candidates: Sequence[Candidate]) -> list[Candidate]:
    mine = [c for c in candidates if c.engine == built.engine and not c.as_given]
    if not mine or ways.plan is not None:  # a plan says its settings
        return []
    first = mine[0]
    try:
        with careful(first):
            ran = engine(first.engine).operators(
                first.model.path,
                ways.expected.feeds[0],
                settings=first.settings,
                threads=ways.threads,
            )
    except EdgeError:
        return []
    kinds = {operator.kind for operator in ran}
    return [
        replace(candidate, label=f"{candidate.label}, {label}", settings=dict(settings))
        for candidate in mine
        for label, settings in built.variants(candidate.settings, kinds).items()
    ]

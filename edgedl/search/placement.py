"""Which operators compute in int8, from what each costs on this machine, and looked at again."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from edgedl.backends import Backend
from edgedl.core.model import Model
from edgedl.core.progress import Progress
from edgedl.passes.crossings import Choices, choices
from edgedl.passes.plan import Cost
from edgedl.passes.ranges import Histogram
from edgedl.runtime import engine
from edgedl.search.candidates import Candidate, Reference, int8_candidate
from edgedl.search.choose import UNRELATED
from edgedl.search.costs import CostTable, Spent, spend
from edgedl.search.memory import careful, judge, machine_parts, open_carefully

COMPUTED_IN_FLOAT = "the engine computes it in float here, whatever the graph says"
CHEAPER_IN_FLOAT = "costs less in float here, with the conversions around it"
MOST_TURNS = 4
CLEARLY, CLEARLY_US = 0.95, 2.0
PROFILE_SECONDS = 0.5
FEW_RUNS, LEAST_RUNS, MOST_RUNS = 2, 8, 60


@dataclass(frozen=True, eq=False)
class Bench:
    """What placing needs to measure: an engine, an input and threads; and, where answers are
    compared as well, those of the float model to a few inputs."""

    backend: Backend
    feed: Mapping[str, np.ndarray]
    threads: int
    progress: Progress
    runs: int = MOST_RUNS
    expected: Reference | None = None


def runs_for(backend: Backend, model: Model, feed: Mapping[str, np.ndarray], threads: int) -> int:
    """How many calls of a model take about half a second, within 8 and 60.

    Raises:
        EngineFailed: the engine refuses the model.
    """
    settings = backend.settings("float32")
    with open_carefully(backend.engine, model, settings, threads) as session:
        session.run(feed)
        began = perf_counter()
        session.run(feed)
        taken = perf_counter() - began
    return int(np.clip(PROFILE_SECONDS / max(taken, 1e-6), LEAST_RUNS, MOST_RUNS))


@dataclass(frozen=True, eq=False)
class Placed:
    """The plan of least time, the table that it was found in, and the share of the full plan's
    time that is spent in float."""

    candidate: Candidate
    costs: tuple[Cost, ...]
    float_share: float


def place_by_cost(bench: Bench, full: Candidate, calibrated: int) -> Placed:
    """The plan of least time.

    The float model and the full plan are profiled, unless the store knows all of their operators'
    times from this machine. The plan of least sum is placed and profiled in turn, and what that
    shows is added to the table, until the least sum is a plan that was seen before: what a
    conversion costs, and what is no longer fused, is learned where it happens. The plan that took
    least of those that were profiled is given, which may be the full one; where the store knows
    all, that of the least sum. What the engine's own graph then computes in float all the same is
    put back into float, and the plan made anew.

    Args:
        calibrated: how many samples the histograms count.

    Raises:
        EngineFailed: the engine refuses a model. Unsupported: the engine does not tell which
            operators its kernels stand for.
    """
    assert full.plan is not None
    assert full.method is not None
    assert full.prepared is not None
    prepared, clean = full.prepared, full.prepared.model
    found = _sized(choices(clean, bench.backend.scheme), prepared.histograms, calibrated)
    table = _table(bench, full)
    known = _knows_all(table, found) and clean.digest in table.float_shares
    best, rest_us = (math.inf, full), None
    lost: frozenset[str] = frozenset()
    if not known:
        rest_us, spent = _profile_both(table, bench, full, found)
        best = (spent.total_us, full)
        lost = spent.lost
        table.add_share(clean.digest, spent.rest_us / max(spent.total_us, 1e-9))
    seen = set() if known else {full.plan.int8}
    for _ in range(MOST_TURNS):
        chosen = table.best(found, bench.backend.scheme.optional_outputs, lost)
        kept = {
            name: COMPUTED_IN_FLOAT if name in lost else CHEAPER_IN_FLOAT
            for name in found.operators
            if name not in chosen
        }
        candidate = int8_candidate(
            bench.backend,
            prepared,
            full.method,
            keep_float=kept,
            settings=full.settings,
            means=full.means,
            narrow=full.plan.narrow,
            label=f"{full.label}, placed",
        )
        assert candidate.plan is not None
        if candidate.plan.int8 in seen or not candidate.plan.int8:
            break
        seen.add(candidate.plan.int8)
        if candidate.plan.int8 == full.plan.int8:
            candidate = full
        if known:
            newly = _looked_at(bench, candidate, found).lost - lost
        else:
            spent = _profile(table, bench, candidate, found, rest_us)
            newly = spent.lost - lost
        lost |= newly
        if known and newly:
            continue
        if not _answers(bench, candidate):
            continue
        if known:
            best = (0.0, candidate)
            break
        best = min(best, (spent.total_us, candidate), key=lambda one: one[0])
    winner = _shifted(table, bench, best[1], found)
    assert winner.plan is not None
    costs = table.rows(found, set(winner.plan.int8))
    return Placed(winner, costs, table.float_shares[clean.digest])


def priced(bench: Bench, full: Candidate, calibrated: int) -> tuple[CostTable, Choices]:
    """A table that knows the operators of a plan's float model in float and in int8, profiled where
    the store does not tell; and the operators.

    Args:
        calibrated: how many samples the histograms count.

    Raises:
        EngineFailed: the engine refuses a model. Unsupported: the engine does not tell which
            operators its kernels stand for.
    """
    assert full.prepared is not None
    histograms, clean = full.prepared.histograms, full.prepared.model
    found = _sized(choices(clean, bench.backend.scheme), histograms, calibrated)
    table = _table(bench, full)
    if not _knows_all(table, found):
        _profile_both(table, bench, full, found)
    return table, found


def _knows_all(table: CostTable, found: Choices) -> bool:
    return table.knows(found, "float") and table.knows(found, "int8")


def _profile_both(
    table: CostTable, bench: Bench, full: Candidate, found: Choices
) -> tuple[float, Spent]:
    """What the float model spends on everything that has no row, and where the plan's time goes;
    both are added to the table."""
    assert full.prepared is not None
    as_float = replace(full, precision="float32", model=full.prepared.model, plan=None)
    rest_us = _profile(table, bench, as_float, found, None).rest_us
    return rest_us, _profile(table, bench, full, found, rest_us)


def _answers(bench: Bench, candidate: Candidate) -> bool:
    """Whether a plan's answers have to do with float's at all: OpenVINO 2026.4 computes some
    mixtures of float and int8 around one tensor wrongly."""
    if bench.expected is None:
        return True
    return judge(candidate, bench.expected, bench.threads).agreement.cosine >= UNRELATED


def _shifted(
    table: CostTable,
    bench: Bench,
    winner: Candidate,
    found: Choices,
) -> Candidate:
    """The winner with the weights of those operators shifted by one whose other kernel is faster
    here; the winner itself where none is."""
    assert winner.plan is not None
    assert winner.method is not None
    assert winner.prepared is not None
    method, narrow, prepared = winner.method, winner.plan.narrow, winner.prepared
    kinds = bench.backend.scheme.shift
    able = [n for n in winner.plan.int8 if found.operators.get(n) in kinds]
    if not able:
        return winner
    kept = {d.node: d.reason for d in winner.plan.decisions if d.precision == "float"}

    def candidate(nodes: Collection[str]) -> Candidate:
        return int8_candidate(
            bench.backend,
            prepared,
            method,
            keep_float=kept,
            settings=winner.settings,
            means=winner.means,
            shifted=nodes,
            narrow=narrow,
            label=f"{winner.label}, other kernels",
        )

    if any(table.us(found.signatures[node], "shifted") is None for node in able):
        bench.progress(f"profiling {winner.name} with other kernels", 0, 1)
        every = candidate(able)
        with careful(every):
            spent = spend(every, found, bench.feed, bench.threads, bench.runs)
        table.add_shifted(spent, found, able)
    faster = []
    for node in able:
        own, other = (table.us(found.signatures[node], state) for state in ("int8", "shifted"))
        if own is None or other is None:
            continue
        if other < min(CLEARLY * own, own - CLEARLY_US):
            faster.append(node)
    return candidate(faster) if faster else winner


def _table(bench: Bench, full: Candidate) -> CostTable:
    return CostTable.of(
        machine=machine_parts(),
        engine=bench.backend.engine,
        version=engine(bench.backend.engine).version,
        settings=dict(full.settings),
        scheme=bench.backend.scheme.name,
        threads=bench.threads,
        inputs={name: list(array.shape) for name, array in sorted(bench.feed.items())},
    )


def _sized(found: Choices, histograms: Mapping[str, Histogram], calibrated: int) -> Choices:
    """With the sizes that calibration saw where the graph does not tell them."""
    crossings = tuple(
        crossing
        if crossing.elements or crossing.tensor not in histograms
        else replace(crossing, elements=histograms[crossing.tensor].count // max(1, calibrated))
        for crossing in found.crossings
    )
    return replace(found, crossings=crossings)


def _looked_at(bench: Bench, candidate: Candidate, found: Choices) -> Spent:
    """Where the time of a few calls goes, which is not kept."""
    with careful(candidate):
        return spend(candidate, found, bench.feed, bench.threads, FEW_RUNS)


def _profile(
    table: CostTable, bench: Bench, candidate: Candidate, found: Choices, rest_us: float | None
) -> Spent:
    bench.progress(f"profiling {candidate.name}", 0, 1)
    with careful(candidate):
        spent = spend(candidate, found, bench.feed, bench.threads, bench.runs)
    table.add(spent, found, candidate.plan, rest_us)
    return spent

"""Which operators compute in int8, from what each costs on this machine, and looked at again."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from edgedl.backends import Backend
from edgedl.core.model import Model
from edgedl.core.progress import Progress
from edgedl.passes.crossings import Choices, choices
from edgedl.passes.plan import Cost
from edgedl.passes.ranges import Histogram
from edgedl.runtime import engine
from edgedl.search.candidates import Candidate, int8_candidate
from edgedl.search.costs import CostTable, Spent, spend
from edgedl.search.memory import machine_parts

CHEAPER_IN_FLOAT = "costs less in float here, with the conversions around it"
MOST_TURNS = 4
CLEARLY = 0.95


@dataclass(frozen=True, eq=False)
class Bench:
    """What placing needs to measure: an engine, the float model, an input and threads."""

    backend: Backend
    clean: Model
    feed: Mapping[str, np.ndarray]
    threads: int
    progress: Progress


def place_by_cost(
    bench: Bench, full: Candidate, histograms: Mapping[str, Histogram], calibrated: int
) -> tuple[Candidate, tuple[Cost, ...]]:
    """The plan of least time, and the table that it was found in.

    The float model and the full plan are profiled, unless the store knows all of their operators'
    times from this machine. The plan of least sum is placed and profiled in turn, and what that
    shows is added to the table, until the least sum is a plan that was seen before: what a
    conversion costs, and what is no longer fused, is learned where it happens. The plan that took
    least of those that were profiled is given, which may be the full one.

    Args:
        calibrated: how many samples the histograms count.

    Raises:
        EngineFailed: the engine refuses a model. Unsupported: one passes 2 GiB, or the engine does
            not tell which operators its kernels stand for.
    """
    assert full.plan is not None
    assert full.method is not None
    found = _sized(choices(bench.clean, bench.backend.scheme), histograms, calibrated)
    table = _table(bench, full)
    known = table.knows(found, "float") and table.knows(found, "int8")
    best, rest_us = (math.inf, full), None
    if not known:
        as_float = replace(full, precision="float32", model=bench.clean, plan=None)
        rest_us = _profile(table, bench, as_float, found, None).rest_us
        best = (_profile(table, bench, full, found, rest_us).total_us, full)
    seen = {full.plan.int8}
    for _ in range(1 if known else MOST_TURNS):
        chosen = table.best(found, bench.backend.scheme.optional_outputs)
        kept = {name: CHEAPER_IN_FLOAT for name in found.operators if name not in chosen}
        candidate = int8_candidate(
            bench.backend,
            bench.clean,
            histograms,
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
        spent = _profile(table, bench, candidate, found, rest_us)
        best = min(best, (spent.total_us, candidate), key=lambda one: one[0])
    winner = _shifted(table, bench, best[1], histograms, found)
    assert winner.plan is not None
    return winner, table.rows(found, winner.plan.int8)


def _shifted(
    table: CostTable,
    bench: Bench,
    winner: Candidate,
    histograms: Mapping[str, Histogram],
    found: Choices,
) -> Candidate:
    """The winner with the weights of those operators shifted by one whose other kernel is faster
    here; the winner itself where none is."""
    assert winner.plan is not None
    assert winner.method is not None
    method, narrow = winner.method, winner.plan.narrow
    kinds = bench.backend.scheme.shift
    able = [n for n in winner.plan.int8 if found.operators.get(n) in kinds]
    if not able:
        return winner
    kept = {d.node: d.reason for d in winner.plan.decisions if d.precision == "float"}

    def candidate(nodes: Collection[str]) -> Candidate:
        return int8_candidate(
            bench.backend,
            bench.clean,
            histograms,
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
        spent = spend(candidate(able), found, bench.feed, bench.threads)
        table.add_shifted(spent, found, able)
    faster = []
    for node in able:
        own, other = (table.us(found.signatures[node], state) for state in ("int8", "shifted"))
        if own is not None and other is not None and other < CLEARLY * own:
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


def _profile(
    table: CostTable, bench: Bench, candidate: Candidate, found: Choices, rest_us: float | None
) -> Spent:
    bench.progress(f"profiling {candidate.name}", 0, 1)
    spent = spend(candidate, found, bench.feed, bench.threads)
    table.add(spent, found, candidate.plan, rest_us)
    return spent

"""The end of the line on engines that are here: what is fastest, and ships."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from edgedl.backends import Backend
from edgedl.benchmark.compare import Comparison
from edgedl.benchmark.machine import processor_of, this_machine
from edgedl.core.memory import peak_rss_bytes
from edgedl.core.stats import Agreement
from edgedl.report.compressed import Choice, Compressed
from edgedl.search.candidates import Ask, Trial
from edgedl.search.choose import BUSY, confirm
from edgedl.search.find import Search, find, in_order
from edgedl.search.foretold import foretold
from edgedl.search.limits import Limits
from edgedl.search.outcome import outcome
from edgedl.search.told import float_reasons, plan_text
from edgedl.search.why import computed_in_float, reasons, too_busy, trained
from edgedl.ship import Order, Shipped, count_operators, precision_of, ship

MOST_FEEDS = 32


def timed(backends: Sequence[Backend], order: Order, *, seed: int, seconds: float) -> Compressed:
    """What ships: the fastest way of all engines that keeps the limits, by interleaved runs.

    Args:
        seconds: the budget of the last, decisive timing.

    Raises:
        EdgeError: nothing that was built could be run, or cannot be written.
    """
    ways, output, target = order.ways, order.output, str(order.notes["target"])
    limits, threads, progress = ways.limits, ways.threads, ways.progress
    feeds = list(order.choice.take(range(min(MOST_FEEDS, len(order.choice)))))
    shipped: Shipped | None = None

    def keep(trial: Trial, **more: Any) -> Shipped:
        nonlocal shipped
        shipped = ship(
            trial, order.report, output, threads, {**order.notes, **more}, order.processing,
            shipped, fallbacks="unconfirmed" not in more,
        )  # fmt: skip
        return shipped

    search = find(backends, ways, feeds, seed, partial(keep, unconfirmed=True))
    first = search.timed
    winner, comparison, baseline = confirm(
        in_order(search, ways), first.candidates, feeds, threads, seconds, seed, progress,
        first.latency_ms,
    )  # fmt: skip
    noise = max(first.noise_floor, comparison.noise_floor)
    ratio = comparison.ratio("baseline", "result")
    machine = this_machine().to_json()
    final = keep(winner, speedup=ratio.to_json(), machine=machine)
    operators = final.operators
    chosen = winner.candidate
    judged = outcome(
        baseline, chosen, order.report, order.metric, threads, progress, ways.expected.machine
    )
    alike, drop = judged.agreement, judged.beside(winner.drop, len(ways.expected.feeds))
    size = output.stat().st_size
    result = comparison.measurements["result"]
    result_ms = result.latency_ms()
    return Compressed(
        source=order.model, output=output, engine=chosen.engine, target=target,
        precision=precision_of(operators), threads=threads, bytes=size,
        baseline_bytes=ways.given.bytes,
        baseline_ms=comparison.measurements["baseline"].latency_ms(), result_ms=result_ms,
        speedup=ratio, verdict=ratio.verdict(comparison.noise_floor),
        noise_floor=comparison.noise_floor, agreement=alike, accuracy=judged.accuracy,
        against_float=judged.against_float, failed=judged.failed,
        operators=count_operators(operators), choices=_choices(search, limits, winner),
        float_reasons=float_reasons(winner),
        why=(
            *too_busy(chosen, first.candidates, first.latency_ms, noise),
            *trained(winner, search.trials),
            *reasons(chosen, operators, first.latency_ms),
        ),
        costs=tuple(cost.to_json() for cost in chosen.costs),
        plan=plan_text(chosen, ways.clean),
        tuned=None if chosen.prepared is None else chosen.prepared.tuned,
        doubts=(
            *order.doubts,
            *foretold(processor_of(target), chosen.engine),
            *computed_in_float(chosen, operators, final.names),
            *_late_doubts(winner, alike, comparison, noise, ways.ask),
            *([doubt] if (doubt := drop.doubt(limits.max_drop)) else []),
        ),
        broken=limits.broken(
            drop.reported, float(np.median(result.samples_ns)) / 1e6, size, drop.about
        ),
        seconds=perf_counter() - order.began, peak_rss_bytes=peak_rss_bytes(), machine=machine,
        baseline="quantized" if baseline.coded else "float32",
    )  # fmt: skip


def _choices(search: Search, limits: Limits, winner: Trial) -> tuple[Choice, ...]:
    rows = []
    trials = {trial.candidate.name: trial for trial in (*search.trials, winner)}
    for candidate in search.timed.candidates:
        milliseconds = search.timed.latency_ms[candidate.name]
        trial = trials.get(candidate.name)
        broken = limits.broken_by(trial, milliseconds) if trial else ()
        unfit = (candidate.unfit,) if candidate.unfit else ()
        outcome = "ships" if trial is winner else "; ".join((*unfit, *broken))
        rows.append(
            Choice(
                candidate.name,
                milliseconds,
                trial.agreement if trial else None,
                trial.drop if trial else None,
                candidate.model.bytes,
                outcome,
            )
        )
    rows += [Choice(r.name, None, None, None, None, r.reason) for r in search.refusals]
    return tuple(rows)


def _late_doubts(
    winner: Trial, alike: Agreement, comparison: Comparison, noise: float, ask: Ask
) -> list[str]:
    doubts = []
    if alike.cosine < 0.98 or (alike.top1 is not None and alike.top1 < 0.95):
        top1 = "" if alike.top1 is None else f"top-1 agreement {alike.top1:.3f}, "
        doubts.append(
            f"the answers moved ({top1}cosine {alike.cosine:.4f}); `--effort normal` looks for"
            " closer ones, `--max-drop 1%` sets a limit"
        )
    if comparison.unsteady:
        doubts.append(
            "the timings did not become steady: the machine is busy, or its clock changes"
        )
    if noise > BUSY:
        doubts.append(
            "the machine was too busy to measure on: the same model differed from itself by"
            f" {100 * noise:.0f} %, and ways that are nearer to one another were not told apart"
        )
    if winner.candidate.coded:
        doubts.append(
            "the model is quantized already: it ships as it is, and is its own baseline; --force"
            " takes its quantizers out and makes them anew"
        )
    elif winner.candidate.precision != "int8" and ask in ("int8", "auto"):
        doubts.append(f"computing in int8 did not win here; {winner.candidate.label} ships")
    return doubts

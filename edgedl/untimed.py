"""The end of the line for a GPU that is not here: what ships was never timed, and says so."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter

from edgedl.backends import backend
from edgedl.backends.as_onnx import AsOnnx
from edgedl.backends.emulated import Emulated
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import Unsupported
from edgedl.core.memory import peak_rss_bytes
from edgedl.report.compressed import Choice, Compressed
from edgedl.search.candidates import Candidate
from edgedl.search.limits import Limits
from edgedl.search.outcome import outcome
from edgedl.search.told import float_reasons, plan_text
from edgedl.search.untimed import Untimed, doubts_of, fallback, find_untimed, reasons_of
from edgedl.ship import Order, ship


def untimed(standing: Emulated, order: Order) -> Compressed:
    """What ships for a GPU that is not here: chosen by its answers, built ahead of time, with a
    payload of onnxruntime's behind it that answers meanwhile.

    Raises:
        EdgeError: nothing was made, or cannot be written.
    """
    ways, output = order.ways, order.output
    if ways.limits.max_latency_ms is not None:
        raise Unsupported(
            f"--max-latency cannot be kept without {standing.needs}: nothing is timed",
            hint="leave it out, or run it on the device",
        )
    found = find_untimed(standing, ways)
    winner, meanwhile = found.winner, fallback(found.winner, ways)
    build = found.build.to_json()
    settings = {"build": build} if build and standing.parsed else {}
    built = backend(standing.stands_for)
    assert isinstance(built, AsOnnx), "what is stood for opens ONNX files"
    machine = this_machine().to_json()
    ship(
        replace(winner, candidate=meanwhile), order.report, output, ways.threads,
        {**order.notes, "unmeasured": True, "machine": machine}, order.processing,
        ahead=built.payload(winner.candidate.precision, settings),
    )  # fmt: skip
    baseline = Candidate(standing.engine, "float32", "float32", ways.given, {})
    judged = outcome(
        baseline, winner.candidate, order.report, order.metric, ways.threads, ways.progress
    )
    drop = judged.beside(winner.drop, len(ways.expected.feeds))
    size = output.stat().st_size
    products = found.proof.products()
    int8 = len(winner.candidate.plan.int8) if winner.candidate.plan else 0
    told = {"int8": products["int8"], "float": sum(products.values()) - products["int8"]}
    limits = replace(ways.limits, max_latency_ms=None)
    return Compressed(
        source=order.model, output=output, engine=standing.stands_for,
        target=str(order.notes["target"]), precision=winner.candidate.precision,
        threads=ways.threads, bytes=size,
        baseline_bytes=ways.given.bytes, baseline_ms=None, result_ms=None, speedup=None,
        verdict=None, noise_floor=None, agreement=judged.agreement, accuracy=judged.accuracy,
        against_float=judged.against_float, failed=judged.failed,
        operators=told if products else {"int8": int8, "float": 0},
        choices=_choices(standing, found, limits),
        float_reasons=float_reasons(winner), why=tuple(reasons_of(found)), costs=(),
        plan=plan_text(replace(winner.candidate, engine=standing.stands_for), ways.clean),
        tuned=None, doubts=(*doubts_of(standing, found), *order.doubts),
        broken=limits.broken(drop.reported, 0.0, size, drop.about),
        seconds=perf_counter() - order.began, peak_rss_bytes=peak_rss_bytes(), machine=machine,
    )  # fmt: skip


def _choices(standing: Emulated, found: Untimed, limits: Limits) -> tuple[Choice, ...]:
    tried = (
        Choice(
            f"{standing.stands_for} {one.candidate.label}",
            None,
            one.agreement,
            one.drop,
            one.candidate.model.bytes,
            "ships" if one is found.winner else "; ".join(limits.broken_by(one, 0.0)),
        )
        for one in found.trials
    )
    refused = (Choice(r.name, None, None, None, None, r.reason) for r in found.refusals)
    return (*tried, *refused)

"""How int8 answers most like float, by trying on samples that calibration did not see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedl.backends import Backend
from edgedl.benchmark.machine import this_machine
from edgedl.core.errors import EdgeError
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.passes.correct import channel_means
from edgedl.passes.plan import Plan
from edgedl.passes.quantize import plan
from edgedl.passes.ranges import METHODS, Histogram, Method
from edgedl.passes.saturation import at_risk, saturates
from edgedl.search.candidates import Candidate, Reference, Refusal, int8_candidate
from edgedl.search.memory import judge

FEW = 24


def best_ranges(
    backend: Backend,
    clean: Model,
    histograms: Mapping[str, Histogram],
    calibration: Samples,
    expected: Reference,
    threads: int | None,
) -> Candidate | Refusal | None:
    """Int8 as far as the rules go, with the ranges that answer most like float; with weights in 7
    bits where sums overflow on this processor, and with corrected biases, each where that helps.
    None where the rules put nothing into int8.

    What answers most like float is what has the most signal to noise in the model's outputs, on a
    few samples that calibration did not see, as the engine runs it.
    """
    few = expected.take(FEW)
    best: tuple[float, Candidate] | None = None

    def attempt(method: Method, note: str, **more: Any) -> None:
        nonlocal best
        label = f"int8, {method}{note}"
        candidate = int8_candidate(backend, clean, histograms, method, label=label, **more)
        found = judge(candidate, few, threads).agreement.sqnr_db
        if best is None or found > best[0]:
            best = (found, candidate)

    if not plan(clean, backend.scheme.name, histograms, "minmax").int8:
        return None
    try:
        for method in METHODS:
            attempt(method, "")
        assert best is not None
        if saturates(this_machine().to_json(), backend.engine):
            method, decided = _decided(best[1])
            if risky := at_risk(decided, clean, histograms):
                attempt(method, f", {len(risky)} weights in 7 bits", narrow=risky)
        method, decided = _decided(best[1])
        means = channel_means(clean, decided, calibration)
        note = best[1].label.removeprefix(f"int8, {method}")
        attempt(method, f"{note}, biases corrected", means=means, narrow=decided.narrow)
    except EdgeError as error:
        if best is None:
            return Refusal(f"{backend.engine} int8", error.message)
    return best[1]


def _decided(candidate: Candidate) -> tuple[Method, Plan]:
    assert candidate.method is not None
    assert candidate.plan is not None
    return candidate.method, candidate.plan

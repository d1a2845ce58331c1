"""How int8 answers most like float, by trying on samples that calibration did not see."""

from __future__ import annotations

from collections.abc import Mapping

from edgedl.backends import Backend
from edgedl.core.errors import EdgeError
from edgedl.core.model import Model
from edgedl.core.samples import Samples
from edgedl.passes.correct import channel_means
from edgedl.passes.ranges import METHODS, Histogram
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
    """Int8 as far as the rules go, with the ranges that answer most like float, its biases
    corrected where that helps; None where the rules put nothing into int8.

    What answers most like float is what has the most signal to noise in the model's outputs, on a
    few samples that calibration did not see.
    """
    few = expected.take(FEW)
    tried: list[tuple[float, Candidate]] = []
    try:
        for method in METHODS:
            label = f"int8, {method}"
            candidate = int8_candidate(backend, clean, histograms, method, label=label)
            assert candidate.plan is not None
            if not candidate.plan.int8:
                return None
            tried.append((judge(candidate, few, threads).agreement.sqnr_db, candidate))
        _, best = max(tried, key=lambda entry: entry[0])
        assert best.plan is not None
        assert best.method is not None
        means = channel_means(clean, best.plan, calibration)
        label = f"{best.label}, biases corrected"
        candidate = int8_candidate(
            backend, clean, histograms, best.method, means=means, label=label
        )
        tried.append((judge(candidate, few, threads).agreement.sqnr_db, candidate))
    except EdgeError as error:
        if not tried:
            return Refusal(f"{backend.engine} int8", error.message)
    return max(tried, key=lambda entry: entry[0])[1]

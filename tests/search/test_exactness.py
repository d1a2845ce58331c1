"""Ranges that answer most like float."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgedl.backends import backend
from edgedl.passes.calibrate import calibrate
from edgedl.passes.ranges import METHODS, method_for, usual_method
from edgedl.runtime import engine, installed_engines
from edgedl.search.candidates import (
    Candidate,
    int8_candidate,
    reference,
    tensors_to_watch,
    try_out,
)
from edgedl.search.exactness import FEW, best_ranges
from edgedl.search.prepared import Prepared
from edgedl.search.ready import prepare
from tests.models import attention_net, conv_net, residual_net, samples, saved


def test_methods_by_tensor() -> None:
    methods = {"a": METHODS[0], "b": METHODS[2], "c": METHODS[2]}
    assert method_for(methods, "a") == METHODS[0]
    assert method_for("entropy", "a") == "entropy"
    assert usual_method(methods) == METHODS[2]
    assert usual_method("mse") == "mse"


@pytest.mark.parametrize("name", installed_engines())
@pytest.mark.parametrize("net", [conv_net, residual_net, attention_net])
def test_nothing_answers_less_like_float_than_the_best_single_method(
    net: object, name: str, tmp_path: Path
) -> None:
    clean = prepare(saved(net(), tmp_path), {})  # type: ignore[operator]
    built = backend(name)
    seen, unseen = samples(clean.signature, 16), samples(clean.signature, 32, seed=7)
    histograms = calibrate(clean, tensors_to_watch(clean, [built.scheme]), seen)
    with engine(name).open_model(clean.path, settings=built.settings("float32")) as session:
        expected = reference(session, unseen, None)
    few = expected.take(FEW)

    def found(candidate: Candidate) -> float:
        return try_out(candidate, few, candidate.open(1)).agreement.sqnr_db

    single = [
        found(int8_candidate(built, Prepared(clean, histograms), method, label="single"))
        for method in METHODS
    ]
    best = best_ranges(built, Prepared(clean, histograms), seen, expected, 1)
    assert isinstance(best, Candidate)
    assert found(best) >= max(single) - 1e-6
    again = best_ranges(built, Prepared(clean, histograms), seen, expected, 1)
    assert isinstance(again, Candidate)
    assert again.model.digest == best.model.digest

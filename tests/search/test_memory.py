"""What is looked up instead of measured again, and when it must not be."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import edgedl
from edgedl.benchmark.metrics import metric_of
from edgedl.core.errors import BadSamples, EngineFailed
from edgedl.core.ledger import Ledger
from edgedl.core.samples import Samples, from_arrays
from edgedl.runtime import engine, installed_engines
from edgedl.search.candidates import Candidate, Reference, reference, try_out
from edgedl.search.limits import Limits
from edgedl.search.memory import Latencies, judge, key_of_candidate, machine_parts
from tests.models import Sketch, conv_net, samples, saved
from tests.search.small import full_plan, prepared

ENGINE = installed_engines()[0]


@pytest.fixture(autouse=True)
def _empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDL_STORE", str(tmp_path / "store"))


def expected_of(candidate: Candidate, given: Samples, metric: str | None = None) -> Reference:
    with candidate.open(1) as session:
        return reference(session, given, None if metric is None else metric_of(metric))


@pytest.fixture
def case(tmp_path: Path) -> tuple[Candidate, Reference]:
    """A plan that answers a little otherwise than float, and what float answers."""
    clean = prepared(conv_net(), tmp_path)
    as_float = Candidate(ENGINE, "float32", "float32", clean, {})
    return full_plan(clean, ENGINE), expected_of(as_float, samples(clean.signature, 6))


def gone(candidate: Candidate, **changes: object) -> Candidate:
    """The same by all that names it, but for changes; whoever opens it fails."""
    model = candidate.model
    broken = model.path.with_name("gone.onnx")
    changed = {"digest": model.digest, **{k: v for k, v in changes.items() if k == "digest"}}
    others = {name: value for name, value in changes.items() if name != "digest"}
    model = dataclasses.replace(model, path=broken, **changed)
    return dataclasses.replace(candidate, model=model, **others)


def test_answers_are_compared_once(case: tuple[Candidate, Reference]) -> None:
    candidate, expected = case
    first = judge(candidate, expected, 1)
    assert first == try_out(candidate, expected, candidate.open(1))
    assert 0.9 < first.agreement.cosine < 1
    again = judge(gone(candidate, label="another name"), expected, 1)
    assert (again.agreement, again.drop) == (first.agreement, first.drop)
    assert again.candidate.label == "another name"


OTHERS: dict[str, Callable[[Candidate, Reference], tuple[Candidate, Reference, int | None]]] = {
    "another model": lambda c, e: (gone(c, digest="1" * 64), e, 1),
    "other settings": lambda c, e: (gone(c, settings={"precision": "bf16"}), e, 1),
    "other threads": lambda c, e: (gone(c), e, 2),
    "fewer samples": lambda c, e: (gone(c), e.take(5), 1),
    "labels": lambda c, e: (gone(c), dataclasses.replace(e, labels=np.zeros(6)), 1),
    "another metric": lambda c, e: (gone(c), dataclasses.replace(e, metric=metric_of("top1")), 1),
    "other answers": lambda c, e: (gone(c), dataclasses.replace(e, answers=e.answers[::-1]), 1),
    "other inputs": lambda c, e: (gone(c), dataclasses.replace(e, feeds=e.feeds[::-1]), 1),
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_anything_else_is_compared_anew(
    change: Callable[[Candidate, Reference], tuple[Candidate, Reference, int | None]],
    case: tuple[Candidate, Reference],
) -> None:
    judge(*case, 1)
    with pytest.raises(EngineFailed):
        judge(*change(*case))


def test_another_engine_is_compared_anew(case: tuple[Candidate, Reference]) -> None:
    others = [name for name in installed_engines() if name != ENGINE]
    assert len({key_of_candidate(dataclasses.replace(case[0], engine=name))
                for name in installed_engines()}) == 1 + len(others)  # fmt: skip


def test_a_processor_with_less_is_compared_anew(
    case: tuple[Candidate, Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge(*case, 1)
    before = machine_parts()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert machine_parts() == {**before, "isa_cap": "AVX2"}
    with pytest.raises(EngineFailed):
        judge(gone(case[0]), case[1], 1)


@pytest.mark.parametrize(
    "change",
    [
        {"agreement": {"cosine": 1.0}},
        {"agreement": {"top1": None, "cosine": 0.5, "sqnr_db": 1.0, "samples": 6}},
        {"agreement": None},
        {
            "agreement": {
                "top1": 1.0,
                "cosine": 1.0,
                "sqnr_db": 1.0,
                "samples": 6,
                "equal": None,
                "more": 1,
            }
        },
        {"drop": None},
        {"drop": "none"},
    ],
)
def test_a_row_that_is_none_is_passed_over(
    change: dict[str, object], case: tuple[Candidate, Reference]
) -> None:
    candidate, expected = case
    kept = Ledger.of("answers", expected=expected.digest, machine=machine_parts(), threads=1)
    whole = {"top1": None, "cosine": 0.5, "sqnr_db": 1.0, "samples": 6, "equal": None}
    kept.add(
        [{"candidate": key_of_candidate(candidate), "agreement": whole, "drop": 0.0, **change}]
    )
    found = judge(candidate, expected, 1)
    assert found == try_out(candidate, expected, candidate.open(1))
    assert len(list(kept.rows())) == 2


def test_a_metric_without_a_figure_of_few_samples_still_lets_them_be_compared(
    case: tuple[Candidate, Reference],
) -> None:
    candidate, expected = case
    labels = np.array([0, 0, 1, 0, 1, 1])
    told = dataclasses.replace(expected, labels=labels, metric=metric_of("auc"))
    told.check_metric()
    assert not math.isnan(judge(candidate, told, 1).drop)
    few = judge(candidate, told.take(2), 1)
    assert math.isnan(few.drop)
    assert few.agreement.cosine > 0.9
    with pytest.raises(BadSamples, match="no figure on the 2 samples"):
        told.take(2).check_metric()


def test_float_stands_in_for_labels_that_are_not_there(
    case: tuple[Candidate, Reference],
) -> None:
    candidate, expected = case
    for name in ("mse", "recall@1", "top1"):
        told = dataclasses.replace(expected, metric=metric_of(name))
        same = told.score(told.answers)
        assert same == told.float_score == (0 if name == "mse" else 1)
    told = dataclasses.replace(expected, metric=metric_of("mse"))
    with candidate.open(1) as session:
        answers = [session.run(feed) for feed in told.feeds]
    pairs = zip(told.answers, answers, strict=True)
    error = np.mean([np.mean((a["logits"] - b["logits"]) ** 2) for a, b in pairs])
    assert judge(candidate, told, 1).drop == pytest.approx(error, rel=1e-5)


def test_the_metrics_loss_is_kept_too(tmp_path: Path) -> None:
    clean = prepared(conv_net(), tmp_path)
    given = samples(clean.signature, 8)
    as_float = Candidate(ENGINE, "float32", "float32", clean, {})
    with as_float.open(1) as session:
        classes = [int(np.argmax(session.run(feed)["logits"])) for feed in given]
    # Of eight labels float misses two; the same model misses the same ones.
    classes[:2] = [(label + 1) % 5 for label in classes[:2]]
    arrays = {"x": np.concatenate([feed["x"] for feed in given]), "labels": np.asarray(classes)}
    expected = expected_of(as_float, from_arrays(arrays).bind(clean.signature), "top1")
    assert expected.score(expected.answers) == 0.75
    assert judge(as_float, expected, 1).drop == 0
    upside_down = dataclasses.replace(
        expected, answers=tuple({"logits": -a["logits"]} for a in expected.answers)
    )
    assert judge(as_float, upside_down, 1).drop < 0
    assert judge(gone(as_float), upside_down, 1).drop < 0


def rooted() -> object:
    """A model whose answers are no numbers where a product is below 0."""
    net = Sketch()
    net.node("MatMul", ["x", net.weight("w1", 16, 16)], "product")
    net.node("Sqrt", ["product"], "root")
    net.node("MatMul", ["root", net.weight("w2", 16, 4)], "logits", name="last")
    return net.model([1, 16], [1, 4])


def test_answers_that_are_no_numbers_lose_without_a_traceback(tmp_path: Path) -> None:
    model = saved(rooted(), tmp_path)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    arrays = {
        "x": random.standard_normal((24, 16)).astype(np.float32),
        "labels": random.standard_normal((24, 4)).astype(np.float32),
    }
    as_float = Candidate(ENGINE, "float32", "float32", model, {})
    expected = expected_of(as_float, from_arrays(arrays).bind(model.signature), "mse")
    trial = judge(as_float, expected, 1)
    assert math.isnan(trial.drop)
    assert Limits(max_drop=0.5).broken(trial.drop, 1.0, 1)
    found = edgedl.compress(
        model.path, arrays, tmp_path / "out.edl", target=ENGINE, max_drop=0.01, seconds=0.5
    )
    assert found.broken
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["accuracy"]["result"] is None
    assert any("not all finite" in doubt for doubt in found.doubts)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Candidate, Candidate]:
    clean = prepared(conv_net(), tmp_path)
    return Candidate(ENGINE, "float32", "float32", clean, {}), full_plan(clean, ENGINE)


SHAPES = {"x": [1, 3, 8, 8]}


def test_a_ratio_is_the_median_of_the_latest_five(pair: tuple[Candidate, Candidate]) -> None:
    first, other = pair
    kept = Latencies(first, 1, SHAPES)
    assert kept.ratio(other) is None
    kept.add([(other, 9.0)])
    assert kept.ratio(other) == 9.0
    for ratio in (0.5, 0.7, 0.6, 0.9, 0.8):
        kept.add([(other, ratio), (first, 1.0)])
    assert kept.ratio(other) == 0.7
    again = Latencies(first, 1, SHAPES)
    assert again.ratio(other) == 0.7
    assert again.ratio(gone(other, label="x")) == 0.7


def test_ratios_belong_to_a_reference_threads_and_shapes(
    pair: tuple[Candidate, Candidate], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = pair
    Latencies(first, 1, SHAPES).add([(other, 0.5)])
    assert Latencies(first, 2, SHAPES).ratio(other) is None
    assert Latencies(other, 1, SHAPES).ratio(other) is None
    assert Latencies(first, 1, {"x": [2, 3, 8, 8]}).ratio(other) is None
    assert Latencies(first, 1, SHAPES).ratio(gone(other, settings={"precision": "f32"})) is None
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert Latencies(first, 1, SHAPES).ratio(other) is None


def test_ratios_that_are_none_are_passed_over(pair: tuple[Candidate, Candidate]) -> None:
    first, other = pair
    kept = Latencies(first, 1, SHAPES)
    name = key_of_candidate(other)
    kept._ledger.add(
        [{"candidate": name}, {"ratio": 0.1}, {"candidate": name, "ratio": "fast"},
         {"candidate": [name], "ratio": 0.2}, {"candidate": name, "ratio": None},
         {"candidate": name, "ratio": 0.2, "at": "noon"}]
    )  # fmt: skip
    kept.add([(other, 0.4)])
    assert Latencies(first, 1, SHAPES).ratio(other) == 0.4


def test_ratios_are_forgotten_after_a_month(pair: tuple[Candidate, Candidate]) -> None:
    first, other = pair
    day = 86_400.0
    Latencies(first, 1, SHAPES, clock=lambda: 100 * day).add([(other, 1.5)])
    Latencies(first, 1, SHAPES, clock=lambda: 120 * day).add([(other, 1.3)])

    def ratio(at_s: float) -> float | None:
        return Latencies(first, 1, SHAPES, clock=lambda: at_s).ratio(other)

    assert ratio(121 * day) == 1.4
    assert ratio(130 * day) == 1.4
    assert ratio(131 * day) == 1.3
    assert ratio(151 * day) is None
    # A clock that was set back is no reason to trust notes from its future.
    assert ratio(60 * day) is None


def test_keys_are_those_of_this_version_of_the_engine(case: tuple[Candidate, Reference]) -> None:
    run = engine(ENGINE)
    before = key_of_candidate(case[0])
    version = run.version
    try:
        run.version = "0.0"
        assert key_of_candidate(case[0]) != before
    finally:
        run.version = version
    assert key_of_candidate(case[0]) == before

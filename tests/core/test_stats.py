"""Statistics, worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.core.stats import (
    AgreementMeter,
    Interval,
    bootstrap_ratio,
    cosine,
    decibels,
    holm,
    mean_interval,
    percentiles,
    pooled_ratio,
    probabilities,
    share_interval,
    student_quantile,
    student_within,
)

TIMES = st.lists(st.floats(0.1, 100), min_size=1, max_size=30)


def test_a_constant_ratio_has_no_width() -> None:
    assert bootstrap_ratio([3.0] * 9, [2.0] * 9) == Interval(1.5, 1.5, 1.5)


def test_the_interval_covers_a_known_ratio() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(60):
        a, b = random.normal(2, 0.1, 31), random.normal(1, 0.05, 31)
        found = bootstrap_ratio(a, b, seed)
        covered += found.low <= 2 <= found.high
        assert found.high - found.low < 0.2
    assert covered >= 50


@given(TIMES, st.integers(0, 100))
def test_the_interval_holds_the_ratio_and_is_seeded(times: list[float], seed: int) -> None:
    other = [1.0 + time / 7 for time in reversed(times)]
    found = bootstrap_ratio(times, other, seed)
    ratios = np.asarray(times) / np.asarray(other)
    assert found.ratio == pytest.approx(float(np.median(ratios)))
    assert ratios.min() <= found.low <= found.high <= ratios.max()
    assert bootstrap_ratio(times, other, seed) == found


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(2.0, 1.9, 2.1), "faster"),
        (Interval(1.05, 1.021, 1.1), "faster"),
        (Interval(1.05, 1.02, 1.1), "inconclusive"),
        (Interval(1.5, 0.9, 2.0), "inconclusive"),
        (Interval(0.95, 0.9, 0.98), "inconclusive"),
        (Interval(0.9, 0.8, 0.979), "slower"),
    ],
)
def test_verdicts_clear_the_noise_floor(interval: Interval, expected: str) -> None:
    assert interval.verdict(0.02) == expected


@pytest.mark.parametrize(
    ("count", "given_"),
    [(9, []), (10, ["p50"]), (63, ["p50"]), (64, ["p50", "p90"]), (661, ["p50", "p90"]),
     (662, ["p50", "p90", "p99"])],
)  # fmt: skip
def test_a_percentile_needs_samples(count: int, given_: list[str]) -> None:
    row = percentiles(np.arange(count, dtype=float))
    assert [name for name in ("p50", "p90", "p99") if row[name] is not None] == given_
    assert row["samples"] == count


def test_percentiles_by_hand() -> None:
    row = percentiles(np.arange(1, 102, dtype=float)[::-1])
    assert row == {"min": 1.0, "p50": 51.0, "p90": 91.0, "p99": None, "mean": 51.0, "samples": 101}


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 0], [1, 1], 1 / math.sqrt(2)),
        ([3, 4], [4, 3], 24 / 25),
        ([1, 2], [-2, -4], -1),
        ([1, 0], [0, 5], 0),
        ([0, 0], [0, 0], 1),
        ([0, 0], [1, 0], 0),
    ],
)
def test_cosine_by_hand(a: list[float], b: list[float], expected: float) -> None:
    assert cosine(np.array(a, np.float32), np.array(b, np.float32)) == pytest.approx(expected)


def test_decibels_by_hand() -> None:
    assert decibels(100, 1) == pytest.approx(20)
    assert decibels(1, 2) == pytest.approx(-3.0103, abs=1e-4)
    assert decibels(5, 0) == 200
    assert decibels(0, 1) == -100


def test_agreement_by_hand() -> None:
    meter = AgreementMeter()
    meter.add({"y": np.array([[3.0, 4.0]])}, {"y": np.array([[3.3, 3.6]])})
    meter.add({"y": np.array([[0.0, 5.0]])}, {"y": np.array([[5.0, 0.0]])})
    found = meter.result()
    assert found.samples == 2
    assert found.top1 == 0.5
    first = (3 * 3.3 + 4 * 3.6) / (5 * math.hypot(3.3, 3.6))
    assert found.cosine == pytest.approx((first + 0) / 2)
    assert found.sqnr_db == pytest.approx(10 * math.log10(50 / (0.09 + 0.16 + 50)))


def test_agreement_reports_the_worst_output() -> None:
    meter = AgreementMeter()
    same, other = np.array([1.0, 2.0]), np.array([2.0, -1.0])
    meter.add({"a": same, "b": same}, {"a": same, "b": other})
    found = meter.result()
    assert found.top1 == 1
    assert found.cosine == pytest.approx(0)
    assert found.sqnr_db == pytest.approx(10 * math.log10(5 / 10))


def test_top1_votes_at_every_position() -> None:
    meter = AgreementMeter()
    expected = np.eye(4)[None]
    meter.add({"y": expected}, {"y": expected[:, [0, 1, 3, 2]]})
    assert meter.result().top1 == 0.5


def test_outputs_without_classes_have_no_top1() -> None:
    meter = AgreementMeter()
    meter.add({"y": np.ones((1, 1))}, {"y": np.ones((1, 1))})
    meter.add({"y": np.array(2.0)}, {"y": np.array(2.0)})
    found = meter.result()
    assert (found.top1, found.cosine, found.sqnr_db) == (None, 1.0, 200.0)


def test_another_shape_agrees_in_nothing() -> None:
    meter = AgreementMeter()
    meter.add({"y": np.ones((1, 3))}, {"y": np.ones((1, 4))})
    found = meter.result()
    assert found.cosine == 0
    assert found.sqnr_db == -100


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_answers_that_are_not_finite_agree_in_nothing(broken: float) -> None:
    meter = AgreementMeter()
    meter.add({"y": np.array([1.0, 2.0])}, {"y": np.array([1.0, broken])})
    found = meter.result()
    assert found.cosine == 0
    assert found.sqnr_db == -100


def test_a_broken_output_is_the_worst_one() -> None:
    meter = AgreementMeter()
    fine = np.array([1.0, 2.0])
    meter.add({"a": fine, "b": fine}, {"a": fine, "b": np.array([np.nan, np.nan])})
    meter.add({"a": fine, "b": fine}, {"a": fine, "b": fine})
    assert meter.result().cosine == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (None, 1.96)],
)
def test_students_quantiles_are_those_of_the_tables(freedom: int | None, expected: float) -> None:
    assert student_quantile(freedom) == pytest.approx(expected, abs=1e-4)
    assert student_within(expected, freedom) == pytest.approx(0.95, abs=1e-4)


def test_holms_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(
    st.floats(0.2, 5), st.floats(1.0001, 2), st.sampled_from([2, 4, 20, None]), st.floats(0.01, 0.1)
)
def test_p_is_small_just_where_the_interval_clears_the_floor(
    ratio: float, spread: float, freedom: int | None, floor: float
) -> None:
    found = Interval(ratio, ratio / spread, ratio * spread, freedom)
    clear = found.verdict(floor) != "inconclusive"
    near = min(abs(found.low - 1 - floor), abs(found.high - 1 + floor)) < 1e-9
    assert near or (found.p_value(floor) <= 0.05) == clear


def test_p_at_its_ends() -> None:
    assert Interval(1.0, 0.9, 1.1, 4).p_value(0.01) == 1
    assert Interval(0.9, 0.2, 3.0, 4).p_value(2.5) == 1
    assert Interval(2.0, 2.0, 2.0, 4).p_value(0.01) == 0
    assert Interval(0.5, 0.5, 0.5, 4).p_value(0.01) == 0


def test_one_process_is_bootstrapped_over_rounds() -> None:
    a, b = [3.0, 3.1, 2.9, 3.0], [1.5, 1.6, 1.4, 1.5]
    assert pooled_ratio([(a, b)]) == bootstrap_ratio(a, b)


def test_processes_pool_to_students_interval() -> None:
    found = pooled_ratio([([2.0] * 5, [1.0] * 5), ([2.2] * 5, [1.0] * 5), ([1.8] * 5, [1.0] * 5)])
    logs = np.log([2.0, 2.2, 1.8])
    half = 4.302653 * logs.std(ddof=1) / math.sqrt(3)
    assert found.ratio == pytest.approx(math.exp(logs.mean()))
    assert found.low == pytest.approx(math.exp(logs.mean() - half), rel=1e-5)
    assert found.high == pytest.approx(math.exp(logs.mean() + half), rel=1e-5)
    assert found.freedom == 2


def test_rounds_that_differ_widen_what_processes_agree_on() -> None:
    a = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = pooled_ratio([(a, [1.0] * 5)] * 4)
    assert found.low < 3.0 < found.high


def test_pooled_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """With process-to-process shifts, which a bootstrap over rounds alone would not see."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        processes = []
        for _ in range(5):
            shift = math.exp(rng.normal(0, 0.02))
            processes.append(((1.1 * shift * np.exp(rng.normal(0, 0.02, 12))).tolist(), [1.0] * 12))
        found = pooled_ratio(processes)
        covered += found.low <= 1.1 <= found.high
    assert covered >= 0.92 * 200


def test_classes_are_told_by_all_answers() -> None:
    certain, doubtful = np.array([[0.0, 1.0, 0.0]]), np.array([[0.3, 0.5, 0.2]])
    meter = AgreementMeter()
    for answer in (certain, doubtful, certain):
        meter.add({"y": answer}, {"y": answer})
    assert meter.result().top1 == 1.0
    embeddings = AgreementMeter()
    embeddings.add({"y": np.array([[0.6, -0.8]])}, {"y": np.array([[0.6, -0.8]])})
    embeddings.add({"y": np.array([[-0.8, 0.6]])}, {"y": np.array([[0.8, 0.6]])})
    assert embeddings.result().top1 is None
    logits = AgreementMeter()
    logits.add({"y": np.array([[0.6, -0.8]])}, {"y": np.array([[0.6, -0.8]])})
    logits.add({"y": np.array([[-5.0, 6.0]])}, {"y": np.array([[7.0, 6.0]])})
    assert logits.result().top1 == 0.5


@pytest.mark.parametrize("floor", [1.0, 9.7])
def test_a_floor_above_the_whole_leaves_nothing_to_claim(floor: float) -> None:
    slower = Interval(0.5, 0.4, 0.6, 2)
    assert slower.p_value(floor) == 1
    assert slower.verdict(floor) == "inconclusive"
    assert slower.p_value(0.01) < 1


def test_the_interval_of_a_drop_by_hand() -> None:
    # Agresti and Min: cells of 8, 2, 1 and 9 become 8.5, 2.5, 1.5 and 9.5.
    differences = np.asarray([0] * 17 + [1, 1, -1], float)
    low, high = mean_interval(differences) or (0, 0)
    mean, half = 1 / 22, 1.959964 * math.sqrt((2.5 + 1.5 - (2.5 - 1.5) ** 2 / 22) / 22**2)
    assert (low, high) == pytest.approx((mean - half, mean + half), rel=1e-5)
    # Where nothing differs, few samples say little and many say much.
    few, many = mean_interval(np.zeros(10)), mean_interval(np.zeros(10_000))
    assert few == pytest.approx((-1.959964 / 12, 1.959964 / 12), rel=1e-5)
    assert many == pytest.approx((-1.96e-4, 1.96e-4), rel=1e-2)
    # Student's for three differences: t of 2 degrees of freedom is 4.302653.
    large = mean_interval(np.asarray([1.0, 2.0, 6.0]))
    half = 4.302653 * math.sqrt(7 / 3)
    assert large == pytest.approx((3 - half, 3 + half), rel=1e-5)
    assert mean_interval(np.asarray([2.0])) is None
    assert mean_interval(np.asarray([0.0, np.nan])) is None
    assert mean_interval(np.zeros(0)) is None


def test_the_interval_of_a_share_by_hand() -> None:
    # Wilson's own figures for 9 of 10, as statistics texts give them.
    assert share_interval(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)
    assert share_interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert share_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


@pytest.mark.parametrize("losses", [0.0, 0.02, 0.2])
def test_the_interval_of_a_drop_holds_the_truth_in_95_of_100(losses: float) -> None:
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        drawn = random.random(60)
        found = mean_interval((drawn < losses).astype(float) - (drawn > 1 - losses / 2))
        assert found is not None
        held += found[0] <= losses / 2 <= found[1]
    assert held >= 460


def head(scores: np.ndarray, axis: int = 1) -> np.ndarray:
    """Boxes of hundreds of pixels beside scores, (1, 4 + classes, places), or the other way."""
    boxes = np.linspace(3, 600, 4 * scores.shape[1]).reshape(4, -1)
    both = np.concatenate([boxes, scores])[None]
    return both if axis == 1 else both.transpose(0, 2, 1)


@pytest.mark.parametrize("axis", [1, 2])
def test_scores_beside_boxes_count_on_their_own(axis: int) -> None:
    scores = np.random.default_rng(0).random((6, 50)) ** 4
    meter = AgreementMeter()
    meter.add({"head": head(scores, axis)}, {"head": head(np.zeros_like(scores), axis)})
    found = meter.result()
    assert found.sqnr_db == pytest.approx(0.0, abs=1e-6)
    assert found.cosine == 0.0


def test_scores_are_found_behind_anchors_and_places() -> None:
    """As YOLOv5 writes its head before it is flattened."""
    boxes = np.random.default_rng(0).uniform(2, 600, (1, 3, 4, 4, 4))
    both = np.concatenate([boxes, np.random.default_rng(1).random((1, 3, 4, 4, 6))], axis=-1)
    found = probabilities(both)
    assert found is not None
    assert found[0] == 4
    assert found[1].tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    "answer",
    [
        np.random.default_rng(0).normal(0, 5, (1, 21, 8, 8)),  # logits of pixels
        np.random.default_rng(0).random((1, 16, 40)),  # features, all of them below 1
        np.full((1, 4), 300.0),
        np.full((1, 8, 30), np.nan),
    ],
)
def test_other_outputs_are_one(answer: np.ndarray) -> None:
    assert probabilities(answer) is None


def test_integers_are_the_same_or_not_and_make_no_noise_for_others() -> None:
    meter = AgreementMeter()
    scores = np.asarray([[1.0, 2.0, 3.0]], np.float32)
    for places in ([7, 900], [7, 2]):
        meter.add(
            {"scores": scores, "places": np.asarray([7, 900])},
            {"scores": scores * np.float32(1.01), "places": np.asarray(places)},
        )
    found = meter.result()
    assert found.equal == 0.75
    assert (found.top1, found.cosine) == (1.0, pytest.approx(1.0))
    assert found.sqnr_db == pytest.approx(40, abs=0.1)

    meter = AgreementMeter()
    meter.add({"tokens": np.asarray([[3, 9, 4, 1]])}, {"tokens": np.asarray([[3, 8, 4, 1]])})
    found = meter.result()
    assert (found.top1, found.cosine, found.equal) == (0.75, 0.75, 0.75)
    assert found.sqnr_db == pytest.approx(10 * np.log10(4))
    assert not found.is_faithful


def test_indices_that_differ_are_not_faithful_beside_boxes_that_do_not() -> None:
    meter = AgreementMeter()
    boxes = np.ones((1, 4, 4, 4), np.float32)
    meter.add({"boxes": boxes, "kind": np.arange(4)}, {"boxes": boxes, "kind": np.arange(4) % 3})
    found = meter.result()
    assert (found.top1, found.cosine, found.equal) == (None, 1.0, 0.75)
    assert not found.is_faithful


def test_empty_answers_are_alike() -> None:
    meter = AgreementMeter()
    meter.add({"y": np.zeros((1, 0, 8), np.float32)}, {"y": np.zeros((1, 0, 8), np.float32)})
    meter.add({"y": np.zeros((0, 8), np.float32)}, {"y": np.zeros((0, 8), np.float32)})
    assert (meter.result().cosine, meter.result().top1) == (1.0, None)

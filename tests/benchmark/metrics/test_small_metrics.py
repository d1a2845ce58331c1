"""Metrics worked out by hand, with labels and against float's answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedl.benchmark.metrics import METRICS, metric_of
from edgedl.benchmark.metrics.metric import Metric, named_parts
from edgedl.benchmark.metrics.ranks import area_under_roc, ranks, spearman
from edgedl.benchmark.metrics.sequences import edits, greedy
from edgedl.core.errors import BadOption, BadSamples, MetricFailed

SYMBOLS = st.lists(st.integers(0, 3), max_size=8)


def figure(
    spec: str, outputs: list[Any], labels: list[Any], feeds: list[Any] | None = None
) -> float:
    metric = metric_of(spec)
    return metric.total(rows(metric, outputs, labels, feeds))


def rows(
    metric: Metric, outputs: list[Any], labels: list[Any], feeds: list[Any] | None = None
) -> list[Any]:
    given = [{"y": np.asarray(output)} for output in outputs]
    fed = [{"x": np.asarray(feed)} for feed in feeds or outputs]
    return metric.rows(zip(given, labels, fed, strict=True))


def twin(spec: str, outputs: list[Any], floats: list[Any], feeds: list[Any] | None = None) -> float:
    metric = metric_of(spec).without_labels
    assert metric is not None
    truth = [{"y": np.asarray(output)} for output in floats]
    return metric.total(rows(metric, outputs, truth, feeds))


def one_hot(symbols: list[int], classes: int = 4) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[symbols][None]


SCORES = [[[0.1, 0.7, 0.2]], [[0.5, 0.2, 0.3]], [[0.3, 0.3, 0.4]]]
BITS = [[[0.9, 0.2, 0.6]], [[0.1, 0.4, 0.8]]]
WANTED = [[1, 0, 0], [0, 1, 1]]
CASES: dict[str, tuple[str, list[Any], list[Any], float]] = {
    "top1": ("top1", SCORES, [1, 2, 2], 2 / 3),
    "top5 of 6": ("top5", [[np.arange(6.0)]] * 2, [0, 1], 1 / 2),
    "binary": ("binary", BITS, WANTED, (2 / 3 + 2 / 3) / 2),
    "binary by another threshold": ("binary:threshold=0.3", BITS, WANTED, (2 / 3 + 1) / 2),
    # 2 right, 1 said too much, 1 missed
    "f1": ("f1", BITS, WANTED, 2 * 2 / (2 * 2 + 1 + 1)),
    "f1 of nothing": ("f1", [[[0.1]]], [[0]], 1.0),
    # the first entry is right once, the second missed once, the third right once and said once more
    "f1 over entries": ("f1:average=macro", BITS, WANTED, (2 / 2 + 0 / 1 + 2 / 3) / 3),
    # classes 1, 0, 2 are said for 1, 2, 2: F1 of 0 is 0, of 1 is 1, of 2 is 2/3
    "f1 of classes": ("f1", SCORES, [1, 2, 2], 2 * 2 / 6),
    "f1 over classes": ("f1:average=macro", SCORES, [1, 2, 2], (0 + 1 + 2 / 3) / 3),
    "f1 over classes that occur": ("f1:average=macro", SCORES[:1], [1], 1.0),
    "top": ("top:k=2", SCORES, [2, 1, 2], 2 / 3),
    # positives stand second and fourth of four: 1/2 and 2/4
    "average_precision": (
        "average_precision", [[0.1], [0.4], [0.35], [0.8]], [1, 0, 0, 0], 1 / 4,
    ),
    "average_precision of two": (
        "average_precision", [[0.1], [0.4], [0.35], [0.8]], [1, 1, 0, 0], (1 / 2 + 2 / 4) / 2,
    ),
    "average_precision of ties": ("average_precision", [[0.5], [0.5]], [0, 1], 1 / 2),
    "rmse": ("rmse", [[1.0, 2.0], [0.0, 0.0]], [[0, 0], [0, 2]], ((2.5 + 2) / 2) ** 0.5),
    # of 2 x 2 pairs 3 stand right
    "auc": ("auc", [[0.1], [0.4], [0.35], [0.8]], [0, 0, 1, 1], 3 / 4),
    "auc of ties": ("auc", [[0.5], [0.5]], [0, 1], 1 / 2),
    "auc of an entry": ("auc:entry=0", [[0.9, 0], [0.1, 1]], [1, 0], 1.0),
    "mse": ("mse", [[1.0, 2.0], [0.0, 0.0]], [[0, 0], [0, 2]], (2.5 + 2) / 2),
    "mae": ("mae", [[1.0, 2.0], [0.0, 0.0]], [[0, 0], [0, 2]], (1.5 + 1) / 2),
    "relative": ("relative", [[3.0, 4.0], [0.0, 1.0]], [[0, 5], [0, 2]], (10**0.5 / 5 + 0.5) / 2),
    "relative of zeros": ("relative", [[0.0]], [[0]], 0.0),
    # class 0: 1 of 2, class 1: 1 of 3, class 2: 1 of 2
    "segmentation": (
        "segmentation",
        [np.eye(3)[[0, 1, 1, 2, 0]].T[None]],
        [[0, 1, 2, 2, 1]],
        (1 / 2 + 1 / 3 + 1 / 2) / 3,
    ),
    "segmentation, last axis": (
        "segmentation:axis=-1", [np.eye(2)[[0, 1]][None]], [[0, 0]], (1 / 2 + 0) / 2,
    ),
    "segmentation of classes": ("segmentation", [np.array([[0, 1, 1]])], [[0, 255, 1]], 1.0),
    "pixel_accuracy": (
        "pixel_accuracy", [np.eye(3)[[0, 1, 1, 2, 0]].T[None]] * 2,
        [[0, 1, 2, 2, 1], [0, 255, -100, 255, 255]], (3 + 1) / (5 + 1),
    ),
    "pixel_accuracy of one map": (
        "pixel_accuracy", [np.array([[[0.9, 0.4, 0.1]]])], [[1, 1, 0]], 2 / 3,
    ),
    # sums over samples, not the mean of samples: (1 + 0) / (2 + 1)
    "a text detector": (
        "segmentation:threshold=0.3",
        [np.array([[[[0.9, 0.4, 0.1]]]]), np.array([[[[0.2, 0.2, 0.4]]]])],
        [[[1, 0, 0]], [[0, 0, 0]]],
        1 / 3,
    ),
    # reads [1, 1, 2] of 1 1 0 1 2 2, for 1 2 3: one inserted, one missing
    "ctc": ("ctc", [one_hot([1, 1, 0, 1, 2, 2])], [[1, 2, 3, -1]], 2 / 3),
    "ctc, time first": (
        "ctc", [one_hot([1, 1, 0, 1, 2, 2]).swapaxes(0, 1)], [[1, 2, 3]], 2 / 3,
    ),
    "ctc with the blank last": ("ctc:blank=-1", [one_hot([0, 3, 0, 1])], [[0, 0, 1]], 0.0),
    "ctc of symbols": ("ctc", [np.array([[2, 2, 0, 2]])], [[2, 2]], 0.0),
    # words [1] [2 2] for [1] [2]
    "words": ("ctc:unit=word,space=3", [one_hot([1, 3, 2, 0, 2])], [[1, 3, 2]], 1 / 2),
    "wer": ("wer:space=3", [one_hot([1, 3, 2, 0, 2])], [[1, 3, 2]], 1 / 2),
    "wer of whole words": ("wer", [one_hot([1, 1, 0, 1, 2, 2])], [[1, 2, 3]], 2 / 3),
    "tagging": ("tagging", [one_hot([1, 2, 3]), one_hot([0, 0, 0])],
                [[1, 2, -100], [0, 1, 0]], 4 / 5),
    "cosine": ("cosine", [[1.0, 0.0], [1.0, 1.0]], [[1, 0], [1, 0]], (1 + 0.5**0.5) / 2),
    # the third's nearest is the second
    "recall@1": ("recall@1", [[1, 0.0], [1, 0.1], [1, 0.3]], [7, 7, 8], 2 / 3),
    # the first two of label 8 have one another within two, the third of 7 nobody
    "recall": ("recall:k=2", [[1, 0.0], [1, 0.1], [1, 0.3], [0, 1.0]], [8, 7, 8, 9], 2 / 4),
    "spearman": ("spearman", [[1, 0.0], [1, 0.1], [0, 1.0]], [[1, 0], [1, 0.2], [0, 1]], 1.0),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "outputs", "labels", "expected"), CASES.values(), ids=CASES)
def test_by_hand(spec: str, outputs: list[Any], labels: list[Any], expected: float) -> None:
    assert figure(spec, outputs, labels) == pytest.approx(expected)


def test_every_metric_is_worked_out_somewhere() -> None:
    elsewhere = {"detection", "reconstruction", "anomaly"}
    assert {spec.partition(":")[0] for spec, *_ in CASES.values()} | elsewhere == set(METRICS)


FLOATS = np.random.default_rng(0).standard_normal((6, 1, 5, 4)).astype(np.float32)
OTHERS = np.random.default_rng(1).standard_normal((6, 1, 5, 4)).astype(np.float32)


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ("detection", "recall")])
def test_float_against_itself_is_perfect_and_others_are_not(name: str) -> None:
    metric = metric_of(name)
    found = metric.without_labels
    assert found is not None
    feeds = list(FLOATS + 0.5)
    itself = twin(name, list(FLOATS), list(FLOATS), feeds)
    other = twin(name, list(OTHERS), list(FLOATS), feeds)
    best = 0.25 if name == "reconstruction" else found.turned(found.perfect or 1.0)
    if found.perfect is not None and name != "reconstruction":
        best = 0.0
    assert itself == pytest.approx(best, abs=1e-6)
    assert found.turned(other) < found.turned(itself)


TWINS: dict[str, tuple[str, list[Any], list[Any], float]] = {
    "top1": ("top1", [[0, 2, 1]], [[0, 1, 2]], 0.0),
    "ctc": ("ctc", [one_hot([1, 2])], [one_hot([1, 0, 2, 3])], 1 / 3),
    "classes": (
        "segmentation", [np.array([[0, 1, 2, 2]])], [np.array([[0, 1, 1, 2]])], 3 / 4,
    ),
    "one map": (
        "segmentation",
        [np.array([[[[0.9, 0.1, 0, 0, 0]]]])],
        [np.array([[[[0.9, 0.9, 0, 0, 0]]]])],
        1 / 2,
    ),
    "empty maps": ("segmentation", [np.zeros((1, 1, 2, 2))], [np.zeros((1, 1, 2, 2))], 1.0),
    "binary": ("binary", [[0.9, 0.9]], [[0.6, 0.1]], 1 / 2),
    "recall@1": (
        "recall@1", [[1, 0.0], [1, 0.1], [0, 1.0]], [[1, 0.1], [0, 1.0], [0.1, 1.0]], 1 / 3,
    ),
    "recall": (
        "recall:k=1", [[1, 0.0], [1, 0.1], [0, 1.0]], [[1, 0.1], [0, 1.0], [0.1, 1.0]], 1 / 3,
    ),
    "auc": ("auc", [[1.0], [2.0], [3.0]], [[10.0], [30.0], [20.0]], 0.5),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "outputs", "floats", "expected"), TWINS.values(), ids=TWINS)
def test_float_stands_in_for_labels(
    spec: str, outputs: list[Any], floats: list[Any], expected: float
) -> None:
    assert twin(spec, outputs, floats) == pytest.approx(expected)


def test_errors_are_shown_as_they_are_and_scored_the_other_way_round() -> None:
    found = metric_of("mse")
    assert found.score([1.0, 3.0]) == -2
    assert found.turned(found.score([1.0, 3.0])) == 2
    read = metric_of("ctc")
    assert read.score([(1, 4), (0, 6)]) == pytest.approx(0.9)
    change = found.compare([1.0, 1.0, 1.0], [3.0, 3.0, 3.5])
    assert change.value == pytest.approx(-13 / 6)
    assert change.low <= change.value <= change.high < 0


def test_autoencoders_are_held_against_their_input() -> None:
    feeds = [[1.0, 2.0], [0.0, 0.0], [5.0, 5.0]]
    outputs = [[1.0, 1.0], [0.0, 0.0], [1.0, 5.0]]
    labels = [0, 0, 1]
    assert figure("reconstruction", outputs, [None] * 3, feeds) == pytest.approx((0.5 + 0 + 8) / 3)
    assert figure("anomaly", outputs, labels, feeds) == 1
    assert figure("anomaly", outputs, [1, 0, 0], feeds) == 0.5
    assert twin("anomaly", outputs, feeds[::-1], feeds) != 1
    with pytest.raises(MetricFailed, match="sample 0: the first output has 3 values"):
        figure("reconstruction", [[1.0, 2.0, 3.0]], [None], [[1.0]])


@given(SYMBOLS, SYMBOLS, SYMBOLS)
def test_edits_are_a_distance(a: list[int], b: list[int], c: list[int]) -> None:
    assert edits(a, a) == 0
    assert edits(a, b) == edits(b, a) <= max(len(a), len(b))
    assert edits(a, b) >= abs(len(a) - len(b))
    assert (edits(a, b) == 0) == (a == b)
    assert edits(a, c) <= edits(a, b) + edits(b, c)


def test_edits_by_hand() -> None:
    assert edits("kitten", "sitting") == 3
    assert edits("", "abc") == 3
    assert edits("flaw", "lawn") == 2


@given(SYMBOLS)
def test_what_is_written_with_blanks_between_is_read(symbols: list[int]) -> None:
    path = [step for symbol in symbols for step in (symbol + 1, symbol + 1, 0)]
    answer = one_hot(path, 6) if path else np.zeros((1, 0, 6), np.float32)
    assert greedy(answer) == [symbol + 1 for symbol in symbols]


def test_ranks_by_hand() -> None:
    assert ranks(np.array([10.0, 30, 20, 20])).tolist() == [1, 4, 2.5, 2.5]
    assert spearman(np.array([1.0, 2, 3]), np.array([3.0, 2, 1])) == pytest.approx(-1)
    # 1 - 6 * (1 + 1 + 0 + 0) / (4 * 15)
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([2.0, 1, 3, 4])) == pytest.approx(0.8)
    assert spearman(np.ones(3), np.arange(3)) == 0
    assert spearman(np.ones(3), np.ones(3)) == 1
    assert np.isnan(area_under_roc(np.ones(2), np.ones(2)))


@given(st.lists(st.tuples(st.integers(-9, 9), st.booleans()), min_size=2, max_size=30))
def test_the_area_counts_pairs(samples: list[tuple[int, bool]]) -> None:
    ones = [score for score, label in samples if label]
    zeros = [score for score, label in samples if not label]
    scores, labels = np.asarray(samples, float).T
    if ones and zeros:
        won = sum((a > b) + (a == b) / 2 for a in ones for b in zeros)
        assert area_under_roc(scores, labels) == pytest.approx(won / (len(ones) * len(zeros)))


MISFITS: dict[str, tuple[str, Any, Any, str]] = {
    "a class that is none": ("top1", [[0.1, 0.9]], [2], "outside"),
    "classes that are numbers": ("top1", [[0.1, 0.9]], [0.5], "class index"),
    "one score": ("top1", [[0.1]], [1], "one number"),
    "bits that are none": ("binary", [[0.1, 0.9]], [[0, 2]], "0 or 1"),
    "too few bits": ("f1", [[0.1, 0.9]], [[1]], "1 values"),
    "one side only": ("auc", [[0.1]], [1, 1], "both"),
    "targets of another size": ("mae", [[0.1, 0.9]], [[1.0]], "1 values"),
    "a map of another size": ("segmentation", np.zeros((1, 3, 2, 2)), [[1, 2]], "2 pixels"),
    "a map of numbers": ("segmentation", np.zeros((1, 3, 1, 2)), [[1.5, 2]], "each pixel"),
    "an axis that is none": ("segmentation:axis=4", np.zeros((1, 3, 1, 2)), [[1, 2]], "no axis 4"),
    "text that is one symbol": ("ctc", np.zeros((1, 3, 4)), [1], "row of symbols"),
    "too few tokens": ("tagging", np.zeros((1, 3, 4)), [[1, 2]], "2 tokens"),
    "people who are numbers": ("recall@1", [[0.1]], [0.5], "as one number"),
    "another embedding": ("spearman", [[0.1]], [[0.5, 1]], "2 values"),
}


@pytest.mark.parametrize(("spec", "output", "labels", "says"), MISFITS.values(), ids=MISFITS)
def test_labels_that_do_not_fit(spec: str, output: Any, labels: Any, says: str) -> None:
    check = metric_of(spec).check
    assert check is not None
    with pytest.raises(BadSamples, match=says) as caught:
        check(np.asarray(labels), {"y": np.asarray(output)})
    assert caught.value.hint


def test_a_sample_that_does_not_fit_is_named_and_those_before_are_kept() -> None:
    answers = [{"y": np.zeros(2)}, {"y": np.zeros(2)}, {"y": np.zeros(3)}]
    given = [(answer, [0, 1], {}) for answer in answers]
    with pytest.raises(MetricFailed, match=r"s\.npz: metric `mse` failed on sample 44") as caught:
        metric_of("mse").rows(given, [12, 31, 44], "s.npz")
    assert caught.value.rows == (0.5, 0.5)


def test_rankings_need_two_samples_of_one_length() -> None:
    for outputs, says in (([[1.0]], "two samples"), ([[1.0], [1.0, 2.0]], "unlike length")):
        with pytest.raises(MetricFailed, match=says):
            figure("recall@1", outputs, [0] * len(outputs))


BAD_SPECS = {
    "an unknown name": ("top2", "did you mean `top`"),
    "a name of others": ("Accuracy", "it is called `top1` here"),
    "an unknown setting": ("ctc:blnk=1", "did you mean `blank`"),
    "a word for a number": ("ctc:blank=x", "whole number"),
    "an unknown word": ("ctc:unit=letter", "character, word"),
    "no key": ("ctc:3", "blank, unit, space"),
    "a setting of none": ("top1:k=3", "unknown key `k`"),
    "twice": ("ctc:blank=1,blank=2", "twice"),
    "words without a space": ("ctc:unit=word", "space=3"),
    "boxes that nobody described": ("detection", "format=yolo"),
    "an overlap that is none": ("detection:format=yolo,iou=2", "at most 1"),
    "a grid without a size": ("detection:format=yolox,strides=8,16", "size"),
}


@pytest.mark.parametrize(("spec", "says"), BAD_SPECS.values(), ids=BAD_SPECS)
def test_a_metric_that_is_none_ends_in_a_way_out(spec: str, says: str) -> None:
    with pytest.raises(BadOption) as caught:
        metric_of(spec)
    assert caught.value.hint
    assert says in f"{caught.value} {caught.value.hint}"


def test_other_settings_are_another_metric_for_what_is_kept() -> None:
    specs = ("ctc", "ctc:blank=1", "ctc:unit=word,space=2", "mse", "mae")
    assert len({repr(metric_of(spec)) for spec in specs}) == len(specs)
    assert repr(metric_of("ctc")) == repr(metric_of("ctc"))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), min_size=2, max_size=30))
def test_f1_and_average_precision_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    wanted = [label for label, _ in pairs]
    said = [score % 4 for _, score in pairs]
    outputs = [np.eye(4)[None, one] for one in said]
    for average in ("micro", "macro"):
        expected = metrics.f1_score(wanted, said, average=average, zero_division=0)
        assert figure(f"f1:average={average}", outputs, wanted) == pytest.approx(expected)
    ones = [int(label > 1) for label in wanted]
    scores = [[float(score)] for _, score in pairs]
    if any(ones):
        expected = metrics.average_precision_score(ones, [one for [one] in scores])
        assert figure("average_precision", scores, ones) == pytest.approx(expected)


def test_a_class_that_is_given_as_one_integer_is_the_answer() -> None:
    metric = metric_of("top1")
    rows = [({"label": np.asarray([found])}, wanted, {}) for found, wanted in ((2, 2), (1, 2))]
    assert metric.check is not None
    metric.check(np.asarray([2, 2]), rows[0][0])
    assert metric.total(metric.rows(rows)) == 0.5
    assert metric.without_labels is not None
    floats = [(answers, answers, {}) for answers, _, _ in rows]
    assert metric.without_labels.total(metric.without_labels.rows(floats)) == 1
    with pytest.raises(BadSamples, match="not a score for each class"):
        metric.check(np.asarray([0, 1]), {"score": np.asarray([0.5], np.float32)})


def test_each_class_has_its_own_intersection_over_union() -> None:
    """Over all samples: class 0 is right in 1 of 2 pixels and then in 1 of 1, class 1 in 1 of 3 and
    nowhere, class 2 in 1 of 2; class 3 is in none of them. The mean is that of the metric."""
    metric = metric_of("segmentation")
    outputs = [np.eye(4)[[0, 1, 1, 2, 0]].T[None], np.eye(4)[[0, 1]].T[None]]
    found = rows(metric, outputs, [[0, 1, 2, 2, 1], [0, 255]])
    named = named_parts(metric, ("a", "b", "c", "d"), found)
    assert [named[name][0] for name in "abc"] == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert np.isnan(named["d"][0])
    assert metric.total(found) == pytest.approx((2 / 3 + 1 / 3 + 1 / 2) / 3)
    assert list(named_parts(metric, (), found, found)) == ["0", "1", "2"]
    assert named_parts(metric_of("top1"), ("a", "b"), [1.0]) == {}


@given(st.data())
def test_mean_iou_is_that_of_a_count_of_pixel_by_pixel(data: st.DataObject) -> None:
    """Against a confusion matrix that is counted one by one."""
    count = data.draw(st.integers(2, 4))
    classes = st.lists(st.integers(0, count - 1), min_size=4, max_size=4)
    pairs = data.draw(st.lists(st.tuples(classes, classes), min_size=1, max_size=3))
    matrix = np.zeros((count, count))
    for given_classes, wanted in pairs:
        for one, other in zip(given_classes, wanted, strict=True):
            matrix[other, one] += 1
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    expected = np.mean(matrix.diagonal()[union > 0] / union[union > 0])
    outputs = [np.eye(count)[one].T[None] for one, _ in pairs]
    labels = [wanted for _, wanted in pairs]
    assert figure("segmentation", outputs, labels) == pytest.approx(expected)
    right = matrix.trace() / matrix.sum()
    assert figure("pixel_accuracy", outputs, labels) == pytest.approx(right)

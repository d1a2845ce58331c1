"""A user's own metric: found, called as it declares, and its errors told."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgedl.benchmark.metrics import metric_of
from edgedl.core.errors import BadOption, MetricFailed

CODE = """
import beside_of_test

def right(outputs, label):
    return float(outputs["y"].argmax() == label) * beside_of_test.WEIGHT

def gap(outputs, label):
    return abs(outputs["y"].max() - label)
gap.lower_is_better = True

def spread(outputs, labels):
    return len(outputs) + sum(labels)
spread.whole = True

def alike(outputs, label):
    return float(np.array_equal(outputs["y"], label["y"]))
alike.against_float = True

def text(outputs, label):
    return "much"

def shy(outputs, label):
    if label == 2:
        raise KeyError("no such class")
    return 1.0

def shy_of_all(outputs, labels):
    raise ZeroDivisionError
shy_of_all.whole = True

def wants_all(outputs, labels):
    if len(set(labels)) < 3:
        raise ValueError("too few")
    return 3
wants_all.whole = True

LIMIT = 3
"""
ANSWERS = [({"y": np.array([0.1, 0.9])}, label, {}) for label in (1, 0, 2)]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_of_test.py").write_text("import numpy as np\n" + CODE)
    (tmp_path / "beside_of_test.py").write_text("WEIGHT = 2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("spec", ["mine_of_test:right", "mine_of_test.py:right", "{}:right"])
def test_a_function_is_called_sample_by_sample(spec: str, folder: Path) -> None:
    metric = metric_of(spec.format(folder / "mine_of_test.py"))
    rows = metric.rows(ANSWERS)
    assert rows == [2, 0, 0]
    assert metric.score(rows) == pytest.approx(2 / 3)
    assert metric.figure == "right"


def test_what_is_importable_is_imported() -> None:
    path = metric_of("os.path:commonpath")
    with pytest.raises(MetricFailed, match="sample 0"):
        path.rows(ANSWERS)


def test_it_says_that_less_is_better() -> None:
    metric = metric_of("mine_of_test:gap")
    rows = metric.rows(ANSWERS)
    assert metric.total(rows) == pytest.approx((0.1 + 0.9 + 1.1) / 3)
    assert metric.score(rows) == -metric.total(rows)


def test_it_may_want_the_whole_set() -> None:
    metric = metric_of("mine_of_test:spread")
    assert metric.total(metric.rows(ANSWERS)) == 3 + 3


def test_it_says_that_float_may_stand_in_for_labels() -> None:
    assert metric_of("mine_of_test:right").without_labels is None
    twin = metric_of("mine_of_test:alike").without_labels
    assert twin is not None
    floats = [
        (answer, {"y": np.array([0.1, last])}, {})
        for (answer, *_), last in zip(ANSWERS, (0.9, 1, 1), strict=True)
    ]
    assert twin.total(twin.rows(floats)) == pytest.approx(1 / 3)


def test_what_it_raises_names_the_sample_the_line_and_keeps_what_was() -> None:
    with pytest.raises(MetricFailed) as caught:
        metric_of("mine_of_test:shy").rows(ANSWERS, [4, 7, 9], "s.npz")
    line = CODE.splitlines().index('        raise KeyError("no such class")') + 2
    said = f"sample 9: KeyError: 'no such class' (mine_of_test.py:{line})"
    assert str(caught.value) == f"s.npz: metric `mine_of_test:shy` failed on {said}"
    assert caught.value.rows == (1, 1)
    assert "`y` (2,)" in str(caught.value.hint)


def test_what_it_raises_of_the_whole_set_is_told_too() -> None:
    metric = metric_of("mine_of_test:shy_of_all")
    with pytest.raises(MetricFailed, match="on all 3 samples together: ZeroDivisionError"):
        metric.total(metric.rows(ANSWERS))


def test_a_draw_that_it_cannot_take_costs_only_that_draw() -> None:
    metric = metric_of("mine_of_test:wants_all")
    rows = metric.rows(ANSWERS)
    assert metric.total(rows) == 3
    found = metric.compare(rows, rows)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_what_is_no_number_is_told() -> None:
    with pytest.raises(MetricFailed, match="sample 0: it gave str, not a number"):
        metric_of("mine_of_test:text").rows(ANSWERS)


BAD = {
    "no such file": ("gone.py:right", "no file `gone.py`"),
    "no such module": ("gone_of_test:right", "no module `gone_of_test`"),
    "no such function": ("mine_of_test:left", "right, gap, spread"),
    "no function": ("mine_of_test:LIMIT", "cannot be called"),
    "code that fails": ("broken.py:right", "SyntaxError"),
    "a module that it lacks": ("lacking.py:right", "gone_of_test"),
}


@pytest.mark.parametrize(("spec", "says"), BAD.values(), ids=BAD)
def test_what_cannot_be_found_ends_in_a_way_out(spec: str, says: str, folder: Path) -> None:
    (folder / "broken.py").write_text("def right(:")
    (folder / "lacking.py").write_text("import gone_of_test")
    with pytest.raises(BadOption) as caught:
        metric_of(spec)
    assert caught.value.hint
    assert says in f"{caught.value} {caught.value.hint}"


def test_another_version_of_the_code_is_another_metric(folder: Path) -> None:
    before = metric_of("mine_of_test:right")
    assert repr(before) == repr(metric_of("mine_of_test:right"))
    path = folder / "mine_of_test.py"
    path.write_text(path.read_text() + "# changed\n")
    os.utime(path, (0, 0))
    assert repr(before) != repr(metric_of("mine_of_test:right"))

"""Rows of a table to inputs: numbers, categories, gaps, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.core.errors import BadSamples, BadValue
from edgedl.runtime.process.table import Column, Table, category, is_missing

COLUMNS = (Column("age", 40.0, 10.0), Column("color", categories=("red", "blue")), Column("size"))
TABLE = Table(COLUMNS)
LENIENT = Table(COLUMNS, missing="mean", unknown="zeros")


def test_a_row_by_hand() -> None:
    row = {"size": "3", "age": 55, "color": "blue", "more": "is passed over"}
    # (55 - 40) / 10, not red, blue, (3 - 0) / 1
    assert TABLE.apply(row).tolist() == [[1.5, 0, 1, 3]]
    assert TABLE.apply([55, "blue", 3.0]).tolist() == [[1.5, 0, 1, 3]]
    assert TABLE.shape == (1, 4)
    assert Table(COLUMNS, layout="f").apply(row).shape == Table(COLUMNS, layout="f").shape == (4,)


def test_a_gap_is_the_mean_or_refused() -> None:
    for gap in (None, "", " NA ", float("nan"), "?"):
        assert LENIENT.apply([gap, gap, gap]).tolist() == [[0, 0, 0, 0]]
        with pytest.raises(BadSamples, match="column `age` has no value"):
            TABLE.apply([gap, "red", 1])


def test_another_category_is_zeros_or_refused() -> None:
    assert LENIENT.apply([40, "green", 0]).tolist() == [[0, 0, 0, 0]]
    with pytest.raises(BadSamples, match="column `color` is `bleu`") as caught:
        TABLE.apply([40, "bleu", 0])
    assert "did you mean `blue`" in (caught.value.hint or "")


@pytest.mark.parametrize("value", ["old", "inf", 1e400, [], "1,5"])
def test_text_for_a_number_is_refused(value: Any) -> None:
    with pytest.raises(BadSamples, match=r"column `age` is .*, not a number"):
        LENIENT.apply([value, "red", 0])


def test_a_column_that_is_not_there() -> None:
    with pytest.raises(BadSamples, match="no column `color`") as caught:
        TABLE.apply({"age": 1, "colour": "red", "size": 1})
    assert "did you mean `colour`" in (caught.value.hint or "")
    with pytest.raises(BadSamples, match="2 values for 3 columns"):
        TABLE.apply([1, 2])


def test_categories_of_numbers() -> None:
    assert [category(value) for value in (1.0, 1, "1 ", True, 1.5)] == [
        "1",
        "1",
        "1",
        "true",
        "1.5",
    ]
    assert [is_missing(value) for value in (0, "0", False, np.nan, "none")] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,color,size\n55,blue,3\n")
    (tmp_path / "a.json").write_text(json.dumps({"age": 55, "color": "blue", "size": 3}))
    for name in ("a.csv", "a.json"):
        assert TABLE.apply(TABLE.decode(tmp_path / name)).tolist() == [[1.5, 0, 1, 3]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", ""), ("a.csv", "a,b\n"), ("a.csv", "a,b\n1\n"), ("a.csv", "a\n1\n2\n"),
        ("a.json", "[]"), ("a.json", "{"), ("a.json", "[" * 100_000),
    ],
)  # fmt: skip
def test_files_that_are_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadSamples, match="cannot be read"):
        TABLE.decode(tmp_path / name)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Table(()), "columns"),
        (lambda: Table((Column("a"), Column("a"))), "columns"),
        (lambda: Column("a", std=0.0), "std"),
        (lambda: Column("a", mean=float("nan")), "mean"),
        (lambda: Column("a", categories=("x", "x")), "categories"),
    ],
)
def test_impossible_settings(make: Any, key: str) -> None:
    with pytest.raises(BadValue) as caught:
        make()
    assert caught.value.keys == (key,)
    assert caught.value.hint


@pytest.mark.parametrize("raw", [None, 3, np.array(5.0), np.zeros((1, 1))])
def test_what_is_no_row_is_told(raw: Any) -> None:
    with pytest.raises(BadSamples, match="is no row"):
        Table(columns=(Column("a"),)).apply(raw)

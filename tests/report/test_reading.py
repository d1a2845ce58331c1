"""What a document says, in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from edgedl.report.reading import (
    chance,
    figure,
    headline,
    interval,
    lede,
    milliseconds,
    number,
    short_names,
    telling,
    verdict,
)
from tests.report.documents import document, many, pair, row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"), (0.0, "0"), (4.412, "4.41"), (11.0, "11.0"), (227.4, "227"), (9.999, "10.00"),
        (12345.6, "12,346"), (0.01234, "0.0123"), (-2.5, "-2.50"),
    ],
)  # fmt: skip
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_times_have_units() -> None:
    assert milliseconds(4.4) == "4.40 ms"
    assert milliseconds(0.0421) == "42.1 us"


@pytest.mark.parametrize("value", [None, "3", True, float("nan"), float("inf"), [1], {}, 10**400])
def test_only_finite_numbers_are_numbers(value: Any) -> None:
    assert number({"a": value}, "a") is None


def test_slower_is_told_the_other_way_round() -> None:
    slow = {"a": "a", "b": "b", "ratio": 0.5, "low": 0.4, "high": 0.8, "verdict": "slower"}
    assert interval(slow) == "0.50x [0.40, 0.80]"
    assert verdict(slow) == "b is 2.00x [1.25, 2.50] slower than a"


def test_ratios_far_from_one_have_three_digits() -> None:
    assert interval({"ratio": 1234.5, "low": 0.00123, "high": 99.994}) == "1,234x [0.00123, 99.99]"


def test_p_values() -> None:
    assert [chance(p) for p in (None, 0.0001, 0.04)] == ["", "p < 0.001", "p = 0.040"]


def test_headlines() -> None:
    a, b, c = row("a", 4.0), row("b", 2.0), row("c", 8.0)
    assert headline(document([a, b, c])) == "b is 2.00x [1.92, 2.08] faster than a"
    assert headline(document([a, c])) == "c is 2.00x [1.92, 2.08] slower than a"
    assert headline(document([a, row("d", 4.0)])) == "Nothing differs beyond the noise of 2.0 %"
    assert headline(document([a])) == "a answers in 4.00 ms on onnxruntime"
    assert headline(document([{**a, "valid": False}])) == "No figure here is valid"
    assert headline({}) == "Nothing was timed"


def test_the_lede_weighs_the_winner() -> None:
    a, b = row("a", 4.0), row("b", 2.0)
    a["bytes"], b["bytes"] = 8_000_000, 2_000_000
    a["accuracy"]["value"], b["accuracy"]["value"] = 0.75, 0.74
    said = lede(document([a, b, row("c", 4.0)]))
    assert said == (
        "Median 2.00 ms instead of 4.00 ms. 2 MB instead of 8 MB. Accuracy (top1) 0.7400 instead of"
        " 0.7500. Of 2 others, 1 faster, 0 slower, 1 within the noise."
    )


def test_pairs_without_the_first_row_still_count() -> None:
    found = {"rows": [{"artifact": "x"}], "pairs": [pair("a", "b", 2.0)]}
    assert headline(found) == "b is 2.00x [1.92, 2.08] faster than a"


def test_shared_folders_go() -> None:
    assert short_names(["out/a/x.onnx", "out/b/x.onnx"]) == {
        "out/a/x.onnx": "a/x.onnx",
        "out/b/x.onnx": "b/x.onnx",
    }
    assert short_names(["x.onnx"]) == {"x.onnx": "x.onnx"}
    assert short_names(["m/x", "m/x"]) == {"m/x": "x"}
    assert short_names([]) == {}


def test_the_telling_rows_are_the_first_and_the_fastest() -> None:
    rows = many(30)["rows"]
    found = telling(rows, 5)
    assert found[0] is rows[0]
    others = sorted(r["latency_ms"]["p50"] for r in rows[1:] if r["valid"])
    assert sorted(r["latency_ms"]["p50"] for r in found[1:]) == others[:4]
    assert found == [r for r in rows if r in found]

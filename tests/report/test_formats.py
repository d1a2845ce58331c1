"""Markdown that nothing breaks out of, and CSV that no spreadsheet runs."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from edgedl.report.formats import to_csv, to_markdown
from tests.report.documents import document, many, row, two


def lines(found: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(found), newline="")))


def test_markdown_says_the_verdict_first() -> None:
    found = to_markdown(two())
    assert found.startswith(
        "### models/resnet50.edl is 2.50x \\[2.40, 2.60\\] faster than models/resnet50.onnx\n"
    )
    assert "- the machine is busy: load 0.7 a core\n" in found
    assert "| `models/resnet50.edl` against `models/resnet50.onnx` | 2.50x [2.40, 2.60] |" in found


def test_markdown_tables_are_even() -> None:
    found = document([row("a|b`c\nd.onnx", 4.0), row("@all <b>.edl", 2.0)])
    text = to_markdown(found)
    blocks = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 3
    for block in blocks:
        counts = {line.replace("\\|", "").count("|") for line in block.splitlines()}
        assert len(counts) == 1
    assert "<b>" not in text.replace("`@all <b>.edl`", "")


def test_markdown_tells_what_is_not_valid_and_what_is_left_out() -> None:
    text = to_markdown(many(80))
    assert "**Not valid, must not be used:** `candidates/resnet50-int8-02.edl`" in text
    assert "50 of 80 rows." in text


def test_markdown_tells_why_a_row_is_not_valid() -> None:
    found = two()
    for one in found["rows"]:
        one |= {"valid": False, "problem": "the clock of core 2 fell by 10%"}
    assert to_markdown(found).count("the clock of core 2 fell by 10%") == 1


def test_markdown_tells_how_many_pairs_are_left_out() -> None:
    text = to_markdown(many(80))
    assert "20 of 79 pairs." in text


@pytest.mark.parametrize("form", [to_markdown, to_csv])
def test_nothing_missing_is_printed(form: Any) -> None:
    found = two()
    for key in found["rows"][1]:
        found["rows"][1][key] = None
    found["rows"][0]["latency_ms"]["p50"] = float("nan")
    for bare in (found, {}, {"rows": [{}], "pairs": [{}], "doubts": None}):
        text = form(bare)
        assert "None" not in text
        assert "nan" not in text


def test_csv_by_hand() -> None:
    found = lines(two())
    assert [line["artifact"] for line in found] == ["models/resnet50.onnx", "models/resnet50.edl"]
    assert found[1]["latency_p50_ms"] == "4.41"
    assert found[1]["latency_samples"] == "1200"
    assert found[1]["speed_verdict"] == "faster"
    assert found[0]["speed_ratio"] == ""
    assert found[0]["gpu_bytes"] == ""
    assert found[0]["energy_least_mj"] == found[0]["energy_net_mj"] == found[0]["energy_mj"]
    assert found[0]["valid"] == "true"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_formulas_are_disarmed(start: str) -> None:
    name = f'{start}cmd|" /C calc"!A0'
    found = lines(document([row(name, 4.0)]))
    assert found[0]["artifact"] == "'" + name


def test_numbers_keep_their_sign() -> None:
    found = two()
    found["rows"][0]["agreement"]["sqnr_db"] = -3.5
    assert lines(found)[0]["agreement_sqnr_db"] == "-3.5"


def test_csv_ends_its_lines_as_the_standard_says() -> None:
    text = to_csv(document([row("a,b\n\"c\"", 4.0)]))  # fmt: skip
    assert text.endswith("\r\n")
    assert '"a,b\n""c"""' in text

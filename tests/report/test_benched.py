"""The text that `bench` prints."""

from __future__ import annotations

from typing import Any

from edgedl.report.benched import text
from tests.report.documents import two


def whole() -> dict[str, Any]:
    found = two()
    for row in found["rows"]:
        row["profiled"] = {"total_us": 1000.0, "accounted": 0.97}
        row["slowest"] = [{"name": "conv1", "kind": "Conv", "precision": "int8", "us": 12.3}]
        row["highest_rate"] = {"p99_ms": 20.0, "rate_per_s": 150.0, "reason": None}
        for entry in row["profile"]:
            entry["fallback"] = False
        for rate in row["rates"]:
            rate["problem"] = None
    return {"processes": 5, "confirmed": None, **found}


def test_every_part_is_there_and_no_null_is_printed() -> None:
    page = text(whole())
    for words in (
        "noise floor", "5 fresh processes", "alone, in a fresh process", "throughput", "under load",
        "up to 150 calls/s with p99 within 20 ms", "energy a call", "97 % of it", "conv1",
    ):  # fmt: skip
        assert words in page, words
    assert "None" not in page
    assert "nan" not in page
    assert max(map(len, page.splitlines())) < 200


def test_what_was_not_measured_is_left_out_or_a_dash() -> None:
    found = whole()
    for row in found["rows"]:
        row["latency_ms"]["p99"] = None
        row |= dict.fromkeys(("profile", "rates", "load", "energy", "highest_rate", "load_ms"))
        row |= dict.fromkeys(("accuracy", "agreement", "end_to_end_ms"))
    page = text(found)
    assert "None" not in page
    assert " - " in page
    assert "throughput" not in page
    assert "under load" not in page
    assert "alone" not in page


def test_a_failed_row_says_why() -> None:
    found = whole()
    found["rows"][1] |= {"valid": False, "problem": "it took its process down (SIGSEGV)"}
    found["rows"][1] |= dict.fromkeys(("latency_ms", "load_ms", "profile", "rates", "load"))
    found["rows"][1] |= dict.fromkeys(("energy", "highest_rate"))
    found["pairs"] = []
    page = text(found)
    assert "not valid" in page
    assert "SIGSEGV" in page


def test_the_winner_on_new_rounds_is_told() -> None:
    found = whole()
    found["confirmed"] = found["pairs"][0]
    assert "on new rounds: " in text(found)


def test_the_spread_of_several_windows_stands_beside_their_median() -> None:
    found = whole()
    assert "median of" not in text(found)
    found["rows"][0]["energy"] |= {
        "net_mj": 34.0, "windows_mj": [33.0, 34.0, 36.0], "least_mj": 33.0, "most_mj": 36.0
    }  # fmt: skip
    assert "34 mJ (median of 3, 33 to 36)" in text(found)

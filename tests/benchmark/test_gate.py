"""The gate: what is red, and what cannot be compared."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.benchmark.gate import gate, read_baseline, unpaired_ratio
from edgedl.benchmark.unlike import library_differences
from edgedl.core.errors import BadOption, EdgeError, Unsupported
from edgedl.report.gated import markdown

PATH = Path("base.json")


def document(*yardsticks: float) -> dict[str, Any]:
    return {
        "format_version": 1,
        "machine": {"processor": "X", "architecture": "x86_64", "usable_cores": 2},
        "inputs": {"digest": "d"},
        "noise_floor": 0.01,
        "rows": [
            {
                "artifact": "m.onnx",
                "engine": "onnxruntime",
                "threads": 1,
                "valid": True,
                "problem": None,
                "latency_ms": {"p50": 2.0},
                "yardsticks": list(yardsticks),
            }
        ],
    }


def comment(rows: Any, limit: float, again: bool = False, differences: Any = ()) -> str:
    return markdown(
        {
            "baseline": "base.json",
            "limit": limit,
            "rows": [row.to_json() for row in rows],
            "again": again,
            "library_differences": list(differences),
        }
    )


OLD = document(10.0, 10.1, 9.9, 10.0, 10.0)


def test_a_slow_down_beyond_the_limit_is_red() -> None:
    [row] = gate(document(10.5, 10.6, 10.4, 10.5, 10.5), OLD, 0.03, PATH)
    assert row.red
    assert row.slowdown.ratio == pytest.approx(1.05, abs=1e-3)
    [row] = gate(document(10.5, 10.6, 10.4, 10.5, 10.5), OLD, 0.06, PATH)
    assert not row.red
    assert "**ok**" in comment([row], 0.06)


def test_what_may_be_noise_is_not_red() -> None:
    [row] = gate(document(9.0, 12.5, 10.5, 9.5, 11.5), OLD, 0.03, PATH)
    assert row.slowdown.ratio > 1.03
    assert not row.red


def test_a_slow_machine_is_no_slow_model() -> None:
    """Times double, and so does the yardstick beside them: the quotients are the same."""
    slow = copy.deepcopy(OLD)
    slow["rows"][0]["latency_ms"]["p50"] = 4.0
    [row] = gate(slow, OLD, 0.03, PATH)
    assert not row.red
    assert (row.before_ms, row.after_ms) == (2.0, 4.0)


def test_the_interval_is_welchs() -> None:
    found = unpaired_ratio(np.exp([0.1, 0.2, 0.3]).tolist(), np.exp([0.0, 0.1, -0.1]).tolist())
    half = 4.302653 * np.sqrt(0.01 / 3 + 0.01 / 3)  # two degrees of freedom, deviations of 0.1
    assert np.log(found.ratio) == pytest.approx(0.2)
    assert np.log(found.high) == pytest.approx(0.2 + half)
    assert np.log(found.low) == pytest.approx(0.2 - half)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (lambda d: d["rows"][0].update(artifact="other"), BadOption, "is not in the baseline"),
        (lambda d: d["rows"][0].update(threads=2), BadOption, "is not in the baseline"),
        (lambda d: d["inputs"].update(digest="e"), BadOption, "other inputs"),
        (lambda d: d["machine"].update(processor="Y"), Unsupported, "another machine"),
        (lambda d: d["rows"][0].update(valid=False, problem="hot"), Unsupported, "hot"),
        (lambda d: d["rows"][0].update(yardsticks=[1.0]), Unsupported, "too few"),
    ],
)
def test_unlike_things_are_refused(change: Any, kind: type[EdgeError], words: str) -> None:
    old = copy.deepcopy(OLD)
    change(old)
    with pytest.raises(kind, match=words) as caught:
        gate(OLD, old, 0.03, PATH)
    assert caught.value.hint
    assert "base.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[]", "is not what"),
        ('{"rows": 3}', "is not what"),
        ('{"rows": [], "format_version": 99}', "format version 99"),
        ('{"rows": []}', "format version None"),
        ('{"rows": [3], "format_version": 1}', "is not what"),
        ('{"rows": [], "format_version": 1}', "lacks `machine`"),
        (
            '{"rows": [{}], "format_version": 1, "machine": {}, "inputs": {}, "noise_floor": 0}',
            "lacks `artifact` of a row",
        ),
    ],
)
def test_bad_baselines_are_said(text: str | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadOption, match=words) as caught:
        read_baseline(path)
    assert "edgedl bench" in (caught.value.hint or "")


def test_the_last_line_of_a_noisy_output_is_read(tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text("warming up\n" + json.dumps(OLD) + "\n")
    assert read_baseline(path) == OLD


def test_red_is_said_first() -> None:
    rows = gate(document(11, 11, 11.1), document(10, 10, 10), 0.03, PATH)
    text = comment(rows, 0.03, again=True)
    assert (
        text.splitlines()[0] == "### edgedl bench: **slower**: 1 of 1 by more than 3 %, timed twice"
    )
    assert "+10.3 %" in text


def test_an_engine_that_was_upgraded_is_named_in_the_comment() -> None:
    rows = gate(document(11, 11, 11.1), document(10, 10, 10), 0.03, PATH)
    old = {"libraries": {"numpy": "2.1.0", "onnxruntime": "1.20.0", "onnx": "1.17.0"}}
    new = {"libraries": {"numpy": "2.1.0", "onnxruntime": "1.23.2"}}
    last = comment(rows, 0.03, differences=library_differences(old, new)).splitlines()[-1]
    assert "onnxruntime: 1.20.0 against 1.23.2" in last
    assert "numpy" not in last
    assert "versions" not in comment(rows, 0.03, differences=library_differences(new, new))

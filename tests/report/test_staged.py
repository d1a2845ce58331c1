"""The table of stages: whose rows it has, and where it stands."""

from __future__ import annotations

from typing import Any

from edgedl.report.benched import text
from edgedl.report.formats import to_csv, to_markdown
from edgedl.report.page import page
from edgedl.report.staged import staged
from tests.report.documents import two
from tests.report.test_benched import whole


def stages(*milliseconds: float | None) -> dict[str, Any]:
    names = ("decode", "preprocess", "run", "postprocess")
    return dict(zip(names, milliseconds, strict=True))


def test_cells_by_hand() -> None:
    row = {
        "artifact": "a.onnx",
        "stages_ms": stages(9.5, 0.25, 4.75, None),
        "end_to_end_ms": {"p50": 14.61},
    }
    assert staged([row]) == [
        ["end to end", "decode", "pre-process", "run", "post-process", "whole"],
        ["a.onnx", "9.50 ms", "0.250 ms", "4.75 ms", "-", "14.6 ms"],
    ]


def test_arrays_have_no_table_but_their_answers_may() -> None:
    row: dict[str, Any] = {"artifact": "a.onnx", "stages_ms": stages(0.1, None, 4.75, None)}
    assert staged([row]) == []
    assert staged([{"artifact": "a.onnx"}, {"artifact": "b", "stages_ms": None}]) == []
    row["stages_ms"] = stages(0.1, None, 4.75, 0.01)
    assert staged([row])[1] == ["a.onnx", "0.100 ms", "-", "4.75 ms", "10.0 us", "-"]


def test_every_form_has_it_and_none_without() -> None:
    found, without = whole(), whole()
    for row in without["rows"]:
        row["stages_ms"] = stages(0.1, None, 4.75, None)
    for form in (text, to_markdown, lambda document: page(document, {}, [])):
        assert "post-process" in form(found)
        assert "post-process" not in form(without).partition('id="document"')[0]
    head = to_csv(two()).splitlines()[0].split(",")
    line = to_csv(two()).splitlines()[1].split(",")
    assert float(line[head.index("stages_decode_ms")]) == 2.1 * 11.03
    assert line[head.index("stages_postprocess_ms")] == ""

"""`edgedl compile`, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedl.cli import main
from edgedl.runtime import ENGINES
from tests.runtime.engines import TABLE
from tests.runtime.shipped import payload, written


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """A function that runs a command in a folder and gives exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEDL_CACHE", raising=False)
    for name, place in TABLE.items():
        monkeypatch.setitem(ENGINES, name, place)

    def run(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words.split())
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_line_a_payload_and_json(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    written(tmp_path / "a.edl", [payload("plain"), payload("building")])
    status, out, err = typed("compile a.edl --cache kept --threads 1")
    assert status == 0
    first, second = out.splitlines()
    assert first.split()[:4] == ["plain", "float32", "not", "made"]
    assert second.split()[:3] == ["building", "float32", "made"]
    assert "kept/" in second
    assert not err
    status, out, err = typed("compile a.edl --cache kept --threads 1 --json")
    assert status == 0
    document = json.loads(out)
    assert [one["state"] for one in document["payloads"]] == ["not made", "kept already"]
    assert "kept already" in err


def test_bad_input_is_one_error_with_a_way_out(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    written(tmp_path / "a.edl", [payload("building")])
    (tmp_path / "b.edl").write_bytes((tmp_path / "a.edl").read_bytes()[:-9])
    for words, wanted, says in (
        ("compile a.edl", 1, "no cache is named"),
        ("compile a.edl --cache kept -o b.edl", 2, "exclude one another"),
        ("compile a.edl --target tensorrt", 2, "no payload for `tensorrt`"),
        ("compile b.edl --cache kept", 1, "b.edl"),
        ("compile c.edl", 1, "no such file"),
        ("compile a.edl --threads 0", 2, "threads"),
        ("compile", 2, "missing argument"),
    ):
        status, out, err = typed(words)
        assert status == wanted, words
        assert says in err
        assert err.startswith("error: ")
        assert "hint: " in err
        assert not out

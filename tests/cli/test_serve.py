"""`edgedl serve`, as a user mistypes it."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the service's extra: pip install 'edgedl[serve]'")

from edgedl.cli import main


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "missing argument"),
        (["absent.edl"], 1, "error: absent.edl: no such file"),
        (["a.edl", "b=a.edl", "b=c.edl"], 2, "two bundles are named `b`"),
        (["a.edl", "--max-wait", "soon"], 2, "`soon` is not a time"),
        (["a.edl", "--timeout", "0ms"], 2, "--timeout is `0ms`"),
        (["a.edl", "--max-body", "12"], 2, "--max-body is `12`"),
        (["a.edl", "--max-memory", "1MB", "--max-body", "2MB"], 2, "--max-memory is `1MB`"),
        (["a.edl", "--host", "192.0.2.1"], 2, "`192.0.2.1` is no address of this machine"),
        (["a.edl", "--port", "70000"], 2, "70000"),
    ],
)
def test_mistakes_have_a_way_out(
    words: list[str],
    status: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["serve", *(["--port", "0"] if "--port" not in words else []), *words])
    error = capsys.readouterr().err
    assert caught.value.code == status
    assert said in error
    assert "hint: " in error

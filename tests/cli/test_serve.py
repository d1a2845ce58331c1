"""`edgedl serve`, as a user mistypes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the service's extra: pip install 'edgedl[serve]'")

from edgedl.cli import main
from edgedl.core.errors import BadBundle
from edgedl.service import run as service
from edgedl.service.batcher import Policy
from edgedl.service.model import Settings


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


def test_signed_and_encrypted_bundles_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {}

    def taken(bundles: list[str], **options: Any) -> int:
        given.update(options, bundles=bundles)
        return 0

    monkeypatch.setattr(service, "serve", taken)
    (tmp_path / "k.aes").write_bytes(bytes(32))
    (tmp_path / "k.aes").chmod(0o600)
    words = ["a.edl", "--trust", "alice.pub", "--key-file", str(tmp_path / "k.aes")]
    with pytest.raises(SystemExit) as caught:
        main(["serve", *words, "--cache", "kept"])
    assert caught.value.code == 0
    assert (given["trust"], given["cache"]) == (["alice.pub"], "kept")
    assert given["key"]("any") == bytes(32)


def test_an_engine_computes_as_many_calls_as_there_are_workers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def opened(path: Path, **options: Any) -> Any:
        asked.update(options)
        raise BadBundle("that is all that is looked at")

    monkeypatch.setattr(service.runtime, "open", opened)
    monkeypatch.setattr(service, "spare_cores", lambda: 7)
    settings = Settings(Policy(workers=3))
    with pytest.raises(BadBundle):
        service.serve(tmp_path / "a.edl", port=0, settings=settings, key=bytes.fromhex)
    assert asked == {"threads": 2, "at_once": 3, "key": bytes.fromhex}

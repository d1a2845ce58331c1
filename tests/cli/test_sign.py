"""`keygen`, `encrypt`, `sign`, `verify`, `check` and `run`, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedl.cli import main
from edgedl.cli.sign import until
from edgedl.core.errors import BadOption
from edgedl.runtime.sign.envelope import of_moment
from tests.bundles import small_bundle
from tests.runtime.test_bundle import written


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """A function that runs a command in a folder and gives exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(words.split())
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_from_keys_to_answers(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    written(tmp_path / "net.edl")
    np.savez(tmp_path / "x.npz", x=np.ones((2, 3, 8, 8), np.float32))
    assert typed("keygen alice")[0] == 0
    assert typed("keygen model --encryption")[0] == 0
    assert typed("encrypt net.edl --key-file model.aes -o sealed.edl")[0] == 0
    status, out, _ = typed("sign sealed.edl --key alice.key --name net --release 3 --expires 30d")
    assert status == 0
    assert "signed by alice" in out
    status, out, _ = typed("verify sealed.edl --trust alice.pub --name net --least-release 3")
    assert status == 0
    assert "as `net` release 3" in out
    keys = "--trust . --key-file model.aes"
    status, out, _ = typed(f"check sealed.edl {keys} --json")
    found = json.loads(out.splitlines()[-1])
    assert found["ok"]
    assert found["signers"][0]["signer"] == "alice"
    assert typed(f"run sealed.edl --input x.npz --output y.npz {keys}")[0] == 0
    assert typed("run net.edl --input x.npz --output plain.npz")[0] == 0
    with np.load("y.npz") as ours, np.load("plain.npz") as theirs:
        np.testing.assert_array_equal(ours["logits"], theirs["logits"])
    status, out, _ = typed("verify sealed.edl --trust alice.pub --json")
    found = json.loads(out.splitlines()[-1])
    assert found["ok"]
    assert found["raw"] == "alice"
    assert found["trusted"][0]["release"] == 3


REFUSED = {
    "unsigned": ("verify net.edl --trust alice.pub", 1, "not signed"),
    "untrusted": ("verify signed.edl --trust bob.pub", 1, "nobody who is trusted"),
    "checked by another": ("check signed.edl --trust bob.pub", 1, "nobody who is trusted"),
    "run by another": (
        "run signed.edl --input x.npz --output y.npz --trust bob.pub",
        1,
        "nobody who is trusted",
    ),
    "an older release": ("verify signed.edl --trust . --least-release 4", 1, "no release"),
    "nobody": ("verify signed.edl", 2, "nobody is trusted"),
    "no key": ("verify signed.edl --trust none.pub", 1, "no such key"),
    "a key again": ("keygen alice", 1, "is there already"),
    "a public key that signs": ("sign net.edl --key alice.pub", 1, "public key"),
    "a date that never was": ("sign net.edl --key alice.key --expires 2030-02-30", 2, "no date"),
    "a date long past": ("sign net.edl --key alice.key --expires 2020-01-01", 2, "expired"),
    "a passphrase that nobody types": ("keygen carol --passphrase", 1, "nobody can be asked"),
    "an empty passphrase": ("keygen carol --passphrase-file empty", 1, "holds no passphrase"),
    "no secret": ("encrypt net.edl --key-file empty -o out.edl", 1, "no key of 32 bytes"),
}


@pytest.mark.parametrize(("words", "status", "match"), REFUSED.values(), ids=REFUSED)
def test_errors_are_told(words: str, status: int, match: str, typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("alice", "bob"):
        typed(f"keygen {name}")
    small_bundle(tmp_path / "net.edl")
    small_bundle(tmp_path / "signed.edl")
    (tmp_path / "empty").write_text("")
    typed("sign signed.edl --key alice.key")
    found, _, err = typed(words)
    assert found == status
    assert match in err
    assert err.startswith("error: ")
    assert "\nhint: " in err


def test_a_passphrase_comes_from_a_file(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small_bundle(tmp_path / "net.edl")
    (tmp_path / "word").write_text("long words\n")
    (tmp_path / "other").write_text("other words\n")
    assert typed("keygen alice --passphrase-file word")[0] == 0
    status, _, err = typed("sign net.edl --key alice.key --passphrase-file other")
    assert status == 1
    assert "this passphrase" in err
    assert typed("sign net.edl --key alice.key")[0] == 1
    assert typed("sign net.edl --key alice.key --passphrase-file word")[0] == 0
    assert typed("verify net.edl --trust alice.pub")[0] == 0


def test_dates_and_days() -> None:
    now = 1_800_000_000
    assert until("2030-01-31", now) == of_moment("2030-01-31T00:00:00Z")
    assert until("1", now) == until("1d", now) == now + 86_400
    for wrong in ("", "d", "-1", "1.5", "2030-1-", "31.01.2030", "99999999999", "²"):
        with pytest.raises(BadOption):
            until(wrong, now)

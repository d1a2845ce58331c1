"""`keygen`, `encrypt`, `sign`, `verify`, `check` and `run`, as they are typed."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from edgedl.cli import main
from edgedl.cli.sign import until
from edgedl.core.errors import BadOption
from edgedl.runtime.sign.envelope import of_moment
from edgedl.runtime.sign.keys import key_of_file
from tests.bundles import small_bundle
from tests.models import conv_net, saved
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


def secret(path: Path, text: str) -> Path:
    """A file that nobody else may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


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


def test_what_lies_in_clear_is_inspected_and_the_key_is_written_nowhere(  # type: ignore[no-untyped-def]
    typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "net.edl")
    for words in (
        "keygen alice", "keygen bob", "keygen model --encryption",
        "encrypt net.edl --key-file model.aes -o sealed.edl", "sign sealed.edl --key alice.key",
        "sign net.edl --key alice.key",
    ):  # fmt: skip
        assert typed(words)[0] == 0
    status, out, _ = typed("inspect sealed.edl --json")
    found = json.loads(out.splitlines()[-1])
    assert status == 0
    assert found["inputs"][0]["name"] == "x"
    assert found["payloads"][0]["sealed"]["key"] in found["encrypted"]
    assert found["signed"][0]["signer"] == "alice"
    assert "operators" not in found
    assert "encrypted, by the key" in typed("inspect sealed.edl")[1]
    assert "operators" in typed("inspect net.edl")[1]

    np.savez(tmp_path / "x.npz", x=np.ones((4, 3, 8, 8), np.float32))
    for words, match in (
        ("diagnose net.edl sealed.edl --samples x.npz", "its model is encrypted, by the key"),
        ("diagnose net.edl net.edl --samples x.npz --trust bob.pub", "nobody who is trusted"),
        ("compress sealed.edl --int8 --samples x.npz -o y.edl", "is encrypted, and is never"),
        ("bench sealed.edl --seconds 0.5 --trust bob.pub", "nobody who is trusted"),
        ("bench sealed.edl --seconds 0.5", "its model is encrypted, by the key"),
    ):
        status, _, err = typed(words)
        assert (status, match in err) == (1, True), err
        assert "hint: " in err

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    raw = key_of_file(tmp_path / "model.aes")("")
    words = "bench sealed.edl net.edl --seconds 0.5 --anyway --json --trust . --key-file model.aes"
    status, out, err = typed(words)
    assert status == 0, err
    rows = json.loads(out.splitlines()[-1])["rows"]
    assert len(rows) == 2
    assert all(row["latency_ms"]["p50"] > 0 and row["throughput_per_s"] > 0 for row in rows)
    kept = [path for path in scratch.rglob("*") if path.is_file()]
    assert any(path.name == "job.json" for path in kept)
    assert not any(one in path.read_bytes() for path in kept for one in (raw, raw.hex().encode()))


ORIGINAL = {"shared.key": "alice.key", "shared.aes": "model.aes"}
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
    "another name": ("verify signed.edl --trust alice.pub --name door", 1, "calls it nothing"),
    "a private key that is trusted": ("verify signed.edl --trust alice.key", 1, "is a private key"),
    "everybody's private key": ("sign net.edl --key shared.key", 1, "may read it"),
    "everybody's secret": ("encrypt net.edl --key-file shared.aes -o out.edl", 1, "may read it"),
    "everybody's trust": ("verify signed.edl --trust shared", 1, "may write it"),
    "no keys": ("verify signed.edl --trust none", 1, "no public keys in this folder"),
    "over itself": ("encrypt net.edl --key-file model.aes -o ./net.edl", 2, "is the bundle itself"),
    "encrypted twice": ("encrypt sealed.edl --key-file model.aes -o out.edl", 1, "already"),
    "a private key that encrypts": ("encrypt net.edl --key-file alice.key -o a.edl", 1, "32 bytes"),
    "no folder": ("keygen none/at/all", 1, "cannot be written"),
    "no name of a signer": ("sign net.edl --key alice.key --signer=", 2, "1 to 128 characters"),
    "what is no bundle": ("sign x.npz --key alice.key", 1, "not an edgedl bundle"),
    "no secret": ("encrypt net.edl --key-file empty -o out.edl", 1, "no key of 32 bytes"),
}


@pytest.mark.parametrize(("words", "status", "match"), REFUSED.values(), ids=REFUSED)
def test_errors_are_told(words: str, status: int, match: str, typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("alice", "bob"):
        typed(f"keygen {name}")
    small_bundle(tmp_path / "net.edl")
    small_bundle(tmp_path / "signed.edl")
    secret(tmp_path / "empty", "")
    typed("sign signed.edl --key alice.key")
    typed("keygen model --encryption")
    typed("encrypt net.edl --key-file model.aes -o sealed.edl")
    for name in ("shared.key", "shared.aes"):
        (tmp_path / name).write_bytes((tmp_path / f"{ORIGINAL[name]}").read_bytes())
        (tmp_path / name).chmod(0o644)
    (tmp_path / "none").mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    (tmp_path / "x.npz").write_bytes(b"PK" * 100)
    found, _, err = typed(words)
    assert found == status
    assert match in err
    assert err.startswith("error: ")
    assert "\nhint: " in err


def test_what_the_environment_trusts_must_be_there(  # type: ignore[no-untyped-def]
    typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is missing or empty never means that anybody will do."""
    small_bundle(tmp_path / "net.edl")
    (tmp_path / "none").mkdir()
    for named, match in (("nowhere", "no such key"), ("none", "no public keys"), ("", "is empty")):
        monkeypatch.setenv("EDGEDL_TRUST", named)
        for words in ("check net.edl", "verify net.edl", "inspect net.edl", "bench net.edl"):
            status, _, err = typed(words)
            assert status in (1, 2)
            assert err.startswith("error: ")
            assert match in err
            assert "EDGEDL_TRUST" in err


def test_signed_twice_and_by_two_and_encrypted_after(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small_bundle(tmp_path / "net.edl")
    for words in ("keygen alice", "keygen bob", "keygen model --encryption"):
        assert typed(words)[0] == 0
    typed("sign net.edl --key alice.key")
    assert "beside 1 other" in typed("sign net.edl --key bob.key")[1]
    assert "beside 1 other" in typed("sign net.edl --key bob.key")[1]
    for name in ("alice", "bob"):
        assert typed(f"verify net.edl --trust {name}.pub")[0] == 0
    status, _, err = typed("encrypt net.edl --key-file model.aes -o sealed.edl")
    assert status == 0
    assert "signatures are gone" in err
    assert "not signed" in typed("verify sealed.edl --trust alice.pub")[2]
    assert typed("sign sealed.edl --key alice.key")[0] == 0
    status, out, _ = typed("check sealed.edl --trust alice.pub")
    assert status == 1
    assert "its model is encrypted, by the key" in out


def test_a_bundle_is_made_where_only_signed_ones_open(  # type: ignore[no-untyped-def]
    typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was just made here is not asked for a signature; what is opened later is."""
    model = saved(conv_net(), tmp_path)
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    typed("keygen alice")
    monkeypatch.setenv("EDGEDL_TRUST", "alice.pub")
    words = f"compress {model.path} --int8 --samples x.npz -o made.edl --seconds 0.5"
    status, _, err = typed(words)
    assert status == 0, err
    assert "not signed" in typed("check made.edl")[2]
    assert typed("sign made.edl --key alice.key")[0] == 0
    assert typed("check made.edl")[0] == 0


def test_a_passphrase_comes_from_a_file(typed, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    small_bundle(tmp_path / "net.edl")
    secret(tmp_path / "word", "long words\n")
    secret(tmp_path / "other", "other words\n")
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

"""Keys: a pair fits, nothing is overwritten, and each wrong file is told in words."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519

import edgedl
from edgedl.core.errors import BadKey
from edgedl.runtime.sign.keys import MOST_KEYS, PublicKey, key_of_file, public_key, public_keys
from edgedl.runtime.sign.private import encryption_keygen, private_key

OPENSSL = shutil.which("openssl")
PEM = serialization.Encoding.PEM
INFO = serialization.PublicFormat.SubjectPublicKeyInfo
PKCS8, PLAIN = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def test_a_pair_is_made_and_read(tmp_path: Path) -> None:
    made = edgedl.keygen(tmp_path / "alice")
    private, public = private_key(tmp_path / "alice.key")
    assert made == public == public_key(tmp_path / "alice.pub")
    assert private.public_key().public_bytes_raw() == made.raw
    assert (tmp_path / "alice.key").stat().st_mode & 0o777 == 0o600
    assert made.name == "alice"
    assert edgedl.keygen(tmp_path / "bob").raw != made.raw


def test_the_public_file_is_what_others_write(tmp_path: Path) -> None:
    edgedl.keygen(tmp_path / "alice")
    private, public = private_key(tmp_path / "alice.key")
    assert (tmp_path / "alice.pub").read_bytes() == private.public_key().public_bytes(PEM, INFO)
    info = private.public_key().public_bytes(serialization.Encoding.DER, INFO)
    assert public.id == hashlib.sha256(info).hexdigest()


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here")
def test_openssl_reads_and_makes_them(tmp_path: Path) -> None:
    made = edgedl.keygen(tmp_path / "alice")
    words = [str(OPENSSL), "pkey", "-in", str(tmp_path / "alice.key"), "-pubout"]
    done = subprocess.run(words, capture_output=True, check=True)
    assert done.stdout == made.pem()
    theirs = [str(OPENSSL), "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "bob.key")]
    subprocess.run(theirs, capture_output=True, check=True)
    assert private_key(tmp_path / "bob.key")[1].name == "bob"


@pytest.mark.parametrize("there", ["alice.key", "alice.pub"])
def test_nothing_is_overwritten(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(BadKey, match="is there already") as caught:
        edgedl.keygen(tmp_path / "alice")
    assert caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_where_nothing_can_be_written_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="cannot be written"):
        edgedl.keygen(tmp_path / "none" / "alice")
    (tmp_path / "alice.pub").symlink_to(tmp_path / "none" / "alice.pub")
    with pytest.raises(BadKey):
        edgedl.keygen(tmp_path / "alice")
    assert not (tmp_path / "alice.key").exists()


def test_a_passphrase_encrypts(tmp_path: Path) -> None:
    made = edgedl.keygen(tmp_path / "alice", passphrase="long words")
    path = tmp_path / "alice.key"
    assert b"ENCRYPTED" in path.read_bytes()
    asked: list[str] = []
    assert private_key(path, lambda: asked.append("now") or "long words")[1] == made
    assert asked == ["now"]
    for word, problem in ((None, "is encrypted"), ("other words", "not encrypted by this")):
        with pytest.raises(BadKey, match=problem):
            private_key(path, word)
    with pytest.raises(BadKey, match="empty"):
        edgedl.keygen(tmp_path / "bob", passphrase="")
    edgedl.keygen(tmp_path / "plain")
    private_key(tmp_path / "plain.key", lambda: asked.append("needlessly") or "x")
    assert asked == ["now"]


def public_pem(public: bytes) -> bytes:
    return PublicKey(public, "x").pem()


GOOD = public_pem(
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw()
)
WRONG_PUBLIC = {
    "nothing": b"",
    "no PEM": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI",
    "no text": b"\xff\xfe" * 40,
    "too large": b"-" * 100_000,
    "two keys": GOOD * 2,
    "words around it": b"mine:\n" + GOOD,
    "another end": GOOD.replace(b"END PUBLIC", b"END RSA PUBLIC"),
    "a letter less": GOOD.replace(b"=", b"", 1),
    "a key of 33 bytes": public_pem(bytes(33)),
    "a small point": public_pem(bytes([1]) + bytes(31)),
    "no point": public_pem(bytes([2]) + bytes(31)),
    "not canonical": public_pem(b"\xff" * 31 + b"\x7f"),
    "X25519": x25519.X25519PrivateKey.generate().public_key().public_bytes(PEM, INFO),
    "P-256": ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(PEM, INFO),
    "a private key": ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN),
}


@pytest.mark.parametrize("data", WRONG_PUBLIC.values(), ids=WRONG_PUBLIC)
def test_wrong_public_keys_are_told(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "alice.pub"
    path.touch(mode=0o600)
    path.write_bytes(data)
    with pytest.raises(BadKey) as caught:
        public_key(path)
    assert caught.value.hint
    assert caught.value.where == str(path)
    with pytest.raises(BadKey):
        public_keys([tmp_path])


def test_missing_keys_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadKey, match="no such key"):
        public_key(tmp_path / "none.pub")
    with pytest.raises(BadKey, match="cannot be read"):
        public_key(tmp_path)
    with pytest.raises(BadKey, match="no public keys in this folder"):
        public_keys([tmp_path])
    with pytest.raises(BadKey, match="no trusted keys"):
        public_keys([])


WRONG_PRIVATE = {
    "a public key": (GOOD, "is a public key"),
    "nothing": (b"", "no private key"),
    "damaged": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private"),
    "X25519": (x25519.X25519PrivateKey.generate().private_bytes(PEM, PKCS8, PLAIN), "no Ed25519"),
    "P-256": (
        ec.generate_private_key(ec.SECP256R1()).private_bytes(PEM, PKCS8, PLAIN),
        "no Ed25519",
    ),
}


@pytest.mark.parametrize(("data", "problem"), WRONG_PRIVATE.values(), ids=WRONG_PRIVATE)
def test_wrong_private_keys_are_told(data: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "alice.key"
    path.touch(mode=0o600)
    path.write_bytes(data)
    with pytest.raises(BadKey, match=problem) as caught:
        private_key(path)
    assert caught.value.hint


def test_a_folder_holds_keys_and_other_things(tmp_path: Path) -> None:
    keys = {edgedl.keygen(tmp_path / name).id for name in ("alice", "bob")}
    (tmp_path / "again.pub").write_bytes((tmp_path / "bob.pub").read_bytes())
    (tmp_path / "README.txt").write_text("trusted since May")
    assert {key.id for key in public_keys([tmp_path])} == keys
    assert len(public_keys([tmp_path, tmp_path / "alice.pub"])) == 2
    with pytest.raises(BadKey, match="the most"):
        public_keys([tmp_path / "alice.pub"] * (MOST_KEYS + 1))


def test_secret_keys_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = encryption_keygen(tmp_path / "model")
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_of_file(path)("any") == bytes.fromhex(path.read_text())
    with pytest.raises(BadKey, match="is there already"):
        encryption_keygen(tmp_path / "model")
    raw = tmp_path / "raw.aes"
    raw.touch(mode=0o600)
    raw.write_bytes(os.urandom(32))
    assert key_of_file(raw)("any") == raw.read_bytes()
    for wrong in (b"", b"00" * 31, b"x" * 64, b"\xff" * 33, b"00" * 33):
        raw.write_bytes(wrong)
        key = key_of_file(raw)
        with pytest.raises(BadKey, match="no key of 32 bytes"):
            key("any")

"""Encrypted models: the right key opens them, in memory, and nothing else does."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgedl
from edgedl.core.errors import BadBundle, BadKey, BadOption
from edgedl.inputs import load_model
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.layout import HEADER, SEALING, SIGNED
from edgedl.runtime.sign.encrypt import encrypt
from edgedl.runtime.sign.sealed import key_name
from tests.bundles import SECRET, clock, encrypted_bundle, like_onnx, pair, signed, small_bundle
from tests.runtime.test_bundle import written
from tests.runtime.test_manifest import manifest_and_body, rewritten

MODEL = like_onnx(os.urandom(64) + bytes(5000))


def ours(_: str) -> bytes:
    return SECRET


@pytest.mark.parametrize("deflated", [False, True])
def test_the_right_key_opens_it(deflated: bool, tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl", MODEL, deflated=deflated)
    assert MODEL[:64] not in path.read_bytes()
    asked: list[str] = []
    found = open_bundle(path, key=lambda name: asked.append(name) or SECRET)
    assert not asked
    (payload,) = found.payloads
    assert found.payload_bytes(payload) == MODEL
    assert asked == [key_name(SECRET)]
    assert payload.format == ("onnx+deflate" if deflated else "onnx")
    assert found.history()
    assert found.golden().inputs
    assert found.names() == {"w0": "weight"}
    assert HEADER.unpack_from(path.read_bytes())[1] == SEALING


def test_an_engine_runs_it(tmp_path: Path) -> None:
    plain = written(tmp_path / "conv.edl")
    done = encrypt(plain, SECRET, tmp_path / "sealed.edl", key_id="kms:road/7")
    assert (done.key, done.payloads, done.unsigned) == ("kms:road/7", 1, False)
    x = {"x": np.ones((1, 3, 8, 8), np.float32)}
    with edgedl.open(plain) as one, edgedl.open(done.path, key=ours) as other:
        np.testing.assert_array_equal(one.run(x)["logits"], other.run(x)["logits"])
    assert check(done.path, key=ours).ok
    without = check(done.path)
    assert not without.ok
    assert "encrypted, by the key `kms:road/7`" in str(without.payloads[0].problem)


WRONG: dict[str, tuple[Callable[[str], Any] | None, str]] = {
    "none": (None, "its model is encrypted, by the key"),
    "another": (lambda name: bytes(32), "does not open its model"),
    "a short one": (lambda name: bytes(16), "is 16 bytes, not 32"),
    "text": (lambda name: "a" * 32, "is str, not 32"),
    "nothing": (lambda name: None, "is NoneType"),
}


@pytest.mark.parametrize(("key", "match"), WRONG.values(), ids=WRONG)
def test_a_wrong_key_is_told(key: Any, match: str, tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl")
    for way_in in (edgedl.open, lambda p, key: open_bundle(p, key=key).payload_bytes(
        open_bundle(p).payloads[0]
    )):  # fmt: skip
        with pytest.raises(BadKey, match=match) as caught:
            way_in(path, key=key)
        assert caught.value.hint
        assert caught.value.where == str(path)


def test_a_key_service_that_fails_is_heard(tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl")

    def unreachable(name: str) -> bytes:
        raise ConnectionError("no route to the key service")

    with pytest.raises(BadKey, match="no route to the key service") as caught:
        edgedl.open(path, key=unreachable)
    assert caught.value.hint


def test_nonces_are_never_the_same(tmp_path: Path) -> None:
    nonces = set()
    for i in range(20):
        found = open_bundle(encrypted_bundle(tmp_path / f"{i}.edl"))
        assert found.payloads[0].sealed is not None
        nonces.add(found.payloads[0].sealed.nonce)
    assert len(nonces) == 20


REBOUND: dict[str, Callable[[dict[str, Any]], object]] = {
    "another name of the part": lambda m: (
        m["payloads"][0].update(part="models/b.onnx"),
        next(p for p in m["parts"] if p["name"] == "models/a.onnx").update(name="models/b.onnx"),
    ),
    "another key's name": lambda m: m["payloads"][0]["sealed"].update(key="other"),
    "another nonce": lambda m: m["payloads"][0]["sealed"].update(nonce="00" * 12),
    "a digest of something else": lambda m: m["payloads"][0]["inflated"].update(sha256="00" * 32),
}


@pytest.mark.parametrize("change", REBOUND.values(), ids=REBOUND)
def test_the_tag_binds_what_the_manifest_says(change: Any, tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl", MODEL, deflated=True)
    manifest, body = manifest_and_body(path)
    change(manifest)
    rewritten(path, manifest, body)
    data = bytearray(path.read_bytes())
    data[8] = SEALING
    path.write_bytes(data)
    found = open_bundle(path, key=ours)
    with pytest.raises(BadKey, match="does not open its model"):
        found.payload_bytes(found.payloads[0])


DAMAGED: dict[str, tuple[Any, str]] = {
    "no words of it": (None, "its header was altered"),
    "another cipher": ({"cipher": "rot13"}, "only aes-256-gcm is"),
    "a short nonce": ({"nonce": "00" * 11}, "a nonce of 96 bits"),
    "a nonce that is a number": ({"nonce": 7}, "a nonce of 96 bits"),
    "a key with a new line": ({"key": "a\nb"}, "a sound name of a key"),
    "an endless key": ({"key": "a" * 200}, "a sound name of a key"),
}


@pytest.mark.parametrize(("change", "match"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_words_of_it_are_refused(change: Any, match: str, tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl", MODEL)
    manifest, body = manifest_and_body(path)
    if change is None:
        del manifest["payloads"][0]["sealed"]
    else:
        manifest["payloads"][0]["sealed"].update(change)
    rewritten(path, manifest, body)
    data = bytearray(path.read_bytes())
    data[8] = SEALING
    path.write_bytes(data)
    with pytest.raises(BadBundle, match=match):
        open_bundle(path)


def test_it_is_encrypted_and_then_signed(tmp_path: Path) -> None:
    key, _ = pair(tmp_path)
    plain = small_bundle(tmp_path / "plain.edl")
    signed(plain, key)
    before = plain.read_bytes()
    done = encrypt(plain, SECRET, tmp_path / "net.edl")
    assert done.unsigned
    assert plain.read_bytes() == before
    signed(done.path, key)
    assert HEADER.unpack_from(done.path.read_bytes())[1] == SIGNED
    found = open_bundle(done.path, trust=edgedl.trust(tmp_path, clock=clock), key=ours)
    assert found.payload_bytes(found.payloads[0]) == b"model"


def test_parts_that_are_not_known_stay(tmp_path: Path) -> None:
    """What a later edgedl put beside the models is carried along, and so are its keys."""
    path = small_bundle(tmp_path / "net.edl")
    manifest, body = manifest_and_body(path)
    manifest["later"] = {"a": 1}
    rewritten(path, manifest, body)
    encrypt(path, SECRET, tmp_path / "sealed.edl")
    after, _ = manifest_and_body(tmp_path / "sealed.edl")
    assert after["later"] == {"a": 1}
    assert [part["name"] for part in after["parts"]] == [p["name"] for p in manifest["parts"]]
    same = json.loads(json.dumps(manifest))
    same["payloads"][0] |= {"sealed": after["payloads"][0]["sealed"]}
    assert {**after, "parts": 0} == {**same, "parts": 0}


def test_what_cannot_be_encrypted_is_told(tmp_path: Path) -> None:
    path, out = small_bundle(tmp_path / "net.edl"), tmp_path / "out.edl"
    with pytest.raises(BadBundle, match="encrypted already"):
        encrypt(encrypted_bundle(tmp_path / "sealed.edl"), SECRET, out)
    with pytest.raises(BadOption, match="a key of 16 bytes"):
        encrypt(path, bytes(16), out)
    with pytest.raises(BadOption, match="cannot name a key"):
        encrypt(path, SECRET, out, key_id="a key")
    with pytest.raises(BadKey, match="no such key"):
        encrypt(path, tmp_path / "none.aes", out)
    assert not out.exists()


def test_nothing_decrypted_is_written_to_disk(tmp_path: Path) -> None:
    path = encrypted_bundle(tmp_path / "net.edl")
    with pytest.raises(BadKey, match="never written to disk"):
        load_model(path)

"""Trust: a signed bundle opens for those who know its signer, and any change of it is refused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import edgedl
from edgedl.core.errors import BadBundle, BadKey, BadOption, Untrusted
from edgedl.runtime import any_engine, layout
from edgedl.runtime.artifact import find_artifact
from edgedl.runtime.bundle import open_bundle
from edgedl.runtime.check import check
from edgedl.runtime.layout import HEADER, SIGNED
from edgedl.runtime.sign import trust
from edgedl.runtime.sign.admit import (
    MAGIC,
    MOST_SIGNATURES,
    TRAILER,
    VARIABLE,
    TrustSource,
    admitted,
    divided,
)
from edgedl.runtime.sign.envelope import moment
from edgedl.runtime.sign.trust import MOST_CLOCK_SKEW_S
from edgedl.runtime.sign.verify import NO_RAW, NOBODYS_RAW
from edgedl.runtime.sign.verify import verify as verify_bundle
from edgedl.runtime.window import window_of
from tests.bundles import NOW, clock, pair, signed, small_bundle
from tests.runtime.test_bundle import written

OPENSSL = shutil.which("openssl")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return small_bundle(tmp_path / "net.edl")


@pytest.fixture
def alice(tmp_path: Path) -> Path:
    """A private key; the public one lies beside it."""
    return pair(tmp_path, "alice")[0]


def public(key: Path) -> Path:
    return key.with_suffix(".pub")


def test_a_signed_bundle_opens_for_those_who_trust(bundle: Path, alice: Path) -> None:
    before = open_bundle(bundle)
    done = signed(bundle, alice, name="net", release=3, expires=NOW + 60)
    plain = open_bundle(bundle)
    assert plain.proofs == ()
    trusted = edgedl.trust(public(alice), clock=clock)
    found = open_bundle(bundle, trust=trusted)
    (proof,) = found.proofs
    assert proof.statement == done.statement
    assert proof.key == done.key
    assert (proof.statement.name, proof.statement.release) == ("net", 3)
    assert found.size_bytes == bundle.stat().st_size
    for one in (plain, found):
        assert one.parts == {
            name: replace(part, offset=one.parts[name].offset)
            for name, part in before.parts.items()
        }
        assert one.payload_bytes(one.payloads[0]) == b"model"
        assert one.history() == before.history()


def test_an_engine_runs_it(tmp_path: Path, alice: Path) -> None:
    path = written(tmp_path / "conv.edl")
    signed(path, alice)
    with edgedl.open(path, trust=public(alice)) as session:
        assert session.signature.inputs[0].name == "x"
    assert check(path, trust=[public(alice)]).ok
    assert check(path, trust=tmp_path).proofs[0].statement.signer == "alice"
    artifact = find_artifact(path, any_engine().name, trust=public(alice))
    assert artifact.bytes == path.stat().st_size


def refused(path: Path, keys: TrustSource, kind: type[Exception], match: str) -> None:
    """Every way in refuses it, and says what to do."""
    ways_in = (open_bundle, edgedl.open, check, find_artifact, verify_bundle)
    for way_in in ways_in:
        with pytest.raises(kind, match=match) as caught:
            way_in(path, trust=keys)
        assert caught.value.hint


def test_unsigned_and_untrusted_bundles_are_refused(
    bundle: Path, alice: Path, tmp_path: Path
) -> None:
    refused(bundle, public(alice), Untrusted, "not signed")
    signed(bundle, alice)
    (tmp_path / "other").mkdir()
    bob = pair(tmp_path / "other", "bob")[0]
    refused(bundle, public(bob), Untrusted, "nobody who is trusted here, but by `alice`")
    refused(bundle, tmp_path / "other", Untrusted, "nobody who is trusted")
    refused(bundle, tmp_path / "none.pub", BadKey, "no such key")
    refused(bundle, alice, BadKey, "private key")
    assert open_bundle(bundle, trust=[public(bob), public(alice)]).proofs


def test_a_model_that_is_no_bundle_is_refused_where_trust_is_asked_for(
    alice: Path, tmp_path: Path
) -> None:
    other = tmp_path / "net.onnx"
    other.write_bytes(b"\x08\x08" * 100)
    with pytest.raises(BadBundle, match="not an edgedl bundle"):
        find_artifact(other, trust=public(alice))


def test_the_engine_and_the_parser_see_nothing_that_was_not_signed(
    bundle: Path, alice: Path
) -> None:
    """A manifest that would be refused by its parser is refused before, as not signed."""
    signed(bundle, alice)
    data = bytearray(bundle.read_bytes())
    length = HEADER.unpack_from(data)[4]
    data[HEADER.size : HEADER.size + length] = b"[" * length
    text = bytes(data[HEADER.size : HEADER.size + length])
    data[HEADER.size - 32 : HEADER.size] = hashlib.sha256(text).digest()
    bundle.write_bytes(data)
    refused(bundle, public(alice), Untrusted, "is not what `alice`")
    with pytest.raises(BadBundle, match="manifest cannot be read"):
        open_bundle(bundle)


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, trust.Trust]:
    """A signed bundle's bytes, and whom to trust."""
    folder = tmp_path_factory.mktemp("smallest")
    path, (key, _) = small_bundle(folder / "net.edl"), pair(folder)
    signed(path, key, expires=NOW + 60, name="net", release=1)
    return path.read_bytes(), edgedl.trust(key.with_suffix(".pub"), clock=clock)


def admit(data: bytes, trusted: trust.Trust | None) -> None:
    """What `open_bundle` does before it makes anything of a file."""
    region, head, proofs = admitted(window_of(data, "net.edl"), trusted)
    assert trusted is None or proofs
    layout.checked(region, head)


def with_right_digest(data: bytes) -> bytes:
    """The bundle, whose envelopes have the digest that stands before them."""
    made, start = bytearray(data), HEADER.unpack_from(data)[3]
    envelopes = made[start + TRAILER.size :]
    made[start + TRAILER.size - 32 : start + TRAILER.size] = hashlib.sha256(envelopes).digest()
    return bytes(made)


WAYS = 3


def flips(data: bytes, start: int = 0) -> Iterator[bytes]:
    """Each byte changed in three ways."""
    for position in range(start, len(data)):
        for mask in (1 << position % 8, 0xFF, data[position] or 0x20):
            changed = bytearray(data)
            changed[position] ^= mask
            yield bytes(changed)


def test_every_changed_byte_is_refused(smallest: tuple[bytes, trust.Trust]) -> None:
    """Also where nobody is asked for: the digest before the signatures finds accidents in them."""
    data, trusted = smallest
    admit(data, trusted)
    admit(data, None)
    for i, changed in enumerate(flips(data)):
        with pytest.raises(BadBundle):
            admit(changed, None)
        # A signature takes milliseconds to find right, which it is where a part alone was changed.
        if i % WAYS == 0:
            with pytest.raises((BadBundle, Untrusted)):
                admit(changed, trusted)


def test_every_changed_byte_of_a_signature_is_refused_under_a_right_digest(
    smallest: tuple[bytes, trust.Trust],
) -> None:
    data, trusted = smallest
    start = HEADER.unpack_from(data)[3] + TRAILER.size
    admit(with_right_digest(data), trusted)
    for changed in flips(data, start):
        with pytest.raises((BadBundle, Untrusted)):
            admit(with_right_digest(changed), trusted)


def test_every_truncation_and_extension_is_refused(smallest: tuple[bytes, trust.Trust]) -> None:
    data, trusted = smallest
    for length in range(len(data)):
        for asked in (trusted, None):
            with pytest.raises((BadBundle, Untrusted)):
                admit(data[:length], asked)
    for more in (b"\0", b"\n", bytes(64), data[-100:]):
        with pytest.raises(BadBundle):
            admit(data + more, trusted)
        with pytest.raises(BadBundle):
            admit(with_right_digest(data + more), trusted)


def test_without_its_signatures_it_is_unsigned(smallest: tuple[bytes, trust.Trust]) -> None:
    """Whoever takes them off makes an unsigned bundle: it opens only where nobody is asked for."""
    data, trusted = smallest
    bare = bytearray(data[: HEADER.unpack_from(data)[3]])
    with pytest.raises(BadBundle, match="signatures are missing"):
        admit(bytes(bare), None)
    bare[8] = 1
    admit(bytes(bare), None)
    with pytest.raises(Untrusted, match="not signed"):
        admit(bytes(bare), trusted)


def test_a_signature_fits_one_bundle(bundle: Path, alice: Path, tmp_path: Path) -> None:
    signed(bundle, alice)
    other = small_bundle(tmp_path / "other.edl", b"other")
    signed(other, alice)
    mine, theirs = bundle.read_bytes(), other.read_bytes()
    moved = mine[: HEADER.unpack_from(mine)[3]] + theirs[HEADER.unpack_from(theirs)[3] :]
    bundle.write_bytes(moved)
    refused(bundle, public(alice), Untrusted, "altered since")


def test_expiry_is_held_against_the_clock_that_is_given(bundle: Path, alice: Path) -> None:
    signed(bundle, alice, expires=NOW + 60)

    def opened_at(seconds: float) -> None:
        open_bundle(bundle, trust=edgedl.trust(public(alice), clock=lambda: seconds))

    opened_at(NOW - MOST_CLOCK_SKEW_S)
    opened_at(NOW + 59.9)
    with pytest.raises(Untrusted, match=f"expired at {moment(NOW + 60)}") as caught:
        opened_at(NOW + 60)
    assert "clock" in str(caught.value.hint)
    with pytest.raises(Untrusted, match="still to come") as caught:
        opened_at(0)
    assert "clock" in str(caught.value.hint)
    signed(bundle, alice)
    for seconds in (0, NOW, 10.0**11):
        opened_at(seconds)


def test_a_name_and_a_release_can_be_asked_for(bundle: Path, alice: Path) -> None:
    signed(bundle, alice)
    asked = edgedl.trust(public(alice), name="door")
    refused(bundle, asked, Untrusted, "calls it nothing, `door`")
    refused(bundle, replace(asked, name=None, least_release=0), Untrusted, "as no release")
    signed(bundle, alice, name="door", release=7)
    for release in (None, 0, 7):
        assert open_bundle(bundle, trust=replace(asked, least_release=release)).proofs
    refused(bundle, replace(asked, least_release=8), Untrusted, "as release 7, 8 is the earliest")
    refused(bundle, replace(asked, name="window"), Untrusted, "calls it `door`, `window`")


def test_several_sign(bundle: Path, alice: Path, tmp_path: Path) -> None:
    bob, _ = pair(tmp_path, "bob")
    assert signed(bundle, alice).signatures == 1
    assert signed(bundle, bob, expires=NOW + 60).signatures == 2
    assert signed(bundle, alice, release=2).signatures == 2
    trusted = edgedl.trust([public(alice), public(bob)], clock=clock)
    assert {one.key.name for one in open_bundle(bundle, trust=trusted).proofs} == {"alice", "bob"}
    late = replace(trusted, clock=lambda: NOW + 61)
    assert [one.key.name for one in open_bundle(bundle, trust=late).proofs] == ["alice"]
    found = verify_bundle(bundle, late)
    assert [one.statement.signer for one in found.others] == ["bob"]
    assert signed(bundle, bob, alone=True).signatures == 1
    with pytest.raises(Untrusted):
        open_bundle(bundle, trust=public(alice))


def test_a_wrong_signature_in_a_trusted_keys_name_spoils_the_right_one(
    bundle: Path, alice: Path, tmp_path: Path
) -> None:
    bob, bobs = pair(tmp_path, "bob")
    signed(bundle, alice)
    signed(bundle, bob)
    data = bundle.read_bytes()
    held = window_of(data, "")
    _, envelopes = divided(held, layout.header(held))
    assert envelopes is not None
    first, second = trust.read(envelopes, "")
    assert second.key_id == bobs.id
    forged = replace(second, signature=first.signature)
    start = HEADER.unpack_from(data)[3]
    bundle.write_bytes(data[:start] + trust.trailer([first, forged]))
    assert open_bundle(bundle, trust=public(alice)).proofs
    with pytest.raises(Untrusted, match="not what `bob`"):
        open_bundle(bundle, trust=[public(alice), public(bob)])


def test_signatures_are_counted(bundle: Path, tmp_path: Path) -> None:
    keys = [pair(tmp_path, f"key{i}")[0] for i in range(MOST_SIGNATURES + 1)]
    for key in keys[:-1]:
        signed(bundle, key)
    before = bundle.read_bytes()
    with pytest.raises(BadBundle, match="8 signatures"):
        signed(bundle, keys[-1])
    assert bundle.read_bytes() == before
    assert signed(bundle, keys[0]).signatures == MOST_SIGNATURES


def test_what_cannot_be_signed_is_told(bundle: Path, alice: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    for more, match in (
        ({"expires": NOW}, "expired already"),
        ({"expires": 10**15}, "years 1970 and 9999"),
        ({"expires": NOW + 1.5}, "whole seconds"),
        ({"release": -1}, "whole number"),
        ({"name": ""}, "1 to 128"),
        ({"name": "a\nb"}, "printed"),
        ({"signer": "a" * 129}, "1 to 128"),
    ):
        with pytest.raises(BadOption, match=match):
            signed(bundle, alice, **more)
    for key in (public(alice), tmp_path / "none.key"):
        with pytest.raises(BadKey):
            signed(bundle, key)
    assert bundle.read_bytes() == before
    assert not bundle.with_name("net.edl.sig").exists()
    damaged = bytearray(before)
    damaged[-1] ^= 1
    bundle.write_bytes(damaged)
    with pytest.raises(BadBundle):
        signed(bundle, alice)


def test_a_raw_signature_lies_beside_it(bundle: Path, alice: Path, tmp_path: Path) -> None:
    done = signed(bundle, alice)
    assert done.raw.name == "net.edl.sig"
    assert len(done.raw.read_bytes()) == 64
    assert verify_bundle(bundle, public(alice)).raw == "alice"
    signed(bundle, pair(tmp_path, "bob")[0])
    assert verify_bundle(bundle, public(alice)).raw == NOBODYS_RAW
    done.raw.unlink()
    assert verify_bundle(bundle, public(alice)).raw == NO_RAW


@pytest.mark.skipif(OPENSSL is None, reason="no openssl here")
def test_openssl_verifies_the_raw_signature(bundle: Path, alice: Path) -> None:
    done = signed(bundle, alice)
    words = f"pkeyutl -verify -pubin -inkey {public(alice)} -rawin -in {bundle} -sigfile {done.raw}"
    ran = subprocess.run([str(OPENSSL), *words.split()], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    bundle.write_bytes(bundle.read_bytes() + b"\0")
    assert subprocess.run([str(OPENSSL), *words.split()], capture_output=True).returncode != 0


def test_the_environment_can_ask_for_more(
    bundle: Path, alice: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(public(alice)))
    with pytest.raises(Untrusted, match="not signed"):
        open_bundle(bundle)
    signed(bundle, alice)
    assert open_bundle(bundle).proofs[0].key.name == "alice"
    assert verify_bundle(bundle).proofs
    (tmp_path / "other").mkdir()
    bob, _ = pair(tmp_path / "other", "bob")
    with pytest.raises(Untrusted, match="nobody"):
        open_bundle(bundle, trust=public(bob))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other"))
    with pytest.raises(Untrusted, match="nobody"):
        open_bundle(bundle)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(BadOption, match="is empty"):
        open_bundle(bundle)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(BadOption, match="nobody is trusted"):
        verify_bundle(bundle)
    with pytest.raises(BadKey, match="no trusted keys"):
        open_bundle(bundle, trust=[])


def test_a_file_altered_after_it_was_opened_is_noticed(bundle: Path, alice: Path) -> None:
    signed(bundle, alice)
    found = open_bundle(bundle, trust=public(alice))
    place = found.parts["models/a.onnx"].offset
    with bundle.open("r+b") as file:
        file.seek(place)
        file.write(b"worse")
    with pytest.raises(BadBundle, match="was altered"):
        found.payload_bytes(found.payloads[0])


def test_claims_of_many_bytes_of_signatures_are_refused(
    smallest: tuple[bytes, trust.Trust],
) -> None:
    data, trusted = smallest
    start = HEADER.unpack_from(data)[3]
    for size in (0, 2**40, 2**64 - 1):
        made = data[:start] + TRAILER.pack(MAGIC, size, bytes(32))
        with pytest.raises(BadBundle):
            admit(made + data[start + TRAILER.size :], trusted)
    many = b"\n" * 10**6
    with pytest.raises(BadBundle, match="claims 1000000 bytes"):
        admit(data[:start] + TRAILER.pack(MAGIC, len(many), bytes(32)) + many, trusted)
    assert HEADER.unpack_from(data)[1] == SIGNED

"""Envelopes: others read them, they are written in one way, and whatever else is refused."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as TheirEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from edgedl.runtime.limits import canonical
from edgedl.runtime.sign.admit import MOST_SIGNATURES
from edgedl.runtime.sign.envelope import (
    TYPE,
    Envelope,
    Statement,
    lines,
    moment,
    of_lines,
    of_moment,
    signed_message,
)
from edgedl.runtime.sign.keys import PublicKey

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(32))
KEY = PublicKey(PRIVATE.public_key().public_bytes_raw(), "alice")
STATEMENT = Statement("ab" * 32, "alice", 1_800_000_000, 1_900_000_000, "door", 7)
PRINTED = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=16)
TIMES = st.integers(0, 250_000_000_000)
STATEMENTS = st.builds(
    Statement,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    PRINTED,
    TIMES,
    st.none() | TIMES,
    st.none() | PRINTED,
    st.none() | st.integers(0, 2**53 - 1),
)


def envelope(statement: Statement = STATEMENT, key_id: str = KEY.id) -> Envelope:
    return Envelope(statement, key_id, PRIVATE.sign(signed_message(statement)))


@given(st.lists(STATEMENTS, min_size=1, max_size=MOST_SIGNATURES))
def test_what_is_written_is_read(statements: list[Statement]) -> None:
    made = tuple(Envelope(one, f"{i:064x}", bytes(64)) for i, one in enumerate(statements))
    assert of_lines(lines(made)) == made


def test_the_longest_names_fit() -> None:
    long = "\N{GRINNING FACE}" * 128
    made = (envelope(replace(STATEMENT, signer=long, name=long)),)
    assert of_lines(lines(made)) == made


def test_another_library_verifies_it() -> None:
    """securesystemslib reads DSSE's envelopes, which TUF and in-toto sign."""
    theirs = TheirEnvelope.from_dict(json.loads(envelope().line()))
    key = SSlibKey("k", "ed25519", "ed25519", {"public": KEY.raw.hex()})
    assert theirs.pae() == envelope().message
    theirs.signatures = {"k": next(iter(theirs.signatures.values()))}
    theirs.signatures["k"].keyid = "k"
    assert theirs.verify([key], 1) == {"k": key}
    theirs.payload += b" "
    with pytest.raises(VerificationError):
        theirs.verify([key], 1)


def altered(**more: Any) -> bytes:
    """An envelope's line with some of its values replaced, or taken out where they are None."""
    document = json.loads(envelope().line())
    for key, value in more.items():
        document[key] = value
    return canonical({key: value for key, value in document.items() if value is not None})


def stating(**more: Any) -> bytes:
    """An envelope of a statement with values replaced."""
    statement = canonical({**STATEMENT.to_json(), **more})
    return altered(payload=base64.b64encode(statement).decode())


LINE = envelope().line()
PAYLOAD = json.loads(LINE)["payload"]
SIG = json.loads(LINE)["signatures"][0]["sig"]
ONE = {"keyid": KEY.id, "sig": SIG}
REFUSED = {
    "nothing": b"",
    "no JSON": b"x",
    "a list": b"[]",
    "a space": LINE.replace(b":", b": ", 1),
    "a space before": b" " + LINE,
    "another order": json.dumps(dict(reversed(json.loads(LINE).items()))).encode(),
    "an unknown key": altered(more=1),
    "no payload": altered(payload=None),
    "no type": altered(payloadType=None),
    "another type": altered(payloadType="application/vnd.in-toto+json"),
    "no signatures": altered(signatures=[]),
    "two signatures": altered(signatures=[ONE, ONE]),
    "signatures by name": altered(signatures={"a": ONE}),
    "a signature more": altered(signatures=[{**ONE, "cert": "x"}]),
    "no key": altered(signatures=[{"sig": SIG}]),
    "another key's name": altered(signatures=[{**ONE, "keyid": "alice"}]),
    "a key's name in capitals": altered(signatures=[{**ONE, "keyid": KEY.id.upper()}]),
    "a short signature": altered(signatures=[{**ONE, "sig": SIG[:-4]}]),
    "base64 for addresses": altered(payload=PAYLOAD.replace("9", "-")),
    "base64 without padding": altered(signatures=[{**ONE, "sig": SIG.rstrip("=")}]),
    "base64 with other last bits": altered(signatures=[{**ONE, "sig": SIG[:-3] + "B=="}]),
    "base64 with a new line": altered(payload=PAYLOAD[:8] + "\n" + PAYLOAD[8:]),
    "a payload that is no text": altered(payload=7),
    "an escaped letter": LINE.replace(b"payloadType", b"\\u0070ayloadType"),
    "an unknown word": stating(more=1),
    "a digest in capitals": stating(sha256="AB" * 32),
    "a short digest": stating(sha256="ab" * 31),
    "no signer": stating(signer=None),
    "an empty signer": stating(signer=""),
    "a long signer": stating(signer="a" * 129),
    "a signer that moves the cursor": stating(signer="\x1b[2J"),
    "a name that is a list": stating(name=["door"]),
    "a release that is true": stating(release=True),
    "a release below zero": stating(release=-1),
    "a release too large": stating(release=2**53),
    "a release with a fraction": stating(release=1.5),
    "no time": stating(signed=None),
    "a time with a fraction": stating(signed="2027-01-15T08:00:00.5Z"),
    "a time elsewhere": stating(signed="2027-01-15T08:00:00+01:00"),
    "a time that never was": stating(expires="2027-02-30T08:00:00Z"),
    "a time before 1970": stating(expires="1969-12-31T23:59:59Z"),
    "a time that is a number": stating(signed=1_800_000_000),
    "depth": altered(payload=base64.b64encode(b"[" * 3000).decode()),
    "size": stating(signer="a" * 16000),
}


@pytest.mark.parametrize("line", REFUSED.values(), ids=REFUSED)
def test_what_is_written_otherwise_is_refused(line: bytes) -> None:
    assert of_lines(LINE + b"\n") == (envelope(),)
    with pytest.raises(ValueError):
        of_lines(line + b"\n")


def test_lines_are_counted_and_end() -> None:
    many = [envelope(key_id=f"{i:064x}") for i in range(MOST_SIGNATURES + 1)]
    assert len(of_lines(lines(many[1:]))) == MOST_SIGNATURES
    for bad in (
        b"",
        LINE,
        LINE + b"\n\n",
        LINE + b"\r\n",
        lines(many),
        lines([envelope(), envelope()]),
        lines([envelope(), envelope(replace(STATEMENT, release=8))]),
        b"\n" * 100_000,
    ):
        with pytest.raises(ValueError):
            of_lines(bad)


@given(st.integers(0, 253_370_764_800))
def test_times_are_written_and_read(seconds: int) -> None:
    assert of_moment(moment(seconds)) == seconds


@given(st.integers(0, len(LINE) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_signed_by_nobody(position: int, mask: int) -> None:
    changed = bytearray(LINE)
    changed[position] ^= mask
    try:
        (found,) = of_lines(bytes(changed) + b"\n")
    except ValueError:
        return
    assert found != envelope()
    assert found.line() == bytes(changed)


def test_the_type_is_part_of_what_is_signed() -> None:
    payload = canonical(STATEMENT.to_json())
    assert signed_message(STATEMENT) == (
        f"DSSEv1 {len(TYPE)} {TYPE} {len(payload)} ".encode() + payload
    )

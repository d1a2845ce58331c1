"""Ed25519: the RFC's own vectors, an independent library's verdicts, and the cases that lax
verifiers take."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgedl.runtime.sign.ed25519 import ORDER, P, is_sound, verified

# RFC 8032, 7.1: public key, message, signature.
VECTORS = {
    "1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701"
        "cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d"
        "0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f7609"
        "84dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
}
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = PRIVATE.public_key().public_bytes_raw()
MESSAGE = b"what is signed"
SIGNATURE = PRIVATE.sign(MESSAGE)


def as_bytes(number: int) -> bytes:
    return number.to_bytes(32, "little")


@pytest.mark.parametrize(("public", "message", "signature"), VECTORS.values(), ids=VECTORS)
def test_the_vectors_of_the_rfc(public: str, message: str, signature: str) -> None:
    key, text, right = map(bytes.fromhex, (public, message, signature))
    assert verified(key, right, text)
    assert not verified(key, right, text + b"\0")


@pytest.mark.parametrize("length", [0, 31, 32, 63, 65, 128])
def test_other_lengths_are_refused(length: int) -> None:
    assert not verified(PUBLIC, (SIGNATURE * 2)[:length], MESSAGE)
    assert not verified((PUBLIC * 5)[:length] if length != 32 else b"", SIGNATURE, MESSAGE)


def test_every_changed_byte_is_noticed() -> None:
    for i in range(64):
        changed = bytearray(SIGNATURE)
        changed[i] ^= 1 << i % 8
        assert not verified(PUBLIC, bytes(changed), MESSAGE)
    for i in range(32):
        changed = bytearray(PUBLIC)
        changed[i] ^= 1 << i % 8
        assert not verified(bytes(changed), SIGNATURE, MESSAGE)


def test_s_is_below_the_order() -> None:
    """Without this, whoever sees one signature can make another of the same message."""
    s = int.from_bytes(SIGNATURE[32:], "little")
    for more in range(1, 16):
        if s + more * ORDER < 2**256:
            assert not verified(PUBLIC, SIGNATURE[:32] + as_bytes(s + more * ORDER), MESSAGE)
    assert verified(PUBLIC, SIGNATURE[:32] + as_bytes(s), MESSAGE)


# The y coordinates of the eight points whose order divides 8, and the ways to write them that are
# not canonical: y + p, and a sign where x is 0.
OF_ORDER_8 = int("7a03ac9277fdc74ec6cc392cfa53202a0f67100d760b3cba4fd84d3d706a17c7", 16)
SIGN = 1 << 255
SMALL = [y | sign for y in (0, 1, P - 1, OF_ORDER_8, P - OF_ORDER_8) for sign in (0, SIGN)]
SMALL += [P | SIGN, P, P + 1, (P + 1) | SIGN]


@pytest.mark.parametrize("encoded", SMALL, ids=hex)
def test_keys_of_small_order_are_none(encoded: int) -> None:
    """Under such a key one signature fits every message, or every eighth."""
    public = as_bytes(encoded)
    assert not is_sound(public)
    identity = as_bytes(1)
    for message in range(16):
        assert not verified(public, identity + as_bytes(0), bytes([message]))


def test_keys_are_points_written_canonically() -> None:
    assert is_sound(PUBLIC)
    taken = [y for y in range(2, 19) if is_sound(as_bytes(y))]
    assert taken
    assert len(taken) < 17
    d = -121665 * pow(121666, -1, P)
    for y in range(2, 19):
        ratio = (y * y - 1) * pow(d * y * y + 1, -1, P) % P
        assert is_sound(as_bytes(y)) == (pow(ratio, (P - 1) // 2, P) == 1)
        assert not is_sound(as_bytes(y + P))
        assert not is_sound(as_bytes(y + P | SIGN))


def test_r_is_compared_as_it_is_written() -> None:
    """R = identity, whose y is 1 or, not canonically, p + 1: the rest of each is right."""
    digest = bytearray(hashlib.sha512(bytes(range(32))).digest()[:32])
    digest[0] &= 248
    digest[31] = digest[31] & 63 | 64
    secret = int.from_bytes(digest, "little")
    for r, right in ((1, True), (P + 1, False), (1 | SIGN, False)):
        hashed = hashlib.sha512(as_bytes(r) + PUBLIC + MESSAGE).digest()
        s = int.from_bytes(hashed, "little") * secret % ORDER
        assert verified(PUBLIC, as_bytes(r) + as_bytes(s), MESSAGE) == right


@settings(max_examples=40)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(0, 511))
@example(bytes(32), b"", 0)
def test_another_library_says_the_same(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert verified(public, signature, message)
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(bytes(changed), message)
        theirs = True
    except InvalidSignature:
        theirs = False
    assert verified(public, bytes(changed), message) == theirs

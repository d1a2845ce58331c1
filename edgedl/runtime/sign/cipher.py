"""AES-256-GCM (NIST SP 800-38D), by `cryptography`, which owns every secret here."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def encrypted(key: bytes, nonce: bytes, data: bytes, associated: bytes) -> bytes:
    """What is given, encrypted, with a tag of 16 bytes behind it."""
    return AESGCM(key).encrypt(nonce, data, associated)


def decrypted(key: bytes, nonce: bytes, data: memoryview, associated: bytes) -> bytes:
    """What was encrypted by the same key and nonce with the same associated data.

    Raises:
        ValueError: key, nonce, data or associated data are not those.
    """
    try:
        return AESGCM(key).decrypt(nonce, data, associated)
    except InvalidTag as error:
        raise ValueError("the tag does not fit") from error

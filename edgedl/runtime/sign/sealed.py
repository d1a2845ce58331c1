"""Payloads that lie encrypted: what the manifest says of them, and how they are opened, in memory.

A payload that has `sealed` lies in its part as AES-256-GCM made it of what would lie there
otherwise, tag behind it. `sealed` says `cipher`, `key`, the name of the key, and `nonce`, 96 random
bits. The tag binds the part's name, size and digest of what it inflates to, and the key's name. It
does not bind the format: payloads of several formats may name one part; a signature binds those.
Engine, precision and settings, golden samples, names and history are not hidden.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgedl.core.errors import BadKey, EdgeError
from edgedl.core.registry import load
from edgedl.runtime.limits import canonical

CIPHER: Final = "aes-256-gcm"
KEY_BYTES, NONCE_BYTES = 32, 12
NONCE = re.compile(r"[0-9a-f]{24}")
KEY_NAME = re.compile(r"[A-Za-z0-9_.:/@+=\-]{1,128}")
KeySource = Callable[[str], bytes]
WAY_OUT = (
    "give `key=`, a function that takes the key's name and returns its 32 bytes, or `--key-file`"
)


@dataclass(frozen=True)
class Sealed:
    """How a payload is encrypted: by which key, and with which nonce, in hex."""

    key: str
    nonce: str

    def to_json(self) -> dict[str, Any]:
        return {"cipher": CIPHER, "key": self.key, "nonce": self.nonce}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Sealed:
        """As the manifest states it.

        Raises:
            KeyError, TypeError, ValueError: it states none, or a cipher that is not known here.
        """
        cipher, key, nonce = document["cipher"], document["key"], document["nonce"]
        if cipher != CIPHER:
            raise ValueError(f"a cipher that is known here: only {CIPHER} is")
        if not isinstance(key, str) or not KEY_NAME.fullmatch(key):
            raise ValueError("a sound name of a key")
        if not isinstance(nonce, str) or not NONCE.fullmatch(nonce):
            raise ValueError("a nonce of 96 bits")
        return cls(key, nonce)


def associated(part: str, inflated: Mapping[str, Any] | None, key: str) -> bytes:
    """What a payload's tag binds beside its bytes."""
    return canonical({"cipher": CIPHER, "inflated": inflated, "key": key, "part": part})


def unseal(
    data: memoryview, sealed: Sealed, bound: bytes, source: KeySource | None, where: str
) -> bytes:
    """What was encrypted; in memory alone.

    Raises:
        BadKey: no key was given, it is none of 32 bytes, or it is the wrong one.
        Missing: `cryptography` is not installed.
    """
    if source is None:
        raise BadKey(
            f"its model is encrypted, by the key `{sealed.key}`", where=where, hint=WAY_OUT
        )
    try:
        key = source(sealed.key)
    except EdgeError:
        raise
    except Exception as error:
        raise BadKey(
            f"the key `{sealed.key}` could not be had ({type(error).__name__}: {error})",
            where=where,
            hint="see what `key=` was given: it takes the key's name and returns its 32 bytes",
        ) from error
    if not isinstance(key, (bytes, bytearray)) or len(key) != KEY_BYTES:
        found = f"{len(key)} bytes" if isinstance(key, (bytes, bytearray)) else type(key).__name__
        raise BadKey(
            f"what was given for the key `{sealed.key}` is {found}, not {KEY_BYTES} bytes",
            where=where,
            hint=WAY_OUT,
        )
    decrypt = load("edgedl.runtime.sign.cipher:decrypted", "an encrypted model")
    try:
        opened: bytes = decrypt(bytes(key), bytes.fromhex(sealed.nonce), data, bound)
    except ValueError as error:
        raise BadKey(
            f"the key that was given does not open its model: it is not the key `{sealed.key}`,"
            " or the bundle was altered",
            where=where,
            hint="give the key that it was encrypted by; `edgedl verify` tells who altered it",
        ) from error
    return opened


def key_name(key: bytes) -> str:
    """A name for a key that was given none: 64 bits of a digest, which tell nothing of a key that
    was drawn at random."""
    return hashlib.sha256(b"edgedl payload key\0" + key).hexdigest()[:16]

"""A bundle's payloads encrypted, where their key is: before it is signed, never after."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadBundle, BadOption
from edgedl.core.store import atomic_write
from edgedl.runtime.bundle import Bundle, read_bundle
from edgedl.runtime.layout import AGAIN, HEADER, SEALING, SIGNED, file_blocks, write_blocks
from edgedl.runtime.limits import manifest_of
from edgedl.runtime.payload import Payload
from edgedl.runtime.sign.cipher import encrypted
from edgedl.runtime.sign.keys import key_of_file
from edgedl.runtime.sign.sealed import KEY_BYTES, KEY_NAME, NONCE_BYTES, Sealed, key_name


@dataclass(frozen=True)
class Encrypted:
    """What encrypting wrote.

    Attributes:
        key: the name under which the key is asked for.
        payloads: how many models are encrypted.
        unsigned: whether the bundle was signed before, and what was written is not.
    """

    path: Path
    key: str
    payloads: int
    unsigned: bool


def encrypt(
    bundle: str | Path,
    key: bytes | str | Path,
    output: str | Path,
    *,
    key_id: str | None = None,
) -> Encrypted:
    """Write a bundle again, the models in it encrypted by AES-256-GCM, each by a nonce of its own.

    Args:
        bundle: the file; it stays as it is.
        key: 32 bytes, or the file that holds them, in hex or as they are.
        output: the new file. Its signatures, if the bundle had any, are gone: sign it.
        key_id: the name by which a device asks for the key; made of its digest where None.

    Raises:
        BadBundle: the bundle is damaged, or encrypted already. BadKey: the key has not 32 bytes.
        BadOption: the name cannot stand in a bundle.
    """
    secret = key if isinstance(key, bytes) else key_of_file(key)("")
    if len(secret) != KEY_BYTES:
        raise BadOption(f"a key of {len(secret)} bytes", hint=f"give {KEY_BYTES} random bytes")
    name = key_name(secret) if key_id is None else key_id
    if not KEY_NAME.fullmatch(name):
        raise BadOption(
            f"`{name}` cannot name a key", hint="letters, digits and `_.:/@+=-`, 128 at most"
        )
    found = read_bundle(bundle)
    if Path(output).exists() and Path(output).samefile(found.path):
        raise BadOption(
            f"`{output}` is the bundle itself, which would be lost", hint="write to another file"
        )
    if any(payload.sealed for payload in found.payloads):
        raise BadBundle(
            "it is encrypted already", where=str(found.path), hint="encrypt what it was made of"
        )
    contents, payloads = _sealed(found, secret, name)
    manifest = {**_manifest(found), "payloads": [one.to_json() for one in payloads]}
    with atomic_write(Path(output)) as work, work.open("wb") as file:
        write_blocks(file, file_blocks(manifest, contents, SEALING))
    return Encrypted(Path(output), name, len(payloads), HEADER.unpack_from(found.head)[1] == SIGNED)


def _sealed(bundle: Bundle, key: bytes, name: str) -> tuple[dict[str, bytes], list[Payload]]:
    """Every part, those of payloads encrypted, and the payloads that say so.

    Raises:
        BadBundle: two payloads understand one part in two ways.
    """
    contents = {part: bundle.read(part) for part in bundle.parts}
    done: dict[str, Payload] = {}
    payloads = []
    for payload in bundle.payloads:
        before = done.get(payload.part)
        sealed = Sealed(name, secrets.token_hex(NONCE_BYTES))
        if before is not None and before.sealed is not None:
            sealed = before.sealed
        made = replace(payload, sealed=sealed)
        if before is None:
            nonce = bytes.fromhex(sealed.nonce)
            contents[payload.part] = encrypted(key, nonce, contents[payload.part], made.binds)
            done[payload.part] = made
        elif before.binds != made.binds:
            raise BadBundle(
                f"part `{payload.part}` is two models at once", where=str(bundle.path), hint=AGAIN
            )
        payloads.append(made)
    return contents, payloads


def _manifest(bundle: Bundle) -> dict[str, Any]:
    """A bundle's manifest as it stands, without its parts."""
    found: Mapping[str, Any] = manifest_of(bundle.head[HEADER.size :])
    return {key: value for key, value in found.items() if key != "parts"}

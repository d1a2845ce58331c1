"""What of a bundle may be parsed, found out before anything in it is.

The signatures of a bundle of format version 5 lie behind its parts, little-endian:

    0    8   magic, 89 45 44 53 0D 0A 1A 0A
    8    8   length of the envelopes
    16  32   SHA-256 of the envelopes
    48   n   envelopes, one a line (`edgedl.runtime.sign.envelope`), to the end of the file

The header's `length` is where they begin. A statement holds the SHA-256 of header and manifest:
the header holds the manifest's digest, the manifest those of the parts, and what lies between is
zero. The digest here says nothing of who made it; it finds accidents where no signer is asked for.
What signatures are worth, `edgedl.runtime.sign.trust` says, which is imported where one is asked
for.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from edgedl.core.errors import BadBundle, BadKey, BadOption, Untrusted
from edgedl.runtime.layout import AGAIN, HEADER, SIGNED, Header, head_of, header
from edgedl.runtime.window import Window

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgedl.runtime.sign.keys import PublicKey
    from edgedl.runtime.sign.trust import Proof, Trust

MAGIC = b"\x89EDS\r\n\x1a\n"
TRAILER = struct.Struct("<8sQ32s")
MOST_SIGNATURES = 8
MOST_ENVELOPE_BYTES = 8192
VARIABLE = "EDGEDL_TRUST"


class Anybody:
    """Where it is given as `trust`, nobody is asked for, whatever `EDGEDL_TRUST` says: for what a
    program made itself, a moment ago."""


ANYBODY = Anybody()
TrustSource: TypeAlias = (
    "Trust | Anybody | PublicKey | str | Path | Sequence[PublicKey | str | Path]"
)


def trust_of(source: TrustSource | None) -> Trust | None:
    """What a caller trusts; where None is given, what the environment variable `EDGEDL_TRUST`
    names, a public key's file or a folder of them; None where that is not set.

    The variable can only ask for more: where a caller names keys, it is not looked at.

    Raises:
        BadKey: a file is missing or holds no public key. BadOption: the variable is empty.
    """
    if isinstance(source, Anybody) or (source is None and VARIABLE not in os.environ):
        return None
    from edgedl.runtime.sign.trust import Trust, trust

    if source is None:
        source = os.environ[VARIABLE]
        if not source:
            raise BadOption(
                f"the environment variable {VARIABLE} is empty",
                hint="unset it, or let it name a public key or a folder of them",
            )
        try:
            return trust(source)
        except BadKey as error:
            raise BadKey(
                f"{error.message} (which {VARIABLE} names)", where=error.where, hint=error.hint
            ) from error
    return source if isinstance(source, Trust) else trust(source)


class Admitted(NamedTuple):
    """A file's region that its header speaks of, its header and manifest, and who signed them."""

    region: Window
    head: bytes
    proofs: tuple[Proof, ...]


def admitted(data: Window, trust: Trust | None) -> Admitted:
    """What of a file may be parsed: what somebody signed who is trusted.

    Nothing but the header and the signatures is parsed. Without trust nobody is asked for.

    Raises:
        BadBundle: it is no bundle, truncated, or its signatures are damaged.
        Untrusted: no trusted key signed the region.
    """
    said = header(data)
    region, envelopes = divided(data, said)
    head = head_of(region, said)
    if trust is None:
        return Admitted(region, head, ())
    if envelopes is None:
        raise Untrusted(
            "it is not signed, and only signed bundles are trusted here",
            where=data.where,
            hint="`edgedl sign` signs it, where the private key is",
        )
    from edgedl.runtime.sign.trust import proven, read

    signers = read(envelopes, data.where)
    return Admitted(region, head, proven(head_digest(head), signers, trust, data.where))


def divided(data: Window, said: Header) -> tuple[Window, bytes | None]:
    """A file's region and its envelopes, whose digest is right; None where it is unsigned.

    Raises:
        BadBundle: its signatures are missing, truncated, altered or too large.
    """
    where, length = data.where, said.length
    if said.version != SIGNED:
        return data, None
    if not HEADER.size <= length <= len(data) - TRAILER.size:
        raise BadBundle("its signatures are missing: truncated", where=where, hint=AGAIN)
    magic, size, digest = TRAILER.unpack(data.read(length, TRAILER.size))
    start = length + TRAILER.size
    if magic != MAGIC or size != len(data) - start:
        raise BadBundle("its signatures are damaged", where=where, hint=AGAIN)
    if size > MOST_SIGNATURES * (MOST_ENVELOPE_BYTES + 1):
        raise BadBundle(f"it claims {size} bytes of signatures", where=where, hint=AGAIN)
    envelopes = data.read(start, size)
    if hashlib.sha256(envelopes).digest() != digest:
        raise BadBundle("its signatures were altered", where=where, hint=AGAIN)
    return data.upto(length), envelopes


def head_digest(head: bytes) -> str:
    """SHA-256 of header and manifest, in hex: what a signer signs."""
    return hashlib.sha256(head).hexdigest()

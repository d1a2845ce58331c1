"""Whether a bundle is as a trusted signer left it, found out before anything in it is parsed.

The signatures of a bundle of format version 5 lie behind its parts, little-endian:

    0    8   magic, 89 45 44 53 0D 0A 1A 0A
    8    8   length of the envelopes
    16  32   SHA-256 of the envelopes
    48   n   envelopes, one a line (`edgedl.runtime.sign.envelope`), to the end of the file

The header's `length` is where they begin. A statement holds the SHA-256 of header and manifest:
the header holds the manifest's digest, the manifest those of the parts, and what lies between is
zero. The digest here says nothing of who made it; it finds accidents where no signer is asked for.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edgedl.core.errors import BadBundle, BadKey, BadOption, Untrusted
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime.layout import AGAIN, HEADER, SIGNED, Header, head_of, header
from edgedl.runtime.sign.ed25519 import verified
from edgedl.runtime.sign.envelope import (
    MOST_ENVELOPE_BYTES,
    MOST_SIGNATURES,
    Envelope,
    Statement,
    lines,
    moment,
    of_lines,
)
from edgedl.runtime.sign.keys import PublicKey, public_keys
from edgedl.runtime.window import Window

MAGIC = b"\x89EDS\r\n\x1a\n"
TRAILER = struct.Struct("<8sQ32s")
VARIABLE = "EDGEDL_TRUST"
# How far the signer's clock and ours may be apart.
MOST_CLOCK_SKEW_S = 24 * 3600


@dataclass(frozen=True)
class Trust:
    """What a bundle must show before it is opened.

    Attributes:
        keys: one of these must have signed it.
        name: what the signer must have called it; anything where None.
        least_release: the earliest release that is taken; any, or none stated, where None.
        clock: gives seconds since 1970, against which expiry is held.
    """

    keys: tuple[PublicKey, ...]
    name: str | None = None
    least_release: int | None = None
    clock: Callable[[], float] = time.time


class Anybody:
    """Where it is given as `trust`, nobody is asked for, whatever `EDGEDL_TRUST` says: for what a
    program made itself, a moment ago."""


ANYBODY = Anybody()
TrustSource = Trust | Anybody | PublicKey | str | Path | Sequence[PublicKey | str | Path]


@dataclass(frozen=True)
class Proof:
    """Which trusted key signed a bundle, and what it said."""

    key: PublicKey
    statement: Statement


def trust_of(source: TrustSource | None) -> Trust | None:
    """What a caller trusts; where None is given, what the environment variable `EDGEDL_TRUST`
    names, a public key's file or a folder of them; None where that is not set.

    The variable can only ask for more: where a caller names keys, it is not looked at.

    Raises:
        BadKey: a file is missing or holds no public key. BadOption: the variable is empty.
    """
    if source is None:
        if VARIABLE not in os.environ:
            return None
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
    if isinstance(source, Anybody):
        return None
    return source if isinstance(source, Trust) else trust(source)


def trust(
    source: PublicKey | str | Path | Sequence[PublicKey | str | Path],
    *,
    name: str | None = None,
    least_release: int | None = None,
    clock: Callable[[], float] = time.time,
) -> Trust:
    """What a bundle must show: a signature of a key, of a file, of one in a folder of `.pub` files,
    or of one of several such, with what else `Trust` can ask for.

    Raises:
        BadKey: a file is missing or holds no public key.
    """
    several = [source] if isinstance(source, (PublicKey, str, Path)) else list(source)
    keys = [one for one in several if isinstance(one, PublicKey)]
    paths = [one for one in several if not isinstance(one, PublicKey)]
    read = public_keys(paths) if paths or not keys else ()
    return Trust((*keys, *read), name, least_release, clock)


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


def trailer(envelopes: Sequence[Envelope]) -> bytes:
    """What lies behind the parts of a signed bundle."""
    text = lines(envelopes)
    return TRAILER.pack(MAGIC, len(text), hashlib.sha256(text).digest()) + text


def read(envelopes: bytes, where: str) -> tuple[Envelope, ...]:
    """The envelopes that `divided` found.

    Raises:
        BadBundle: they are not written as `edgedl sign` writes them.
    """
    try:
        return of_lines(envelopes)
    except ValueError as error:
        raise BadBundle(
            f"its signatures cannot be read: {error}",
            where=where,
            hint=f"{how_to_upgrade()}, or have it signed again with `edgedl sign`",
        ) from error


def head_digest(head: bytes) -> str:
    """SHA-256 of header and manifest, in hex: what a signer signs."""
    return hashlib.sha256(head).hexdigest()


def proven(
    digest: str, envelopes: Sequence[Envelope], trust: Trust, where: str
) -> tuple[Proof, ...]:
    """Which trusted keys vouch for a region of this digest, by statements that hold now.

    Every signature that bears a trusted key's name must be right, and one of them must hold.

    Raises:
        Untrusted: none of the signers is trusted, a signature is wrong, or none holds.
    """
    known = {key.id: key for key in trust.keys}
    ours = [(known[one.key_id], one) for one in envelopes if one.key_id in known]
    if not ours:
        raise Untrusted(
            "signed by nobody who is trusted here, but by "
            + ", ".join(f"`{one.statement.signer}` (key {one.key_id[:16]})" for one in envelopes),
            where=where,
            hint="get the signer's public key by a way that you trust, and name it with `--trust`",
        )
    for key, one in ours:
        if one.statement.sha256 != digest or not verified(key.raw, one.signature, one.message):
            raise Untrusted(
                f"it is not what `{key.name}` (key {key.id[:16]}) signed: altered since",
                where=where,
                hint="get it again from whoever signed it",
            )
    problems = {key.id: _problem(one.statement, trust) for key, one in ours}
    proofs = tuple(Proof(key, one.statement) for key, one in ours if problems[key.id] is None)
    if not proofs:
        message, hint = next(one for one in problems.values() if one is not None)
        raise Untrusted(message, where=where, hint=hint)
    return proofs


def _problem(statement: Statement, trust: Trust) -> tuple[str, str] | None:
    """Why a right signature's statement is not taken, and a way out; None where it is."""
    if trust.name is not None and statement.name != trust.name:
        called = "nothing" if statement.name is None else f"`{statement.name}`"
        return (
            f"its signer calls it {called}, `{trust.name}` was asked for",
            f"`edgedl sign --name {trust.name}` says that it is that",
        )
    if trust.least_release is not None and (
        statement.release is None or statement.release < trust.least_release
    ):
        stated = "no release" if statement.release is None else f"release {statement.release}"
        return (
            f"it is signed as {stated}, {trust.least_release} is the earliest that is taken",
            "take a later one; `edgedl sign --release N` states it",
        )
    if statement.expires is None:
        return None
    now = trust.clock()
    if now >= statement.expires:
        return (
            f"its signature expired at {moment(statement.expires)}",
            "get it signed again, with `edgedl sign --expires`; or set this machine's clock",
        )
    if now < statement.signed - MOST_CLOCK_SKEW_S:
        return (
            f"it was signed at {moment(statement.signed)}, which by this machine's clock is still"
            " to come, so whether it has expired cannot be told",
            "set this machine's clock",
        )
    return None

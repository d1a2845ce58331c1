"""What a bundle's signatures are worth: whether a trusted key made one, and its statement holds.

Where they lie, and what they are over, `edgedl.runtime.sign.admit` says.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgedl.core.errors import BadBundle, Untrusted
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime.sign.admit import MAGIC, TRAILER
from edgedl.runtime.sign.ed25519 import verified
from edgedl.runtime.sign.envelope import (
    Envelope,
    Statement,
    lines,
    moment,
    of_lines,
)
from edgedl.runtime.sign.keys import PublicKey, public_keys

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


@dataclass(frozen=True)
class Proof:
    """Which trusted key signed a bundle, and what it said."""

    key: PublicKey
    statement: Statement


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

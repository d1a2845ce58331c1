"""Who signed a bundle, and what they said of it: DSSE envelopes, one a line.

An envelope follows DSSE 1.0.2 (https://github.com/secure-systems-lab/dsse): the signature is over
`DSSEv1 LEN(type) type LEN(payload) payload`. Here it is stricter than there: it holds exactly one
signature, base64 is standard and padded, no key is unknown, and envelope and payload are written in
one way only, so that an envelope which is read and written again is the same, byte for byte.
Several signers make several envelopes, one a line, as in the bundles of in-toto attestations.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from edgedl.runtime.limits import canonical, strict_json
from edgedl.runtime.sign.admit import MOST_ENVELOPE_BYTES, MOST_SIGNATURES
from edgedl.runtime.sign.ed25519 import SIGNATURE_BYTES

TYPE = "application/vnd.edgedl.bundle+json"
MOST_TEXT = 128
MOST_RELEASE = (1 << 53) - 1
DIGEST = re.compile(r"[0-9a-f]{64}")
MOMENT = "%Y-%m-%dT%H:%M:%SZ"
LAST_MOMENT = datetime(9999, 12, 31, tzinfo=timezone.utc).timestamp()


@dataclass(frozen=True)
class Statement:
    """What a signer says of a bundle.

    Attributes:
        sha256: of its header and manifest, which bind every other byte.
        signer: the name that the signer goes by.
        signed: when, in whole seconds since 1970, by the signer's clock.
        expires: from when it no longer holds; None for never.
        name: what the bundle is, so that no other of the signer's can take its place.
        release: which one of that name, so that an older one can be refused.
    """

    sha256: str
    signer: str
    signed: int
    expires: int | None = None
    name: str | None = None
    release: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "expires": None if self.expires is None else moment(self.expires),
            "name": self.name,
            "release": self.release,
            "sha256": self.sha256,
            "signed": moment(self.signed),
            "signer": self.signer,
        }

    @classmethod
    def from_json(cls, document: Any) -> Statement:
        """As `to_json` gives it.

        Raises:
            KeyError, TypeError, ValueError: it was not written by that.
        """
        made = cls(
            document["sha256"],
            document["signer"],
            of_moment(document["signed"]),
            None if document["expires"] is None else of_moment(document["expires"]),
            document["name"],
            document["release"],
        )
        made.check()
        return made

    def check(self) -> None:
        """Raises ValueError where a value is not what may stand there."""
        if not isinstance(self.sha256, str) or not DIGEST.fullmatch(self.sha256):
            raise ValueError("no digest")
        for text, what in ((self.signer, "signer's name"), (self.name, "name")):
            if what == "name" and text is None:
                continue
            if not isinstance(text, str) or not 0 < len(text) <= MOST_TEXT:
                raise ValueError(f"the {what} has 1 to {MOST_TEXT} characters")
            if not text.isprintable():
                raise ValueError(f"the {what} has characters that cannot be printed")
        release = self.release
        if release is not None and (type(release) is not int or not 0 <= release <= MOST_RELEASE):
            raise ValueError(f"a release is a whole number from 0 to {MOST_RELEASE}")
        for time in (self.signed, self.expires):
            if time is not None and (type(time) is not int or not 0 <= time <= LAST_MOMENT):
                raise ValueError("a time is whole seconds, between the years 1970 and 9999")


@dataclass(frozen=True)
class Envelope:
    """A statement, and one key's signature of it."""

    statement: Statement
    key_id: str
    signature: bytes

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return signed_message(self.statement)

    def line(self) -> bytes:
        """The envelope as it lies in a bundle."""
        return canonical(
            {
                "payload": _base64(canonical(self.statement.to_json())),
                "payloadType": TYPE,
                "signatures": [{"keyid": self.key_id, "sig": _base64(self.signature)}],
            }
        )


def signed_message(statement: Statement) -> bytes:
    """DSSE's pre-authentication encoding of a statement."""
    payload = canonical(statement.to_json())
    return b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)


def lines(envelopes: Sequence[Envelope]) -> bytes:
    """Envelopes as they lie in a bundle, a line each."""
    return b"".join(envelope.line() + b"\n" for envelope in envelopes)


def of_lines(data: bytes) -> tuple[Envelope, ...]:
    """What `lines` was given.

    Raises:
        ValueError: it was not written by that, or exceeds a limit.
    """
    if len(data) > MOST_SIGNATURES * (MOST_ENVELOPE_BYTES + 1):
        raise ValueError(f"{len(data)} bytes of signatures")
    texts = data.split(b"\n")
    if texts.pop():
        raise ValueError("the last line does not end")
    if not 0 < len(texts) <= MOST_SIGNATURES:
        raise ValueError(f"{len(texts)} signatures, 1 to {MOST_SIGNATURES} are possible")
    found = tuple(map(_envelope, texts))
    if len({envelope.key_id for envelope in found}) < len(found):
        raise ValueError("two signatures of one key")
    return found


def _envelope(text: bytes) -> Envelope:
    try:
        document = _limited(text)
        if document["payloadType"] != TYPE:
            raise ValueError("an envelope of another type")
        (signature,) = document["signatures"]
        found = Envelope(
            Statement.from_json(_limited(_of_base64(document["payload"]))),
            signature["keyid"],
            _of_base64(signature["sig"]),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"an envelope lacks {error}") from error
    if not isinstance(found.key_id, str) or not DIGEST.fullmatch(found.key_id):
        raise ValueError("an envelope names no key")
    if len(found.signature) != SIGNATURE_BYTES:
        raise ValueError(f"a signature of {len(found.signature)} bytes")
    if found.line() != text:
        raise ValueError("an envelope is not written as it must be")
    return found


def _limited(text: bytes) -> Mapping[str, Any]:
    if len(text) > MOST_ENVELOPE_BYTES:
        raise ValueError(f"an envelope of {len(text)} bytes")
    document = strict_json(text)
    if not isinstance(document, dict):
        raise ValueError("an envelope is no JSON object")
    return document


def moment(seconds: int) -> str:
    """A time in whole seconds since 1970 as text (RFC 3339, in UTC)."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(MOMENT)


def of_moment(text: Any) -> int:
    """What `moment` was given.

    Raises:
        TypeError, ValueError: it is no such text.
    """
    found = int(datetime.fromisoformat(text[:-1] + "+00:00").timestamp())
    if found < 0 or moment(found) != text:
        raise ValueError(f"`{text[:40]}` is no time")
    return found


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _of_base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise ValueError("no base64")
    return base64.b64decode(text, validate=True)

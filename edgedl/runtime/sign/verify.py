"""Who signed a bundle, told on any machine: numpy, an engine and other libraries are not needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedl.core.errors import BadBundle, BadOption
from edgedl.runtime.bundle import Bundle, read_bundle
from edgedl.runtime.layout import AGAIN, header
from edgedl.runtime.sign.admit import VARIABLE, TrustSource, divided, trust_of
from edgedl.runtime.sign.ed25519 import verified
from edgedl.runtime.sign.envelope import Envelope, Statement, moment
from edgedl.runtime.sign.keys import PublicKey
from edgedl.runtime.sign.trust import Proof, Trust, read
from edgedl.runtime.window import Window

RAW_SUFFIX = ".sig"
NO_RAW, NOBODYS_RAW = "absent", "of no trusted key, or of another file"


@dataclass(frozen=True)
class Verified:
    """A bundle that a trusted key vouches for, every byte of it checked.

    Attributes:
        proofs: the trusted keys that do, and what they said.
        others: signatures that say nothing here: keys that are not trusted, statements that no
            longer hold.
        raw: the name of the key whose raw signature lies beside the bundle, or what is wrong.
    """

    path: Path
    proofs: tuple[Proof, ...]
    others: tuple[Envelope, ...]
    raw: str

    def to_json(self) -> dict[str, Any]:
        return {
            "bundle": str(self.path),
            "ok": True,
            "trusted": [
                {"key": one.key.id, "file": one.key.name, **one.statement.to_json()}
                for one in self.proofs
            ],
            "others": [{"key": one.key_id, **one.statement.to_json()} for one in self.others],
            "raw": self.raw,
        }


def verify(bundle: str | Path, trust: TrustSource | None = None) -> Verified:
    """Who signed a bundle, of those that are trusted, every byte of it checked.

    Args:
        bundle: the file, or a folder that holds one.
        trust: as `edgedl.open` takes it; what `EDGEDL_TRUST` names where None.

    Raises:
        BadBundle: the bundle is damaged. Untrusted: no trusted key signed it, or what the signer
            said no longer holds. BadKey: a trusted key cannot be read. BadOption: nobody is
            trusted.
    """
    trusted = trust_of(trust)
    if trusted is None:
        raise BadOption(
            "nobody is trusted, so nothing can be verified",
            hint=f"name a public key, or a folder of them: `--trust`, `trust=` or {VARIABLE}",
        )
    found = read_bundle(bundle, trusted)
    _, envelopes = divided(found.data, header(found.data))
    if envelopes is None:
        raise BadBundle("it was replaced while it was verified", where=str(found.path), hint=AGAIN)
    proven = {one.key.id for one in found.proofs}
    others = [one for one in read(envelopes, str(found.path)) if one.key_id not in proven]
    raw = _raw(found.path, found.data, trusted)
    return Verified(found.path, found.proofs, tuple(others), raw)


def envelopes_of(bundle: Bundle) -> tuple[Envelope, ...]:
    """What a bundle's signatures claim, which proves nothing.

    Raises:
        BadBundle: they are damaged.
    """
    _, envelopes = divided(bundle.data, header(bundle.data))
    return () if envelopes is None else tuple(read(envelopes, str(bundle.path)))


def _raw(path: Path, data: Window, trust: Trust) -> str:
    try:
        with path.with_name(path.name + RAW_SUFFIX).open("rb") as file:
            signature = file.read(65)
    except OSError:
        return NO_RAW
    whole = data.read(0, len(data))
    names = (key.name for key in trust.keys if verified(key.raw, signature, whole))
    return next(names, NOBODYS_RAW)


def told(statement: Statement) -> str:
    """A statement in words."""
    words = [f"signed {moment(statement.signed)}"]
    if statement.name is not None:
        words.append(f"as `{statement.name}`")
    if statement.release is not None:
        words.append(f"release {statement.release}")
    until = "never expires" if statement.expires is None else f"until {moment(statement.expires)}"
    return ", ".join([" ".join(words), until])


def short(key: PublicKey | Envelope) -> str:
    """The beginning of a key's id, as it is shown."""
    return (key.id if isinstance(key, PublicKey) else key.key_id)[:16]

"""Where private keys are: pairs are made, bundles signed, payloads encrypted, by `cryptography`."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgedl.core.errors import BadBundle, BadKey, BadOption
from edgedl.core.store import atomic_write
from edgedl.runtime.bundle import read_bundle
from edgedl.runtime.layout import HEADER, MAGIC, SIGNED, Header, header
from edgedl.runtime.sign.admit import MOST_SIGNATURES, divided, head_digest
from edgedl.runtime.sign.envelope import Envelope, Statement, signed_message
from edgedl.runtime.sign.keys import (
    HOW,
    PRIVATE_SUFFIX,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    PublicKey,
    key_file,
    secret_file,
)
from edgedl.runtime.sign.sealed import KEY_BYTES
from edgedl.runtime.sign.trust import read, trailer

RAW_SUFFIX = ".sig"


@dataclass(frozen=True)
class Signed:
    """What signing wrote: the bundle, the raw signature beside it, and who signed what.

    Attributes:
        signatures: how many the bundle now bears.
    """

    path: Path
    raw: Path
    key: PublicKey
    statement: Statement
    signatures: int


def keygen(name: str | Path, *, passphrase: str | None = None) -> PublicKey:
    """Make a pair of keys: NAME.key, private, in PKCS#8, which only its owner may read, and
    NAME.pub, which others are given.

    Args:
        name: the files' common path, without a suffix.
        passphrase: encrypts the private key.

    Raises:
        BadKey: one of the files is there already, or cannot be written.
    """
    files = [Path(f"{name}{suffix}") for suffix in (PRIVATE_SUFFIX, PUBLIC_SUFFIX)]
    if passphrase == "":
        raise BadKey("the passphrase is empty", hint="give none, or one that nobody guesses")
    private = Ed25519PrivateKey.generate()
    secrecy: serialization.KeySerializationEncryption = (
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secrecy
    )
    key = PublicKey(private.public_key().public_bytes_raw(), files[0].stem)
    for path in files:
        if path.exists():
            raise _taken(path)
    written_new(files[0], pem, 0o600)
    try:
        written_new(files[1], key.pem(), 0o644)
    except BadKey:
        files[0].unlink()
        raise
    return key


def written_new(path: Path, data: bytes, mode: int) -> None:
    """Write a file that is not there yet, with these permissions from its first byte on.

    Raises:
        BadKey: it is there, or cannot be written.
    """
    try:
        place = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise BadKey(
            f"cannot be written ({error.strerror})",
            where=str(path),
            hint="name a file in a folder that exists and that you may write to",
        ) from error
    try:
        with os.fdopen(place, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            path.unlink()
        raise BadKey(f"cannot be written ({error.strerror})", where=str(path)) from error


def private_key(
    path: str | Path, passphrase: str | Callable[[], str] | None = None
) -> tuple[Ed25519PrivateKey, PublicKey]:
    """The pair of which a PEM file (PKCS#8) holds the private half.

    Args:
        path: the file.
        passphrase: what it is encrypted by, or a function that is asked for it where it is.

    Raises:
        BadKey: the file is missing, damaged, holds another kind of key, or is encrypted by another
            passphrase than was given.
    """
    path = Path(path)
    data = key_file(path)
    if b"PUBLIC KEY" in data:
        raise BadKey(
            "is a public key, which cannot sign",
            where=str(path),
            hint=f"give the private one, `{path.with_suffix(PRIVATE_SUFFIX).name}`",
        )
    word: bytes | None = None
    if b"ENCRYPTED" not in data:
        secret_file(path)
    else:
        given = passphrase() if callable(passphrase) else passphrase
        if not given:
            raise BadKey(
                "is encrypted", where=str(path), hint="give its passphrase: `--passphrase-file`"
            )
        word = given.encode()
    try:
        private = serialization.load_pem_private_key(data, word)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        problem, hint = "holds no private key in PEM, or a damaged one", HOW
        if word is not None:
            problem = "is not encrypted by this passphrase, or damaged"
            hint = "give the passphrase that `edgedl keygen` was given"
        raise BadKey(problem, where=str(path), hint=hint) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise BadKey("is no Ed25519 key", where=str(path), hint=HOW)
    return private, PublicKey(private.public_key().public_bytes_raw(), path.stem)


def sign(
    bundle: str | Path,
    key: str | Path,
    *,
    passphrase: str | Callable[[], str] | None = None,
    signer: str | None = None,
    expires: int | None = None,
    name: str | None = None,
    release: int | None = None,
    alone: bool = False,
    clock: Callable[[], float] = time.time,
) -> Signed:
    """Sign a bundle where it lies, once every byte of it was checked.

    Signatures of other keys stay, and an earlier one of this key is replaced. BUNDLE.sig beside it,
    the 64 bytes of an Ed25519 signature of the whole file, is for programs that know nothing of
    bundles, openssl among them.

    Args:
        bundle: the file.
        key: the private key's file.
        passphrase: of the private key, or a function that is asked for it.
        signer: the name that the signer goes by; the key file's where None.
        expires: seconds since 1970 from when on the signature no longer holds; never where None.
        name: what the bundle is; `edgedl.Trust` can ask for it.
        release: which one of that name; `edgedl.Trust` can ask for this one or a later.
        alone: whether to leave out the signatures of other keys.
        clock: gives seconds since 1970.

    Raises:
        BadBundle: the bundle is damaged. BadKey: the key cannot be used. BadOption: a value cannot
            stand in a signature.
    """
    private, public = private_key(key, passphrase)
    found = read_bundle(bundle)
    path, where = found.path, str(found.path)
    region, before = divided(found.data, header(found.data))
    others = () if before is None or alone else read(before, where)
    whole = marked(region.read(0, len(region)), found.head, where)
    now = int(clock())
    digest = head_digest(bytes(whole[: len(found.head)]))
    by = public.name if signer is None else signer
    statement = Statement(digest, by, now, expires, name, release)
    _checked(statement)
    made = Envelope(statement, public.id, private.sign(signed_message(statement)))
    envelopes = [*(one for one in others if one.key_id != public.id), made]
    if len(envelopes) > MOST_SIGNATURES:
        raise BadBundle(
            f"it bears {MOST_SIGNATURES} signatures, which is the most",
            where=where,
            hint="sign it as it was before",
        )
    whole += trailer(envelopes)
    raw = path.with_name(path.name + RAW_SUFFIX)
    with atomic_write(path) as work:
        work.write_bytes(whole)
    with atomic_write(raw) as work:
        work.write_bytes(private.sign(bytes(whole)))
    return Signed(path, raw, public, statement, len(envelopes))


def marked(region: bytes, head: bytes, where: str) -> bytearray:
    """A bundle's region whose header says that signatures follow.

    Raises:
        BadBundle: it does not begin with the header and the manifest that were checked.
    """
    if region[: len(head)] != head:
        raise BadBundle("it was replaced while it was signed", where=where, hint="sign it again")
    said = Header(*HEADER.unpack_from(head)[1:])._replace(version=SIGNED)
    whole = bytearray(region)
    HEADER.pack_into(whole, 0, MAGIC, *said)
    return whole


def _checked(statement: Statement) -> None:
    try:
        statement.check()
    except ValueError as error:
        raise BadOption(f"this cannot be signed: {error}", hint="give another value") from error
    if statement.expires is not None and statement.expires <= statement.signed:
        raise BadOption("it would have expired already", hint="give a later date, or more days")


def _taken(path: Path) -> BadKey:
    return BadKey(
        "is there already, and a key that is overwritten is lost",
        where=str(path),
        hint="give another name, or move it away",
    )


def encryption_keygen(name: str | Path) -> Path:
    """Make NAME.aes, 32 random bytes in hex, by which `edgedl encrypt` encrypts models.

    Raises:
        BadKey: the file is there already, or cannot be written.
    """
    path = Path(f"{name}{SECRET_SUFFIX}")
    written_new(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", 0o600)
    return path

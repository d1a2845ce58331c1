"""Keys in files: public ones of signers, named by their digests, and secret ones of models."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgedl.core.errors import BadKey
from edgedl.runtime.sign.ed25519 import KEY_BYTES, is_sound

PUBLIC_SUFFIX, PRIVATE_SUFFIX, SECRET_SUFFIX = ".pub", ".key", ".aes"
SECRET_BYTES = 32
MOST_FILE_BYTES = 16 << 10
MOST_KEYS = 256
# SubjectPublicKeyInfo (RFC 5280) in DER, of the algorithm id-Ed25519 (RFC 8410), up to the key.
ED25519_INFO = bytes.fromhex("302a300506032b6570032100")
BLOCK = re.compile(r"\s*-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]*)-----END \1-----\s*")
HOW = "`edgedl keygen NAME` makes a pair: NAME.key signs, NAME.pub is what others trust"


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key of 32 bytes, and what its file calls it."""

    raw: bytes
    name: str

    @property
    def info(self) -> bytes:
        """Its SubjectPublicKeyInfo in DER, as `openssl pkey -pubin -outform DER` gives it."""
        return ED25519_INFO + self.raw

    @property
    def id(self) -> str:
        """SHA-256 of its SubjectPublicKeyInfo, in hex."""
        return hashlib.sha256(self.info).hexdigest()

    def pem(self) -> bytes:
        """The key as its file holds it."""
        text = base64.b64encode(self.info).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n".encode()


def public_key(path: str | Path) -> PublicKey:
    """The public key in a PEM file.

    Raises:
        BadKey: the file is missing, damaged, or holds another kind of key.
    """
    path = Path(path)
    _refuse_shared(path, stat.S_IWOTH, "write", "o-w")
    text = key_file(path).decode("ascii", "replace")
    found = BLOCK.fullmatch(text)
    if found is None:
        raise BadKey("holds no key in PEM, or more than one", where=str(path), hint=HOW)
    label, body = found.groups()
    if "PRIVATE" in label:
        raise BadKey(
            "is a private key, which nobody else should have",
            where=str(path),
            hint=f"give the public one, `{path.with_suffix(PUBLIC_SUFFIX).name}`",
        )
    try:
        info = base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise BadKey("its key is damaged", where=str(path), hint=HOW) from error
    raw = info.removeprefix(ED25519_INFO)
    if label != "PUBLIC KEY" or len(raw) != KEY_BYTES or len(info) != len(ED25519_INFO) + KEY_BYTES:
        raise BadKey("is no Ed25519 public key", where=str(path), hint=HOW)
    if not is_sound(raw):
        raise BadKey("its key is no sound point of the curve", where=str(path), hint=HOW)
    return PublicKey(raw, path.stem)


def public_keys(paths: Iterable[str | Path]) -> tuple[PublicKey, ...]:
    """The public keys in files, and in the files that end in `.pub` of folders, none twice.

    Raises:
        BadKey: a file or folder is missing, holds no key or a bad one, or there are too many.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        _refuse_shared(path, stat.S_IWOTH, "write", "o-w")
        inside = sorted(path.glob(f"*{PUBLIC_SUFFIX}"))
        if not inside:
            raise BadKey(
                f"no public keys in this folder: no file ends in `{PUBLIC_SUFFIX}`",
                where=str(path),
                hint="copy the public keys of the signers that you trust into it",
            )
        files += inside
    if not files:
        raise BadKey("no trusted keys were given", hint="name a public key, or a folder of them")
    if len(files) > MOST_KEYS:
        raise BadKey(f"{len(files)} trusted keys, {MOST_KEYS} are the most", hint="name fewer")
    return tuple({key.id: key for key in map(public_key, files)}.values())


def key_of_file(path: str | Path) -> Callable[[str], bytes]:
    """A function that gives the secret key in a file, whatever key is asked for.

    The file holds 32 bytes, in hex or as they are. It is read when it is asked.

    Raises:
        BadKey: when it is asked, where the file is missing or holds something else.
    """
    path = Path(path)

    def key(_: str) -> bytes:
        data = secret_file(path)
        if len(data) == SECRET_BYTES:
            return data
        try:
            found = bytes.fromhex(data.decode("ascii").strip())
        except ValueError:
            found = b""
        if len(found) != SECRET_BYTES:
            raise BadKey(
                f"holds no key of {SECRET_BYTES} bytes, in hex or as they are",
                where=str(path),
                hint="`edgedl keygen NAME --encryption` makes one, as does `openssl rand -hex 32`",
            )
        return found

    return key


def secret_file(path: Path) -> bytes:
    """The contents of a file that holds a secret, which others may not read.

    Raises:
        BadKey: they may, or as `key_file`.
    """
    data = key_file(path)
    _refuse_shared(path, stat.S_IROTH | stat.S_IWOTH, "read", "go-rwx")
    return data


def _refuse_shared(path: Path, bits: int, verb: str, change: str) -> None:
    """Where a system tells, say whether everybody may do with a file what only few should."""
    with suppress(OSError):
        if os.name == "posix" and path.stat().st_mode & bits:
            raise BadKey(
                f"everybody on this machine may {verb} it",
                where=str(path),
                hint=f"`chmod {change} {path}`, and think of who may have done so before",
            )


def key_file(path: Path) -> bytes:
    """The contents of a key's file, which is small.

    Raises:
        BadKey: it is missing, cannot be read, or is too large for a key.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise BadKey("no such key file", where=str(path), hint=HOW) from error
    except OSError as error:
        raise BadKey(f"cannot be read ({error.strerror})", where=str(path), hint=HOW) from error
    if len(data) > MOST_FILE_BYTES:
        raise BadKey("is too large for a key", where=str(path), hint=HOW)
    return data

"""The layout of the one file that ships, format versions 1 to 5, and the check of every byte.

`FORMAT.md` beside this file has every key. Layout, little-endian:

    0    8   magic, 89 45 44 4C 0D 0A 1A 0A
    8    4   format version: 5 where it is signed; else 4 where a payload is encrypted; else 3
             where one needs more than its engine, or is compiled or to be built; else 2 where one
             is deflated, else 1
    12   4   reserved, 0
    16   8   length of the whole file; of version 5, where its signatures begin
    24   8   length of the manifest
    32  32   SHA-256 of the manifest
    64   n   manifest, JSON in UTF-8
             zeros up to a multiple of 64, then the parts in the manifest's order, each followed
             by zeros up to a multiple of 64

Every byte is covered: the manifest by the header's digest, parts by the manifest's digests,
padding by being zero, and the header by what it must say. Within a version, parts and keys may be
added that a reader does not know of: it checks them and leaves them alone.

A payload of the format `onnx` lies in its part as it is. One of the format `onnx+deflate` lies
there as a zlib stream (RFC 1950), and its `inflated` says `bytes` and `sha256` of what that holds;
`edgedl.runtime.deflate` says when, and why. Readers of version 1 refuse such a file by its version.
How encrypted ones lie, `edgedl.runtime.sign.sealed` says; signatures, `edgedl.runtime.sign.trust`.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from edgedl.core.errors import BadBundle
from edgedl.runtime.limits import LIMITS, manifest_of

MAGIC = b"\x89EDL\r\n\x1a\n"
VERSION, DEFLATING, COMPILING, SEALING, SIGNED = 1, 2, 3, 4, 5
HEADER = struct.Struct("<8sIIQQ32s")
ALIGN = 64
MOST_SHOWN = 80
PART_NAME = re.compile(r"[A-Za-z0-9_\-]+(?:[./][A-Za-z0-9_\-]+)*")
AGAIN = "copy it again from where it was made, or make it again with `edgedl compress`"


@dataclass(frozen=True)
class Part:
    """A named run of bytes in the file."""

    name: str
    offset: int
    bytes: int
    sha256: str


def checked(
    data: memoryview, where: str, most: int | None = None
) -> tuple[int, dict[str, Any], dict[str, Part]]:
    """The format version, the manifest and the parts of a file, every byte of it checked.

    Args:
        most: the size of a part up to which its digest is compared here; for larger ones,
            `is_whole` does it later.

    Raises:
        BadBundle: it is no bundle, of a later format, truncated or altered.
    """
    version, reserved, length, manifest_length, digest = header(data, where)
    if length != len(data):
        raise BadBundle(
            f"{len(data)} bytes long, but says {length}: truncated", where=where, hint=AGAIN
        )
    if reserved or manifest_length > min(LIMITS.manifest_bytes, len(data) - HEADER.size):
        raise BadBundle("its header is damaged", where=where, hint=AGAIN)
    end = HEADER.size + manifest_length
    text = data[HEADER.size : end]
    if hashlib.sha256(text).digest() != digest:
        raise BadBundle("its manifest was altered", where=where, hint=AGAIN)
    try:
        manifest = manifest_of(bytes(text))
        entries = [Part(p["name"], p["offset"], p["bytes"], p["sha256"]) for p in manifest["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBundle("its manifest cannot be read", where=where, hint=AGAIN) from error
    parts: dict[str, Part] = {}
    if len(entries) > LIMITS.parts:
        raise BadBundle(f"it claims {len(entries)} parts", where=where, hint=AGAIN)
    for part in entries:
        if (
            not isinstance(part.name, str)
            or len(part.name) > LIMITS.name_chars
            or not PART_NAME.fullmatch(part.name)
            or part.name in parts
        ):
            shown = repr(part.name)[:MOST_SHOWN]
            raise BadBundle(f"a part has the name {shown}", where=where, hint=AGAIN)
        if type(part.offset) is not int or type(part.bytes) is not int or part.bytes < 0:
            raise BadBundle(f"part `{part.name}` has no sound place", where=where, hint=AGAIN)
        if part.offset != aligned(end) or part.offset + part.bytes > len(data):
            raise BadBundle(
                f"part `{part.name}` claims {part.bytes} bytes at {part.offset},"
                f" the file has {len(data)}",
                where=where,
                hint=AGAIN,
            )
        _zeros(data, end, part.offset, where)
        end = part.offset + part.bytes
        if (most is None or part.bytes <= most) and not is_whole(part, data):
            raise BadBundle(f"part `{part.name}` was altered", where=where, hint=AGAIN)
        parts[part.name] = part
    if aligned(end) != len(data):
        raise BadBundle("bytes follow its last part", where=where, hint=AGAIN)
    _zeros(data, end, len(data), where)
    return version, manifest, parts


def header(data: memoryview, where: str) -> tuple[int, int, int, int, bytes]:
    """A file's format version, reserved bytes, length, and its manifest's length and digest.

    Raises:
        BadBundle: it is no bundle, or of a later format.
    """
    if len(data) < HEADER.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise BadBundle("not an edgedl bundle", where=where, hint="`edgedl compress` makes one")
    _, version, *rest = HEADER.unpack_from(data)
    if version not in range(VERSION, SIGNED + 1):
        raise BadBundle(
            f"format version {version} is not known here, only {VERSION} to {SIGNED}",
            where=where,
            hint="pip install --upgrade edgedl",
        )
    return version, *rest


def is_whole(part: Part, data: memoryview) -> bool:
    """Whether a part's bytes are those that the manifest names."""
    lying = data[part.offset : part.offset + part.bytes]
    return hashlib.sha256(lying).hexdigest() == part.sha256


def padded_bytes(*blocks: int) -> int:
    """The size of a bundle whose blocks have these sizes."""
    return sum(map(aligned, blocks))


def aligned(offset: int) -> int:
    """The next place where a block may begin."""
    return -(-offset // ALIGN) * ALIGN


def _zeros(data: memoryview, start: int, end: int, where: str) -> None:
    if bytes(data[start:end]).strip(b"\0"):
        raise BadBundle("bytes between its parts were altered", where=where, hint=AGAIN)


def file_blocks(
    manifest: dict[str, Any], contents: Mapping[str, bytes], version: int
) -> tuple[bytes, ...]:
    """Header and manifest, which is given without its `parts`, then the parts, not yet padded."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    text = _with_places(manifest, contents, digests)
    length = padded_bytes(HEADER.size + len(text), *map(len, contents.values()))
    header = HEADER.pack(MAGIC, version, 0, length, len(text), hashlib.sha256(text).digest())
    return (header + text, *contents.values())


def write_blocks(file: BinaryIO, blocks: Iterable[bytes]) -> None:
    """Write blocks from a file's beginning, each followed by zeros up to where the next may be."""
    for block in blocks:
        file.write(block)
        file.write(bytes(aligned(file.tell()) - file.tell()))


def _with_places(
    manifest: dict[str, Any], contents: Mapping[str, bytes], digests: Mapping[str, str]
) -> bytes:
    """The manifest's text, once its own length and the places that follow from it agree."""
    length = 0
    while True:
        offset = aligned(HEADER.size + length)
        parts = []
        for name, data in contents.items():
            parts.append(
                {"name": name, "offset": offset, "bytes": len(data), "sha256": digests[name]}
            )
            offset += aligned(len(data))
        text = json.dumps({**manifest, "parts": parts}, sort_keys=True, allow_nan=False).encode()
        if aligned(HEADER.size + len(text)) == aligned(HEADER.size + length):
            return text
        length = len(text)

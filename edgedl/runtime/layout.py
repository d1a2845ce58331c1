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
added that a reader does not know of: it checks them and leaves them alone. Large parts have two
digests, of which the one in blocks is there for readers with several cores.

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
from typing import Any, BinaryIO, NamedTuple

from edgedl.core.errors import BadBundle
from edgedl.core.registry import how_to_upgrade
from edgedl.runtime.digest import blocks_of, tree_digest
from edgedl.runtime.limits import LIMITS, manifest_of
from edgedl.runtime.window import Window

MAGIC = b"\x89EDL\r\n\x1a\n"
VERSION, DEFLATING, COMPILING, SEALING, SIGNED = 1, 2, 3, 4, 5
HEADER = struct.Struct("<8sIIQQ32s")
ALIGN = 64
# From here on a part has a digest that several cores work out together.
LEAST_DIVIDED_BYTES = 4 << 20
MOST_SHOWN = 80
PART_NAME = re.compile(r"[A-Za-z0-9_\-]+(?:[./][A-Za-z0-9_\-]+)*")
AGAIN = "copy it again from where it was made, or make it again with `edgedl compress`"


@dataclass(frozen=True)
class Part:
    """A named run of bytes in the file.

    Attributes:
        sha256: its digest, in hex.
        blocks: that of its blocks, `edgedl.runtime.digest`, where it is large.
    """

    name: str
    offset: int
    bytes: int
    sha256: str
    blocks: str | None = None

    @property
    def digest(self) -> str:
        """The digest that its bytes are compared with when they are read."""
        return self.sha256 if self.blocks is None else self.blocks


class Header(NamedTuple):
    """What a file begins with."""

    version: int
    reserved: int
    length: int
    manifest_bytes: int
    sha256: bytes


def header(data: Window) -> Header:
    """A file's header.

    Raises:
        BadBundle: it is no bundle, or of a later format.
    """
    first = data.read(0, min(HEADER.size, len(data)))
    if len(first) < HEADER.size or first[: len(MAGIC)] != MAGIC:
        raise BadBundle(
            "not an edgedl bundle", where=data.where, hint="`edgedl compress` makes one"
        )
    found = Header(*HEADER.unpack(first)[1:])
    if found.version not in range(VERSION, SIGNED + 1):
        raise BadBundle(
            f"format version {found.version} is not known here, only {VERSION} to {SIGNED}",
            where=data.where,
            hint=how_to_upgrade(),
        )
    return found


def head_of(region: Window, said: Header) -> bytes:
    """Header and manifest, read once: what is proven of them is what is parsed.

    Raises:
        BadBundle: the file is truncated, or its header damaged.
    """
    if said.length != len(region):
        raise BadBundle(
            f"{len(region)} bytes long, but says {said.length}: truncated",
            where=region.where,
            hint=AGAIN,
        )
    most = min(LIMITS.manifest_bytes, len(region) - HEADER.size)
    if said.reserved or said.manifest_bytes > most:
        raise BadBundle("its header is damaged", where=region.where, hint=AGAIN)
    return HEADER.pack(MAGIC, *said) + region.read(HEADER.size, said.manifest_bytes)


def checked(
    data: Window, head: bytes, most: int | None = None
) -> tuple[dict[str, Any], dict[str, Part]]:
    """The manifest and the parts of a file, every byte of it checked.

    Args:
        head: as `head_of` gives it.
        most: the size of a part up to which its digest is compared here; for larger ones,
            whoever reads them does it.

    Raises:
        BadBundle: it is altered.
    """
    where, text, end = data.where, head[HEADER.size :], len(head)
    if hashlib.sha256(text).digest() != HEADER.unpack_from(head)[-1]:
        raise BadBundle("its manifest was altered", where=where, hint=AGAIN)
    try:
        manifest = manifest_of(text)
        entries = [_part(one) for one in manifest["parts"]]
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
        _zeros(data, end, part.offset)
        end = part.offset + part.bytes
        if (most is None or part.bytes <= most) and not is_whole(part, data):
            raise BadBundle(f"part `{part.name}` was altered", where=where, hint=AGAIN)
        parts[part.name] = part
    if aligned(end) != len(data):
        raise BadBundle("bytes follow its last part", where=where, hint=AGAIN)
    _zeros(data, end, len(data))
    return manifest, parts


def _part(entry: Mapping[str, Any]) -> Part:
    known = (entry["name"], entry["offset"], entry["bytes"], entry["sha256"])
    return Part(*known, entry.get("blocks"))


def holds(part: Part, contents: bytes) -> bool:
    """Whether these are a part's bytes, by several cores where it has a digest for that."""
    if part.blocks is None:
        return hashlib.sha256(contents).hexdigest() == part.sha256
    return _of_blocks(contents) == part.blocks


def is_whole(part: Part, data: Window) -> bool:
    """Whether a part's bytes are those that the manifest names, by each digest that it names."""
    whole = hashlib.sha256()
    several: list[bytes] = []
    for block in data.blocks(part.offset, part.bytes):
        whole.update(block)
        several.append(hashlib.sha256(block).digest())
    if part.blocks not in (None, hashlib.sha256(b"".join(several)).hexdigest()):
        return False
    return whole.hexdigest() == part.sha256


def padded_bytes(*blocks: int) -> int:
    """The size of a bundle whose blocks have these sizes."""
    return sum(map(aligned, blocks))


def aligned(offset: int) -> int:
    """The next place where a block may begin."""
    return -(-offset // ALIGN) * ALIGN


def _zeros(data: Window, start: int, end: int) -> None:
    if end > start and data.read(start, end - start).strip(b"\0"):
        raise BadBundle("bytes between its parts were altered", where=data.where, hint=AGAIN)


def file_blocks(
    manifest: dict[str, Any], contents: Mapping[str, bytes], version: int
) -> tuple[bytes, ...]:
    """Header and manifest, which is given without its `parts`, then the parts, not yet padded."""
    digests = {name: _digests(data) for name, data in contents.items()}
    text = _with_places(manifest, contents, digests)
    length = padded_bytes(HEADER.size + len(text), *map(len, contents.values()))
    header = HEADER.pack(MAGIC, version, 0, length, len(text), hashlib.sha256(text).digest())
    return (header + text, *contents.values())


def _digests(contents: bytes) -> dict[str, str]:
    """What the manifest says of a part's bytes, so that they can be told from others."""
    found = {"sha256": hashlib.sha256(contents).hexdigest()}
    if len(contents) >= LEAST_DIVIDED_BYTES:
        found["blocks"] = _of_blocks(contents)
    return found


def _of_blocks(contents: bytes) -> str:
    return tree_digest(list(blocks_of(contents))).hex()


def write_blocks(file: BinaryIO, blocks: Iterable[bytes]) -> None:
    """Write blocks from a file's beginning, each followed by zeros up to where the next may be."""
    for block in blocks:
        file.write(block)
        file.write(bytes(aligned(file.tell()) - file.tell()))


def _with_places(
    manifest: dict[str, Any], contents: Mapping[str, bytes], digests: Mapping[str, dict[str, str]]
) -> bytes:
    """The manifest's text, once its own length and the places that follow from it agree."""
    length = 0
    while True:
        offset = aligned(HEADER.size + length)
        parts = []
        for name, data in contents.items():
            parts.append({"name": name, "offset": offset, "bytes": len(data), **digests[name]})
            offset += aligned(len(data))
        text = json.dumps({**manifest, "parts": parts}, sort_keys=True, allow_nan=False).encode()
        if aligned(HEADER.size + len(text)) == aligned(HEADER.size + length):
            return text
        length = len(text)

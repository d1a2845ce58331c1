"""The one file that ships, format version 1: read, checked and written.

Layout, little-endian:

    0    8   magic, 89 45 44 4C 0D 0A 1A 0A
    8    4   format version, 1
    12   4   reserved, 0
    16   8   length of the whole file
    24   8   length of the manifest
    32  32   SHA-256 of the manifest
    64   n   manifest, JSON in UTF-8
             zeros up to a multiple of 64, then the parts in the manifest's order, each followed
             by zeros up to a multiple of 64

Every byte is covered: the manifest by the header's digest, parts by the manifest's digests,
padding by being zero, and the header by what it must say. Within a version, parts and keys may be
added that a reader does not know of: it checks them and leaves them alone.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgedl.core.errors import BadBundle, BadOption, BadValue, Missing, nearest
from edgedl.core.model import Signature, Step
from edgedl.core.store import atomic_write
from edgedl.runtime.golden import Golden, pack, unpack

if TYPE_CHECKING:
    from edgedl.runtime.process import Processing

SUFFIX = ".edl"
MAGIC = b"\x89EDL\r\n\x1a\n"
VERSION = 1
HEADER = struct.Struct("<8sIIQQ32s")
ALIGN = 64
MOST_MANIFEST_BYTES = 64 << 20
MOST_PARTS = 4096
PART_NAME = re.compile(r"[A-Za-z0-9_\-]+(?:[./][A-Za-z0-9_\-]+)*")
PROCESSING = "about/processing"
AGAIN = "copy it again from where it was made, or make it again with `edgedl compress`"


@dataclass(frozen=True)
class Part:
    """A named run of bytes in the file."""

    name: str
    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Payload:
    """A model for one engine: the part that holds it, its format, and how to open it."""

    engine: str
    format: Literal["onnx"]
    part: str
    precision: str
    settings: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "format": self.format,
            "part": self.part,
            "precision": self.precision,
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, eq=False)
class Bundle:
    """A bundle, memory-mapped, every byte of it checked.

    Attributes:
        path: the file.
        signature: inputs and outputs.
        payloads: models by engine, the best first.
        notes: what was measured when it was made, as plain JSON.
    """

    path: Path
    signature: Signature
    payloads: tuple[Payload, ...]
    parts: Mapping[str, Part]
    notes: Mapping[str, Any]
    golden_index: Mapping[str, Any]
    data: memoryview

    def read(self, name: str) -> bytes:
        """The contents of a part."""
        part = self.parts[name]
        return self.data[part.offset : part.offset + part.bytes].tobytes()

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.data)

    def payload(self, engine: str | None, installed: Sequence[str]) -> Payload:
        """The payload of this engine, or the first whose engine is installed.

        Raises:
            BadOption: the bundle has none for the engine. Missing: none of its engines is here.
        """
        engines = [payload.engine for payload in self.payloads]
        if engine is not None and engine not in engines:
            raise BadOption(
                f"the bundle has no payload for `{engine}`",
                where=str(self.path),
                hint=nearest(engine, engines),
            )
        for payload in self.payloads:
            if payload.engine == (engine or payload.engine) and payload.engine in installed:
                return payload
        wanted = engine or engines[0]
        raise Missing(
            f"the bundle needs the engine `{wanted}`, which is not installed",
            where=str(self.path),
            hint=f"pip install 'edgedl[{wanted}]'",
        )

    def history(self) -> tuple[Step, ...]:
        """How the model came to be."""
        try:
            return tuple(Step.from_json(step) for step in _inflate(self.read("about/history")))
        except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
            raise BadBundle("its history is damaged", where=str(self.path), hint=AGAIN) from error

    def processing(self) -> Processing | None:
        """What stands before and behind the network; None where the bundle does not say."""
        if PROCESSING not in self.parts:
            return None
        from edgedl.runtime.process import Processing

        try:
            return Processing.from_json(_inflate(self.read(PROCESSING)))
        except BadValue as error:
            raise BadBundle(
                f"its pre-processing is not known here: {error.message}",
                where=str(self.path),
                hint="pip install --upgrade edgedl, or give --preprocess SPEC.yaml",
            ) from error
        except (ValueError, RecursionError, zlib.error) as error:
            raise BadBundle(
                "its pre-processing is damaged", where=str(self.path), hint=AGAIN
            ) from error

    def names(self) -> dict[str, str]:
        """The original names of nodes and tensors, by the short ones in the payloads."""
        try:
            return dict(_inflate(self.read("about/names")))
        except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
            raise BadBundle("its names are damaged", where=str(self.path), hint=AGAIN) from error

    def golden(self) -> Golden:
        """Golden inputs and answers."""
        contents = {name: self.read(name) for name in self.parts if name.startswith("golden/")}
        try:
            return unpack(self.golden_index, contents)
        except (AttributeError, KeyError, TypeError, ValueError, EOFError, zlib.error) as error:
            raise BadBundle(
                "its golden samples are damaged", where=str(self.path), hint=AGAIN
            ) from error


def _deflate(document: Any) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return zlib.compress(text.encode(), 9)


def _inflate(data: bytes) -> Any:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, MOST_MANIFEST_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError("a document is too large")
    return json.loads(text)


def find_bundle(path: str | Path) -> Path:
    """The bundle at a path, or the only one in a folder."""
    path = Path(path)
    if not path.is_dir():
        return path
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) != 1:
        raise BadBundle(
            f"{len(found) or 'no'} bundles in this folder", where=str(path), hint="name the file"
        )
    return found[0]


def is_bundle(path: str | Path) -> bool:
    """Whether a file begins like a bundle, or is named like one."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC[:4] or path.suffix == SUFFIX
    except OSError:
        return path.suffix == SUFFIX


def open_bundle(path: str | Path) -> Bundle:
    """The bundle at `path`, with every byte of it checked before anything is believed.

    Raises:
        BadBundle: the file is missing, no bundle, of a later format, truncated or altered.
    """
    path = find_bundle(path)
    where = str(path)
    try:
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise BadBundle("no such file", where=where, hint="`edgedl compress` makes one") from error
    except ValueError as error:
        raise BadBundle("the file is empty", where=where, hint=AGAIN) from error
    except OSError as error:
        raise BadBundle(f"cannot be read ({error.strerror})", where=where) from error
    manifest, parts = _checked(data, where)
    try:
        bundle = Bundle(
            path,
            Signature.from_json(manifest["signature"]),
            tuple(
                Payload(p["engine"], p["format"], p["part"], p["precision"], dict(p["settings"]))
                for p in manifest["payloads"]
            ),
            parts,
            dict(manifest["notes"]),
            dict(manifest["golden"]),
            data,
        )
        for payload in bundle.payloads:
            parts[payload.part]
    except (KeyError, TypeError, ValueError) as error:
        raise BadBundle(f"its manifest lacks {error}", where=where, hint=AGAIN) from error
    if not bundle.payloads:
        raise BadBundle("it holds no model", where=where, hint=AGAIN)
    return bundle


def _checked(data: memoryview, where: str) -> tuple[dict[str, Any], dict[str, Part]]:
    if len(data) < HEADER.size or bytes(data[: len(MAGIC)]) != MAGIC:
        raise BadBundle("not an edgedl bundle", where=where, hint="`edgedl compress` makes one")
    _, version, reserved, length, manifest_length, digest = HEADER.unpack_from(data)
    if version != VERSION:
        raise BadBundle(
            f"format version {version} is not known here, only {VERSION}",
            where=where,
            hint="pip install --upgrade edgedl",
        )
    if length != len(data):
        raise BadBundle(
            f"{len(data)} bytes long, but says {length}: truncated", where=where, hint=AGAIN
        )
    if reserved or manifest_length > min(MOST_MANIFEST_BYTES, len(data) - HEADER.size):
        raise BadBundle("its header is damaged", where=where, hint=AGAIN)
    end = HEADER.size + manifest_length
    text = data[HEADER.size : end]
    if hashlib.sha256(text).digest() != digest:
        raise BadBundle("its manifest was altered", where=where, hint=AGAIN)
    try:
        manifest = json.loads(bytes(text))
        entries = [Part(p["name"], p["offset"], p["bytes"], p["sha256"]) for p in manifest["parts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadBundle("its manifest cannot be read", where=where, hint=AGAIN) from error
    parts: dict[str, Part] = {}
    if len(entries) > MOST_PARTS:
        raise BadBundle(f"it claims {len(entries)} parts", where=where, hint=AGAIN)
    for part in entries:
        if (
            not isinstance(part.name, str)
            or not PART_NAME.fullmatch(part.name)
            or part.name in parts
        ):
            raise BadBundle(f"a part has the name {part.name!r}", where=where, hint=AGAIN)
        if type(part.offset) is not int or type(part.bytes) is not int or part.bytes < 0:
            raise BadBundle(f"part `{part.name}` has no sound place", where=where, hint=AGAIN)
        if part.offset != _aligned(end) or part.offset + part.bytes > len(data):
            raise BadBundle(
                f"part `{part.name}` claims {part.bytes} bytes at {part.offset},"
                f" the file has {len(data)}",
                where=where,
                hint=AGAIN,
            )
        _zeros(data, end, part.offset, where)
        end = part.offset + part.bytes
        if hashlib.sha256(data[part.offset : end]).hexdigest() != part.sha256:
            raise BadBundle(f"part `{part.name}` was altered", where=where, hint=AGAIN)
        parts[part.name] = part
    if _aligned(end) != len(data):
        raise BadBundle("bytes follow its last part", where=where, hint=AGAIN)
    _zeros(data, end, len(data), where)
    return manifest, parts


def padded_bytes(*blocks: int) -> int:
    """The size of a bundle whose blocks have these sizes."""
    return sum(map(_aligned, blocks))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def _zeros(data: memoryview, start: int, end: int, where: str) -> None:
    if bytes(data[start:end]).strip(b"\0"):
        raise BadBundle("bytes between its parts were altered", where=where, hint=AGAIN)


def write_bundle(
    path: Path,
    *,
    signature: Signature,
    payloads: Sequence[tuple[Payload, bytes]],
    golden: Golden,
    history: Sequence[Step],
    notes: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    processing: Processing | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        names: the original names of nodes and tensors, by the short ones in the payloads.
        processing: what stands before and behind the network, bound to its signature.

    Raises:
        EdgeError: the file cannot be written.
    """
    blocks = bundle_blocks(
        signature=signature,
        payloads=payloads,
        golden=golden,
        history=history,
        notes=notes,
        names=names,
        processing=processing,
    )
    with atomic_write(path) as work, work.open("wb") as file:
        for block in blocks:
            file.write(block)
            file.write(bytes(_aligned(file.tell()) - file.tell()))


def bundle_blocks(
    *,
    signature: Signature,
    payloads: Sequence[tuple[Payload, bytes]],
    golden: Golden,
    history: Sequence[Step],
    notes: Mapping[str, Any],
    names: Mapping[str, str] | None = None,
    processing: Processing | None = None,
) -> tuple[bytes, ...]:
    """What `write_bundle` writes, before each block is padded: header and manifest, then parts."""
    contents: dict[str, bytes] = {payload.part: data for payload, data in payloads}
    index, golden_parts = pack(golden)
    contents |= golden_parts
    manifest = {
        "signature": signature.to_json(),
        "payloads": [payload.to_json() for payload, _ in payloads],
        "golden": index,
        "notes": dict(notes),
    }
    contents["about/history"] = _deflate([step.to_json() for step in history])
    contents["about/names"] = _deflate(dict(names or {}))
    if processing is not None:
        contents[PROCESSING] = _deflate(processing.to_json())
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    text = _with_places(manifest, contents, digests)
    length = padded_bytes(HEADER.size + len(text), *map(len, contents.values()))
    header = HEADER.pack(MAGIC, VERSION, 0, length, len(text), hashlib.sha256(text).digest())
    return (header + text, *contents.values())


def _with_places(
    manifest: dict[str, Any], contents: Mapping[str, bytes], digests: Mapping[str, str]
) -> bytes:
    """The manifest's text, once its own length and the places that follow from it agree."""
    length = 0
    while True:
        offset = _aligned(HEADER.size + length)
        parts = []
        for name, data in contents.items():
            parts.append(
                {"name": name, "offset": offset, "bytes": len(data), "sha256": digests[name]}
            )
            offset += _aligned(len(data))
        text = json.dumps({**manifest, "parts": parts}, sort_keys=True, allow_nan=False).encode()
        if _aligned(HEADER.size + len(text)) == _aligned(HEADER.size + length):
            return text
        length = len(text)

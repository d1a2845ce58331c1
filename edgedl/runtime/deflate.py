"""What lies deflated in a bundle: documents always, a payload where that saves enough.

A payload is deflated where that saves 25 % of it or more. Of drawn weights, normal ones in float32
lose 7 to 8 % (their exponents are alike), and int8 ones 11 to 20 %: these are left as they are, and
such a bundle opens as fast as ever, by readers of the first version too. Those of which half are
zero lose 37 to 48 %, and palettes more. Opening pays for that: dense weights inflated at 80 to 250
MB/s on a shared two-core machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edgedl.runtime.limits import LIMITS, strict_json

Format = Literal["onnx", "onnx+deflate"]
PLAIN: Format = "onnx"
DEFLATED: Format = "onnx+deflate"
MOST_DOCUMENT_BYTES = LIMITS.document_bytes
MOST_PAYLOAD_BYTES = LIMITS.payload_bytes
MOST_LEFT = 0.75
# More than the manifest says of a deflated payload, with its padding.
LEAST_SAVED = 256
# Deflate's own limit: 258 bytes by two codes of a bit.
MOST_RATIO = 1032
LEVEL, MEMORY = 6, 9
SAMPLE, BLOCK = 1 << 20, 1 << 16


@dataclass(frozen=True)
class Inflated:
    """What a deflated payload holds: how many bytes, and their digest."""

    bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        return {"bytes": self.bytes, "sha256": self.sha256}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], stored: int) -> Inflated:
        """As the manifest states it of `stored` bytes.

        Raises:
            KeyError, TypeError, ValueError: it states none, or a size that cannot be.
        """
        size, digest = document["bytes"], document["sha256"]
        if type(size) is not int or not isinstance(digest, str):
            raise ValueError("a size and a digest of an inflated model")
        if not 0 < size <= min(MOST_PAYLOAD_BYTES, MOST_RATIO * stored):
            raise ValueError(f"a sound size of its model: {stored} bytes never inflate to {size}")
        return cls(size, digest)


def deflate(data: bytes) -> tuple[bytes, Inflated] | None:
    """A payload deflated, and what it inflates to; None where that saves too little.

    Huffman codes alone, or with matches at the highest level: what is shorter for a sample of the
    payload. int8 weights have no matches but by chance, which cost more than they save, and a
    hundred times the time; weights of few float values have.
    """
    step = max(BLOCK, len(data) * BLOCK // SAMPLE)
    view = memoryview(data)
    sample = b"".join(view[at : at + BLOCK] for at in range(0, len(data), step))
    strategies = (zlib.Z_HUFFMAN_ONLY, zlib.Z_DEFAULT_STRATEGY)
    tried = {one: _packed(sample, one) for one in strategies}
    best = min(strategies, key=lambda one: len(tried[one]))
    packed = tried[best] if len(sample) == len(data) else _packed(data, best)
    if len(packed) > min(MOST_LEFT * len(data), len(data) - LEAST_SAVED):
        return None
    return packed, Inflated(len(data), hashlib.sha256(data).hexdigest())


def _packed(data: bytes, strategy: int) -> bytes:
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, MEMORY, strategy)
    return packer.compress(data) + packer.flush()


def inflate(stored: memoryview, stated: Inflated) -> bytes:
    """What was deflated, block by block, never more of it than is stated.

    It is in memory once: `BytesIO` gives its own array away, where joining blocks, or giving an
    engine a `bytearray`, would make another.

    Raises:
        ValueError: it is damaged, truncated, of another size, followed by other bytes, or not what
            was stated.
    """
    unpacker, digest, made = zlib.decompressobj(), hashlib.sha256(), io.BytesIO()
    try:
        for at in range(0, len(stored), BLOCK):
            if unpacker.eof:
                raise ValueError("is followed by other bytes")
            rest: bytes | memoryview = stored[at : at + BLOCK]
            # Where a block's end was held back for want of room, there may be nothing left to give.
            while True:
                block = unpacker.decompress(rest, BLOCK)
                if made.tell() + len(block) > stated.bytes:
                    raise ValueError(f"inflates to more than the {stated.bytes} bytes stated")
                digest.update(block)
                made.write(block)
                rest = unpacker.unconsumed_tail
                if unpacker.eof or (not rest and len(block) < BLOCK):
                    break
    except zlib.error as error:
        raise ValueError("is damaged: it cannot be inflated") from error
    if not unpacker.eof:
        raise ValueError("is truncated")
    if unpacker.unused_data:
        raise ValueError("is followed by other bytes")
    if made.tell() != stated.bytes:
        raise ValueError(f"inflates to {made.tell()} bytes, {stated.bytes} stated")
    if digest.hexdigest() != stated.sha256:
        raise ValueError("inflates to something else than was stated")
    return made.getvalue()


def document_of(value: Any) -> bytes:
    """A document of a bundle, deflated."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return zlib.compress(text.encode(), 9)


def of_document(data: bytes) -> Any:
    """What `document_of` was given.

    Raises:
        ValueError, RecursionError, zlib.error: it is damaged, or too large.
    """
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, MOST_DOCUMENT_BYTES)
    if unpacker.unconsumed_tail:
        raise ValueError("a document is too large")
    return strict_json(text)

"""A digest of many bytes that several cores work out together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence

BLOCK, MOST_CORES = 1 << 21, 4
# Threads take as long to begin as a core takes for a few hundred kilobytes.
LEAST_SHARED = 4


def tree_digest(blocks: Sequence[bytes | memoryview]) -> bytes:
    """SHA-256 of the SHA-256 of each of these, one behind the other: a Merkle tree of one level
    (Merkle, 1987), whose leaves are whole blocks."""
    if len(blocks) < LEAST_SHARED:
        return _sha256(b"".join(map(_sha256, blocks)))
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(MOST_CORES, os.cpu_count() or 1)) as cores:
        return _sha256(b"".join(cores.map(_sha256, blocks)))


def blocks_of(data: bytes | memoryview) -> Iterator[memoryview]:
    """Views of 2 MiB each, the last of them of what is left."""
    view = memoryview(data)
    return (view[at : at + BLOCK] for at in range(0, len(view), BLOCK))


def _sha256(block: bytes | memoryview) -> bytes:
    return hashlib.sha256(block).digest()

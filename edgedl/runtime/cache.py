"""What engines compiled, kept in a folder for the next opening."""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import stat
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedl.runtime.digest import blocks_of, tree_digest
from edgedl.runtime.limits import LIMITS, strict_json

SUFFIX, MAKING = ".edlc", ".making-"
MAGIC = b"\x89EDLC\r\n\x1a"
# Magic, length of the description, length of what was compiled, and the digest of both: SHA-256 of
# the SHA-256 of each block, so that several cores can work it out.
HEADER = struct.Struct("<8sQQ32s8x")
ALIGN = 64
MOST_DESCRIPTION_BYTES = 1 << 16
DEFAULT_LIMIT_BYTES = 2 * 10**9
STALE_SECONDS = 24 * 3600
OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, eq=False)
class Kept:
    """What was compiled, and what was said of it; empty where that form did not do.

    Memory-mapped and writeable, as some engines ask for; what is written there never reaches the
    file.
    """

    data: memoryview
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Cache:
    """Compiled models in a folder, a file each, found by everything that they hang on.

    Processes share it: a file appears whole or not at all, by renaming, and of two that are written
    at once either may stay, as both are right. What was used longest ago goes where all together
    are larger than `limit_bytes`. Nothing here fails for want of room or of rights: what cannot be
    kept is not kept, and `keep` says why.

    In front of each file's contents stands their digest, which is compared before an engine sees a
    byte, and the key, so that no file is taken for another. That defends against damage, against
    files cut off by a crash, and against another version's. It does not defend against whoever may
    write the folder with this user's rights, since digests can be written, too; files that belong
    to another user than this one and root, that others may write, that have a second name, and
    symbolic links are passed over. Engines trust
    what they once compiled: keep the folder where only this user writes.
    """

    root: Path
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    def find(self, key: Mapping[str, Any]) -> Kept | None:
        """What is kept under this key; None where there is nothing sound, and what is damaged is
        removed."""
        place = self.place(key)
        try:
            handle = os.open(place, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        try:
            if not _is_ours(os.fstat(handle)):
                return None
            found = _opened(memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_COPY)), key)
        except (KeyError, TypeError, ValueError, RecursionError):
            self.drop(key)
            return None
        except OSError:
            return None
        finally:
            os.close(handle)
        with contextlib.suppress(OSError):
            os.utime(place)
        return found

    def keep(self, key: Mapping[str, Any], data: bytes, said: Mapping[str, Any]) -> str | None:
        """Keep what was compiled; None where it is kept, and why not where it is not."""
        import tempfile

        blocks = _written(key, data, said)
        if sum(map(len, blocks)) > self.limit_bytes:
            return f"larger than the {self.limit_bytes} bytes that may be kept"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=MAKING, dir=self.root)
            work = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.writelines(blocks)
                work.replace(self.place(key))
            finally:
                with contextlib.suppress(OSError):
                    work.unlink(missing_ok=True)
            self.tidy()
        except OSError as error:
            return f"`{self.root}` cannot be written ({error.strerror or error})"
        return None

    def drop(self, key: Mapping[str, Any]) -> None:
        """Remove what is kept under this key."""
        with contextlib.suppress(OSError):
            self.place(key).unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a killed process left a day ago, then what was used longest ago, down to the
        limit."""
        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for path in self.root.iterdir():
            with contextlib.suppress(OSError):
                found = path.stat(follow_symlinks=False)
                if path.name.startswith(MAKING) and now - found.st_mtime > STALE_SECONDS:
                    path.unlink(missing_ok=True)
                elif path.suffix == SUFFIX:
                    kept.append((found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.limit_bytes:
                break
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                total -= size

    def place(self, key: Mapping[str, Any]) -> Path:
        """The file in which what has this key is kept, whether it is there or not."""
        return self.root / (hashlib.sha256(_text(key)).hexdigest() + SUFFIX)


def _text(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def _is_ours(found: os.stat_result) -> bool:
    """Whether a file is a regular one that nobody else may have written."""
    if not stat.S_ISREG(found.st_mode):
        return False
    if not hasattr(os, "geteuid"):
        return True
    # A second name may be another user's, who gave a file of this user's a place here.
    return (
        found.st_uid in (os.geteuid(), 0)
        and not found.st_mode & OTHERS_MAY_WRITE
        and found.st_nlink == 1
    )


def _written(
    key: Mapping[str, Any], data: bytes, said: Mapping[str, Any]
) -> tuple[bytes, bytes, bytes]:
    text = _text({"key": dict(key), "said": dict(said)})
    described = text.ljust(-(-len(text) // ALIGN) * ALIGN)
    head = HEADER.pack(MAGIC, len(described), len(data), _digest(described, data))
    return head, described, data


def _digest(described: bytes | memoryview, data: bytes | memoryview) -> bytes:
    """The digest of what stands behind the header."""
    return tree_digest([described, *blocks_of(data)])


def _opened(data: memoryview, key: Mapping[str, Any]) -> Kept:
    """What lies in a file.

    Raises:
        KeyError, TypeError, ValueError, RecursionError: it is damaged, or is another's.
    """
    if len(data) < HEADER.size:
        raise ValueError("too short")
    magic, described, size, digest = HEADER.unpack_from(data)
    start = HEADER.size + described
    if magic != MAGIC or described > MOST_DESCRIPTION_BYTES or start + size != len(data):
        raise ValueError("of another kind, or cut off")
    if size > LIMITS.payload_bytes or _digest(data[HEADER.size : start], data[start:]) != digest:
        raise ValueError("damaged")
    document = strict_json(bytes(data[HEADER.size : start]))
    if document["key"] != json.loads(_text(key)):
        raise ValueError("another's")
    return Kept(data[start:], document["said"])

"""A file's bytes, read into memory of this process where they are asked for, never mapped.

A mapped file that somebody cuts off kills the process that reads on (SIGBUS), and one that somebody
writes to changes behind a check. What is read here is a copy: what was checked is what is used.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from edgedl.core.errors import BadBundle
from edgedl.runtime.digest import BLOCK
from edgedl.runtime.limits import LIMITS

MAKES_ONE = "`edgedl compress` makes one"


class _File:
    """An open file, closed with the last that refers to it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        # A pipe without a writer would block here, where a regular file never does.
        self.handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
        self._turn = threading.Lock()

    def read(self, at: int, size: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.handle, size, at)
        with self._turn:
            os.lseek(self.handle, at, os.SEEK_SET)
            return os.read(self.handle, size)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


class _Held:
    """Bytes in place of a file."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, at: int, size: int) -> bytes:
        return self._data[at : at + size]


@dataclass(frozen=True, eq=False)
class Window:
    """The first `length` bytes of a file, as long as it was when it was opened."""

    source: _File | _Held
    length: int
    where: str

    def __len__(self) -> int:
        return self.length

    def upto(self, length: int) -> Window:
        """The first `length` bytes of these."""
        return replace(self, length=min(length, self.length))

    def read(self, start: int, size: int) -> bytes:
        """A copy of `size` bytes.

        Raises:
            BadBundle: the file was cut off since it was opened, or cannot be read.
        """
        blocks = []
        while size > 0:
            try:
                block = self.source.read(start, size)
            except OSError as error:
                raise BadBundle(f"cannot be read ({error.strerror})", where=self.where) from error
            if not block or start + size > self.length:
                raise BadBundle(
                    "it was cut off while it was read", where=self.where, hint="copy it again"
                )
            blocks.append(block)
            start, size = start + len(block), size - len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def blocks(self, start: int, size: int) -> Iterator[bytes]:
        """A copy of `size` bytes, block by block.

        Raises:
            BadBundle: as `read`.
        """
        for at in range(start, start + size, BLOCK):
            yield self.read(at, min(BLOCK, start + size - at))


def window_of(data: bytes, where: str) -> Window:
    """Bytes as if they were a file's."""
    return Window(_Held(data), len(data), where)


def opened(path: Path) -> Window:
    """A regular file's bytes; a link to one is followed.

    Raises:
        BadBundle: it is missing, no regular file, empty, too large, or cannot be read.
    """
    where = str(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a device's driver may act on being opened
            raise BadBundle("is no file", where=where, hint=MAKES_ONE)
        file = _File(path)
        found = os.fstat(file.handle)
    except FileNotFoundError as error:
        raise BadBundle("no such file", where=where, hint=MAKES_ONE) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadBundle(f"cannot be read ({reason})", where=where, hint=MAKES_ONE) from error
    if not stat.S_ISREG(found.st_mode):
        raise BadBundle("is no file", where=where, hint=MAKES_ONE)
    if found.st_size > LIMITS.file_bytes:
        raise BadBundle(
            f"of {found.st_size} bytes, a bundle has {LIMITS.file_bytes} at most",
            where=where,
            hint=MAKES_ONE,
        )
    if not found.st_size:
        raise BadBundle("the file is empty", where=where, hint="copy it again")
    return Window(file, found.st_size, where)

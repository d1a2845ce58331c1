"""A folder of results, each kept under what it was made from."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedl.core.errors import EdgeError, Unsupported

STALE_SECONDS = 24 * 3600
MEMORY = Path("/dev/shm")  # noqa: S108
DEFAULT_LIMIT_BYTES = 20 * 10**9


_in_memory: ContextVar[Path | None] = ContextVar("_in_memory", default=None)


def default_root() -> Path:
    """A folder in memory within `stored_in_memory`; else `$EDGEDL_STORE`, else `edgedl` in the
    user's cache folder."""
    if (folder := _in_memory.get()) is not None:
        return folder
    if "EDGEDL_STORE" in os.environ:
        return Path(os.environ["EDGEDL_STORE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgedl"


def key_of(**parts: Any) -> str:
    """A name for whatever the parts, plain JSON values, make together."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


# No room, a quota, or the largest file that a process may write.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Store:
    """Results in `root`, one folder a key.

    A result appears whole or not at all: it is made in a private folder beside its place and
    renamed into it. Two processes that make the same result both finish, and the first one's is
    kept. What a killed process leaves behind is removed a day later.
    """

    root: Path
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    def make(self, key: str, build: Callable[[Path], None]) -> Path:
        """The folder of `key`, made by `build(folder)` where it is not there yet.

        Raises:
            EdgeError: the store cannot be written.
        """
        import shutil
        import tempfile

        place = self.root / key[:2] / key
        if place.is_dir():
            with contextlib.suppress(OSError):
                os.utime(place)
            return place
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            work = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
        except OSError as error:
            raise self.unwritable(error) from error
        try:
            build(work)
            try:
                work.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
            self.tidy()
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise EdgeError(
                f"the store is full ({error.strerror})",
                where=str(self.root),
                hint="make room, or set EDGEDL_STORE to a folder elsewhere; what was made is kept",
            ) from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return place

    def unwritable(self, error: OSError) -> EdgeError:
        """The error of a store that nothing can be written into."""
        return EdgeError(
            f"the store cannot be written ({error.strerror})",
            where=str(self.root),
            hint="set EDGEDL_STORE to a folder that can",
        )

    def tidy(self) -> None:
        """Remove abandoned work, then the results longest unused, down to the size limit."""
        import shutil

        now = time.time()
        kept: list[tuple[float, int, Path]] = []
        for folder in self.root.glob("??/*"):
            with contextlib.suppress(OSError):
                age = now - folder.stat().st_mtime
                if folder.name.startswith(".making-"):
                    if age > STALE_SECONDS:
                        shutil.rmtree(folder, ignore_errors=True)
                    continue
                size = sum(path.stat().st_size for path in folder.iterdir())
                kept.append((age, size, folder))
        total = sum(size for _, size, _ in kept)
        for age, size, folder in sorted(kept, reverse=True):
            if total <= self.limit_bytes or age < 3600:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def default_store() -> Store:
    """The store that commands use where none is given."""
    return Store(default_root())


def is_stored_in_memory() -> bool:
    """Whether the default store is in memory, where what is secret may be written."""
    return _in_memory.get() is not None


@contextlib.contextmanager
def stored_in_memory() -> Iterator[None]:
    """Within, the default store is a folder in memory that nobody else may read; it goes at the
    end. What kills the process leaves it there until the machine is started again.

    Raises:
        Unsupported: the system has no such memory.
    """
    import shutil
    import tempfile

    try:
        folder = Path(tempfile.mkdtemp(prefix="edgedl-", dir=MEMORY))
    except OSError as error:
        raise Unsupported(
            f"nothing can be kept in memory alone ({error.strerror}: {MEMORY})",
            hint="name the bundle, or the ONNX file, that the encrypted one was made of",
        ) from error
    token = _in_memory.set(folder)
    try:
        yield
    finally:
        _in_memory.reset(token)
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path, *sources: object) -> None:
    """Find out, before the work is done, whether a file can be written.

    Args:
        sources: what the work reads; those that are paths must not be that file.

    Raises:
        EdgeError: it cannot, or what is read would be lost by it.
    """
    if path.is_dir():
        raise EdgeError("is a folder", where=str(path), hint="name a file in it")
    there = [Path(one) for one in sources if isinstance(one, (str, Path)) and Path(one).exists()]
    if path.exists() and any(path.samefile(one) for one in there):
        message, hint = "is read here, and would be lost", "-o with another name"
        raise EdgeError(message, where=str(path), hint=hint)
    with _beside(path) as work:
        work.touch(exist_ok=False)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    work = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        yield work
    except OSError as error:
        raise EdgeError(
            f"cannot be written ({error.strerror})",
            where=str(path),
            hint="name a file in a folder that exists and that you may write to",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            work.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    Raises:
        EdgeError: the file cannot be written: the folder is not there, or the disk is full.
    """
    check_writable(path)
    with _beside(path) as work:
        yield work
        work.replace(path)

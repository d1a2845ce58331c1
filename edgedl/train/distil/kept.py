"""A teacher's answers, computed once and kept: one file for each view of the samples."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgedl.core.errors import BadCheckpoint, BadValue, EdgeError
from edgedl.core.progress import Progress
from edgedl.core.store import atomic_write
from edgedl.core.units import format_bytes

# Batches after which a killed process goes on, and bytes that are read at once.
BLOCK, CHUNK = 32, 1 << 24


@dataclass(frozen=True, eq=False)
class Kept:
    """Rows of answers, in the files of the processes that computed them, one after the other.

    Attributes:
        maps: [rows, numbers] each.
        ends: how many rows there are up to the end of each.
    """

    maps: tuple[np.ndarray, ...]
    ends: tuple[int, ...]

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The answers at these places, read from the files."""
        if len(self.maps) == 1:
            return np.asarray(self.maps[0][places])
        found = np.empty((len(places), self.maps[0].shape[1]), self.maps[0].dtype)
        owners = np.searchsorted(self.ends, places, side="right")
        for owner, each in enumerate(self.maps):
            mine = owners == owner
            start = self.ends[owner - 1] if owner else 0
            found[mine] = each[places[mine] - start]
        return found


def compute(
    path: Path,
    parts: Sequence[np.ndarray],
    width: int,
    dtype: np.dtype[Any],
    ask: Callable[[int], Iterator[np.ndarray]],
    label: str,
    progress: Progress,
) -> None:
    """Make a file of answers, or the rest of it: a `.npy` file, and `.json` beside it, which says
    how much of it is done. Killed, it goes on after the last block of 32 batches.

    Another process that makes the same file is waited for.

    Args:
        parts: the places of each batch's samples; only how many matters.
        width: numbers in an answer.
        ask: gives the answers to the batches from this one on, [samples, width] each.

    Raises:
        BadCheckpoint: what is there is damaged.
        BadValue: an answer is not finite in this type.
        EdgeError: the file cannot be written, or has no room.
    """
    lengths = [len(part) for part in parts]
    header = _header(sum(lengths), width, dtype)
    row = width * dtype.itemsize
    with _alone(path):
        done, crc = _begun(path, header, lengths, row)
        if done == len(parts) and path.exists():
            return
        need = row * sum(lengths[done:])
        if need > (free := shutil.disk_usage(path.parent).free):
            raise _full(path, f"{format_bytes(need)} to come, {format_bytes(free)} are free")
        try:
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(len(header) + row * sum(lengths[:done]))
                file.write(header)
                file.seek(0, os.SEEK_END)
                answers = ask(done)
                while done < len(parts):
                    answer = next(answers)
                    data = np.ascontiguousarray(_narrowed(answer, dtype)).tobytes()
                    file.write(data)
                    crc, done = zlib.crc32(data, crc), done + 1
                    if done % BLOCK == 0 or done == len(parts):
                        _mark(path, file, done, crc)
                    progress(label, done, len(parts))
                if not parts:
                    _mark(path, file, 0, 0)
        except OSError as error:
            raise _full(path, error.strerror or "no room") from error


def opened(path: Path, rows: int, width: int, dtype: np.dtype[Any]) -> np.ndarray:
    """The answers of a finished file, mapped: [rows, width].

    Raises:
        BadCheckpoint: it is not whole, or not what was written.
    """
    mark = _marked(path)
    header = _header(rows, width, dtype)
    size = len(header) + rows * width * dtype.itemsize
    if not path.exists() or path.stat().st_size != size:
        raise _damaged(path, "its length is another one")
    if _crc(path, len(header), header) != mark["crc"]:
        raise _damaged(path, "it does not hold what was written")
    if not rows:
        return np.empty((0, width), dtype)
    # copied where it is written, which nobody does: torch warns of what is read-only
    return np.memmap(path, dtype, "c", len(header), (rows, width))


def _header(rows: int, width: int, dtype: np.dtype[Any]) -> bytes:
    file = BytesIO()
    document = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False,
                "shape": (rows, width)}  # fmt: skip
    np.lib.format.write_array_header_1_0(file, document)
    return file.getvalue()


def _begun(path: Path, header: bytes, lengths: Sequence[int], row: int) -> tuple[int, int]:
    """Batches that are done, and the checksum of their answers."""
    if not _beside(path).exists():
        return 0, 0
    mark = _marked(path)
    done = mark["done"]
    size = len(header) + row * sum(lengths[:done])
    if not path.exists() or path.stat().st_size < size:
        raise _damaged(path, "it is shorter than it was")
    if done < len(lengths) and _crc(path, len(header), header, size) != mark["crc"]:
        raise _damaged(path, "it does not hold what was written")
    return done, mark["crc"]


def _mark(path: Path, file: IO[bytes], done: int, crc: int) -> None:
    file.flush()
    os.fsync(file.fileno())
    with atomic_write(_beside(path)) as work:
        work.write_text(json.dumps({"done": done, "crc": crc}), encoding="utf-8")


def _marked(path: Path) -> dict[str, int]:
    try:
        found = json.loads(_beside(path).read_text("utf-8"))
        return {"done": int(found["done"]), "crc": int(found["crc"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"`{_beside(path).name}` cannot be read") from error


def _crc(path: Path, start: int, header: bytes, end: int | None = None) -> int | None:
    """The checksum of what follows the header; None where that is another one."""
    found = 0
    with path.open("rb") as file:
        if file.read(start) != header:
            return None
        left = (path.stat().st_size if end is None else end) - start
        while left and (data := file.read(min(CHUNK, left))):
            found, left = zlib.crc32(data, found), left - len(data)
    return found


def _narrowed(answer: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        found = answer.astype(dtype, copy=False)
    if np.isfinite(found).all():
        return found
    if np.isfinite(answer).all():
        raise BadValue(
            f"an answer of the teacher is {float(np.abs(answer).max()):.3g}, too large for {dtype}",
            keys=("kept",),
            hint="kept: float32",
        )
    raise BadValue(
        "an answer of the teacher is not finite",
        keys=("teacher",),
        hint="look for samples that are not finite, or take another teacher",
    )


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Once no other process makes the same file, which a process that dies no longer does."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock").open("w")
    except OSError as error:
        raise EdgeError(
            f"cannot be written ({error.strerror})",
            where=str(path.parent),
            hint="name a folder where you may write",
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _full(path: Path, said: str) -> EdgeError:
    return EdgeError(
        f"the teacher's answers cannot be kept ({said})",
        where=str(path),
        hint="make room and start again: what is there stays; or fewer `views`, or `kept: float16`",
    )


def _damaged(path: Path, said: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"the teacher's answers are damaged: {said}",
        where=str(path),
        hint=f"rm '{path.with_suffix('')}'.*  (they are computed anew)",
    )

"""Single members of archives, by their exact names: nothing else is written, wherever it points."""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edgedl.core.errors import BadSamples

BLOCK = 1 << 20
MOST_MEMBER = 1 << 30
ZIP = (".zip", ".whl", ".npz")


def unpack(archive: Path, wanted: Iterable[str], most: int = MOST_MEMBER) -> dict[str, bytes]:
    """The contents of these members of a zip, wheel or tar file.

    Names inside the archive are compared, never used as paths; only plain files are read, and no
    more of one than `most` bytes, whatever the archive says of its size.

    Raises:
        BadSamples: the archive is damaged, lacks one, or one is no plain file or too large.
    """
    names = set(wanted)
    found: dict[str, bytes] = {}
    try:
        for name, file in _members(archive, names):
            found[name] = _bounded(file, most, archive, name)
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, zlib.error,
            NotImplementedError, RuntimeError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:120]
        message = f"cannot be unpacked ({reason})"
        raise BadSamples(
            message, where=str(archive), hint="remove it, and fetch it anew"
        ) from error
    lacking = sorted(names - set(found))
    if lacking:
        message = f"the archive lacks the file `{lacking[0]}`"
        raise BadSamples(message, where=str(archive), hint="is it of the version that is pinned?")
    return found


def gunzip(path: Path, most: int = MOST_MEMBER) -> bytes:
    """The contents of a gzip file, no more than `most` bytes.

    Raises:
        BadSamples: the file is damaged, or larger.
    """
    try:
        with gzip.open(path) as file:
            return _bounded(file, most, path, path.name)
    except (OSError, EOFError, zlib.error) as error:
        message = f"cannot be unpacked ({error})"
        raise BadSamples(message, where=str(path), hint="remove it, and fetch it anew") from error


def _members(archive: Path, names: set[str]) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix.lower() in ZIP:
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if entry.filename in names and not entry.is_dir():
                    with zipped.open(entry) as file:
                        yield entry.filename, file
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name not in names:
                continue
            if not member.isreg():
                message = f"`{name}` is no plain file"
                raise BadSamples(message, where=str(archive), hint="do not use this archive")
            extracted = tar.extractfile(member)
            assert extracted is not None
            with contextlib.closing(extracted) as file:
                yield name, file


def _bounded(file: IO[bytes] | gzip.GzipFile, most: int, archive: Path, name: str) -> bytes:
    blocks: list[bytes] = []
    total = 0
    while block := file.read(BLOCK):
        total += len(block)
        if total > most:
            message = f"`{name}` holds more than {most} bytes"
            raise BadSamples(message, where=str(archive), hint="do not use this archive")
        blocks.append(block)
    return b"".join(blocks)

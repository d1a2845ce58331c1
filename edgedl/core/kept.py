"""Samples that are prepared once and read again many times."""

from __future__ import annotations

import contextlib
import os
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np

from edgedl.core.model import Signature
from edgedl.core.progress import Progress, silent
from edgedl.core.samples import Arrays, Samples, Source

MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class Place:
    """Where an array lies in the file, and what it is."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """A source whose prepared samples are kept in an unnamed temporary file, the first gigabyte.

    Memory holds where they lie. Where the file cannot grow, samples are prepared anew.
    """

    source: Source
    file: IO[bytes]
    places: dict[int, dict[str, Place]] = field(default_factory=dict)

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """That of the source."""
        return self.source.origin

    def __len__(self) -> int:
        return len(self.source)

    def bind(self, signature: Signature, rows: np.ndarray) -> Source:
        """The source, bound; what was kept is left behind."""
        return _keep(self.source.bind(signature, rows))

    def digest(self, rows: np.ndarray) -> str:
        """That of the source."""
        return self.source.digest(rows)

    def load(self, row: int) -> dict[str, np.ndarray]:
        """One sample, prepared: from the file where it is there."""
        if row in self.places:
            return {name: self._read(place) for name, place in self.places[row].items()}
        feed = self.source.prepare(self.source.load(row))
        with contextlib.suppress(OSError):
            self._write(row, feed)
        return feed

    def prepare(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same: it is prepared."""
        return raw

    def _read(self, place: Place) -> np.ndarray:
        array = np.empty(place.shape, place.dtype)
        self.file.seek(place.offset)
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(self.file.read(array.nbytes), np.uint8)
        return array

    def _write(self, row: int, feed: Mapping[str, np.ndarray]) -> None:
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in feed.values())
        offset = self.file.seek(0, os.SEEK_END)
        if offset + len(data) > MOST_BYTES or self.file.write(data) != len(data):
            return
        places = {}
        for name, array in feed.items():
            places[name] = Place(offset, array.dtype, array.shape)
            offset += array.nbytes
        self.places[row] = places


def kept(samples: Samples) -> Samples:
    """The same samples, each prepared once; those that lie in arrays are so already."""
    if isinstance(samples.source, Arrays):
        return samples
    return replace(samples, source=_keep(samples.source))


def read_ahead(samples: Samples, progress: Progress = silent) -> None:
    """Prepare samples now, as many as can be kept, so that a damaged file is named before any work
    is done on the others.

    Raises:
        BadSamples: one of them is damaged.
    """
    source = samples.source
    if not isinstance(source, Kept):
        return
    for i, row in enumerate(samples.rows):
        source.load(int(row))
        if int(row) not in source.places:
            return
        progress("reading samples", i + 1, len(samples))


def _keep(source: Source) -> Kept:
    # unbuffered: what could not be written must not be tried again when something is read
    file = tempfile.TemporaryFile(prefix="edgedl-samples-", buffering=0)  # noqa: SIM115
    found = Kept(source, file)
    weakref.finalize(found, file.close)
    return found

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


MOST_LAYOUTS = 100
Layout = tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...]


@dataclass(frozen=True, eq=False)
class Kept:
    """A source whose prepared samples are kept in an unnamed temporary file, the first gigabyte.

    Memory holds where they lie, in two arrays. Where the file cannot grow, samples are prepared
    anew.

    Attributes:
        offsets: of each row in the file, int64; -1 for one that is not there.
        numbers: of each row's layout, int8.
        layouts: names, types and shapes of a sample's arrays.
    """

    source: Source
    file: IO[bytes]
    offsets: np.ndarray
    numbers: np.ndarray
    layouts: list[Layout] = field(default_factory=list)

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
        if self.has(row):
            return self._read(int(self.offsets[row]), self.layouts[self.numbers[row]])
        feed = self.source.prepare(self.source.load(row))
        with contextlib.suppress(OSError):
            self._write(row, feed)
        return feed

    def prepare(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same: it is prepared."""
        return raw

    def has(self, row: int) -> bool:
        """Whether a row is kept."""
        return bool(self.offsets[row] >= 0)

    def _read(self, offset: int, layout: Layout) -> dict[str, np.ndarray]:
        self.file.seek(offset)
        feed = {}
        for name, dtype, shape in layout:
            feed[name] = array = np.empty(shape, dtype)
            data = self.file.read(array.nbytes)
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        return feed

    def _write(self, row: int, feed: Mapping[str, np.ndarray]) -> None:
        layout = tuple((name, array.dtype, array.shape) for name, array in feed.items())
        if layout not in self.layouts:
            if len(self.layouts) == MOST_LAYOUTS:
                return
            self.layouts.append(layout)
        data = b"".join(np.ascontiguousarray(array).tobytes() for array in feed.values())
        offset = self.file.seek(0, os.SEEK_END)
        if offset + len(data) > MOST_BYTES or self.file.write(data) != len(data):
            return
        self.offsets[row], self.numbers[row] = offset, self.layouts.index(layout)


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
        if not source.has(int(row)):
            return
        progress("reading samples", i + 1, len(samples))


def _keep(source: Source) -> Kept:
    # unbuffered: what could not be written must not be tried again when something is read
    file = tempfile.TemporaryFile(prefix="edgedl-samples-", buffering=0)  # noqa: SIM115
    count = len(source)
    found = Kept(source, file, np.full(count, -1, np.int64), np.zeros(count, np.int8))
    weakref.finalize(found, file.close)
    return found

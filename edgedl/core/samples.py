"""Samples: calibration, golden and timing inputs, from arrays or from files."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from edgedl.core.errors import BadSamples, nearest
from edgedl.core.model import Dimension, Signature, Tensor

LABELS = "labels"
BLOCK = 1 << 20


class Source(Protocol):
    """Where samples come from: arrays, or raw files that are opened when they are used."""

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """What opens the same source in another process, plain JSON; None for what lies in
        memory."""

    def __len__(self) -> int: ...

    def bind(self, signature: Signature, rows: np.ndarray) -> Source:
        """The source, checked against a model's inputs.

        Raises:
            BadSamples: it, or one of these rows, does not fit them.
        """

    def load(self, row: int) -> Any:
        """One sample as it lies there: read from its file and decoded."""

    def prepare(self, raw: Any) -> dict[str, np.ndarray]:
        """What the model takes, of what `load` gave."""

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of what these rows hold, not of where it lies."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The chosen `rows` of a source, as indices into it, and `labels`, one for each of its rows.

    `classes` are the names of the labels, where they have names.
    """

    source: Source
    labels: np.ndarray | None
    rows: np.ndarray
    where: str = "samples"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return (self.feed(i) for i in range(len(self)))

    def load(self, i: int) -> Any:
        """Sample `i` as it lies there: read and decoded, for `prepare`."""
        return self.source.load(int(self.rows[i]))

    def prepare(self, raw: Any) -> dict[str, np.ndarray]:
        """What the model takes, of what `load` gave: arrays of its own in the model's shapes."""
        return self.source.prepare(raw)

    def feed(self, i: int) -> dict[str, np.ndarray]:
        """Sample `i` as the model takes it, loaded and prepared: arrays by input, in the model's
        types and shapes.

        Raises:
            BadSamples: its file is missing or damaged, or it does not fit.
        """
        return self.prepare(self.load(i))

    def take(self, rows: Sequence[int] | np.ndarray) -> Samples:
        """The samples at these positions, without copying any."""
        return replace(self, rows=self.rows[np.asarray(rows, dtype=np.int64)])

    def origin(self, most: int) -> dict[str, Any] | None:
        """What opens the first of these samples in another process, plain JSON; None for what lies
        in memory."""
        origin = self.source.origin
        return None if origin is None else {**origin, "rows": self.rows[:most].tolist()}

    @property
    def chosen_labels(self) -> np.ndarray | None:
        """The labels of the chosen samples, in their order, [samples, ...]; None without any."""
        return None if self.labels is None else self.labels[self.rows]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every chosen sample and its label."""
        digest = hashlib.sha256(self.source.digest(self.rows).encode())
        if self.chosen_labels is not None:
            digest.update(np.ascontiguousarray(self.chosen_labels).tobytes())
        return digest.hexdigest()

    def split(self, sizes: Sequence[int], seed: int) -> list[Samples]:
        """Disjoint random groups of these sizes; the same seed gives the same groups."""
        order = np.random.default_rng(seed).permutation(len(self))
        ends = np.cumsum(sizes)
        return [
            self.take(np.sort(order[end - size : end]))
            for size, end in zip(sizes, ends, strict=True)
        ]

    def bind(self, signature: Signature) -> Samples:
        """These samples, checked against a model's inputs.

        Raises:
            BadSamples: a name, type, shape or length differs, or a value is not finite.
        """
        return replace(self, source=self.source.bind(signature, self.rows))


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays by input name, each with a leading sample axis.

    Once bound to a signature, `keeps_axis` says of each input whether a sample keeps its axis
    (rows i to i+1) or loses it (element i), as where the input has no batch axis, or each element
    is a whole input.
    """

    arrays: Mapping[str, np.ndarray]
    where: str = "samples"
    origin: Mapping[str, Any] | None = None
    keeps_axis: Mapping[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def load(self, row: int) -> dict[str, np.ndarray]:
        """One sample, copied out of the arrays."""
        return {
            name: np.array(
                array[row : row + 1] if self.keeps_axis[name] else array[row],
                dtype=array.dtype.newbyteorder("="),
                order="C",
            )
            for name, array in self.arrays.items()
        }

    def prepare(self, raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same: the arrays are what the model takes."""
        return raw

    def digest(self, rows: np.ndarray) -> str:
        """SHA-256 of names, types, shapes and values."""
        digest = hashlib.sha256()
        for name in sorted(self.arrays):
            array = self.arrays[name]
            digest.update(f"{name} {array.dtype} {array.shape[1:]} {len(rows)}".encode())
            for row in rows:
                digest.update(np.ascontiguousarray(array[int(row)]).tobytes())
        return digest.hexdigest()

    def bind(self, signature: Signature, rows: np.ndarray) -> Arrays:
        """The arrays in the order of the model's inputs.

        Raises:
            BadSamples: a name, type, shape or length differs, or a value is not finite.
        """
        expected = {tensor.name: tensor for tensor in signature.inputs}
        for name in self.arrays:
            if name not in expected:
                raise BadSamples(
                    f"array `{name}` is not an input of the model",
                    where=self.where,
                    hint=nearest(name, expected),
                )
        for name, tensor in expected.items():
            if name not in self.arrays:
                raise BadSamples(
                    f"no array for the model's input `{name}`",
                    where=self.where,
                    hint=f"save it under that name: np.savez('samples.npz', {name}=...)"
                    if name.isidentifier()
                    else f"the file has: {', '.join(self.arrays) or 'nothing'}",
                )
            self._fits(name, tensor)
        self._finite(rows)
        arrays = {name: self.arrays[name] for name in expected}
        keeps = {
            name: tensor.has_batch_axis and not _holds_whole(self.arrays[name], tensor)
            for name, tensor in expected.items()
        }
        return replace(self, arrays=arrays, keeps_axis=keeps)

    def _fits(self, name: str, tensor: Tensor) -> None:
        array = self.arrays[name]
        if array.dtype.name != tensor.dtype:
            raise BadSamples(
                f"array `{name}` is {array.dtype}, the model's input is {tensor.dtype}",
                where=self.where,
                hint=f"save it with `.astype('{tensor.dtype}')`"
                + (", scaled as in training" if array.dtype == np.uint8 else ""),
            )
        if tensor.shape is None:
            return
        given: tuple[int, ...] = array.shape[1:]
        drops = tensor.has_batch_axis and not _holds_whole(array, tensor)
        wanted = tensor.shape[1:] if drops else tensor.shape
        if not _fit(given, wanted):
            shape = ", ".join("?" if d is None else str(d) for d in wanted)
            raise BadSamples(
                f"a sample of `{name}` has shape ({', '.join(map(str, given))}),"
                f" the model takes ({shape})",
                where=self.where,
                hint=_way_to_fit(array.shape, wanted, tensor),
            )

    def _finite(self, rows: np.ndarray) -> None:
        for name, array in self.arrays.items():
            if not np.issubdtype(array.dtype, np.floating):
                continue
            for row in rows:
                if not np.isfinite(array[row]).all():
                    raise BadSamples(
                        f"sample {row} of `{name}` holds values that are not finite",
                        where=self.where,
                        hint="remove samples with NaN or infinity, or mend their pre-processing",
                    )


def _holds_whole(array: np.ndarray, tensor: Tensor) -> bool:
    """Whether each element of an array is a whole input, its first axis included: the array has an
    axis more, in front, than the input."""
    return tensor.shape is not None and array.ndim == len(tensor.shape) + 1


def _fit(given: Sequence[int], wanted: Sequence[Dimension]) -> bool:
    return len(given) == len(wanted) and all(
        not isinstance(dimension, int) or dimension == size
        for dimension, size in zip(wanted, given, strict=True)
    )


def _way_to_fit(given: Sequence[int], wanted: Sequence[Dimension], tensor: Tensor) -> str:
    """What to do with an array of this shape, whose samples have not the wanted one."""
    if _fit(given, wanted):
        return "it is one sample: save it as `x[None]`, since the first axis counts the samples"
    orders = permutations(range(1, len(given)))
    for order in orders if 2 < len(given) == len(wanted) + 1 < 6 else ():
        if _fit([given[axis] for axis in order], wanted):
            return f"are its axes in another order? `x.transpose{(0, *order)}`"
    whole = ", without its batch axis" if tensor.has_batch_axis else ""
    return "the array's first axis counts the samples, the others are the input's own" + whole


def from_arrays(
    arrays: Mapping[str, Any],
    *,
    where: str = "samples",
    origin: Mapping[str, Any] | None = None,
) -> Samples:
    """Samples from arrays in memory; `labels`, where given, is set apart.

    Raises:
        BadSamples: there are no samples, or the arrays disagree in length.
    """
    inputs = {name: array for name, array in arrays.items() if name != LABELS}
    labels = arrays.get(LABELS)
    hint = "np.savez('samples.npz', input=x): one array per model input, samples along axis 0"
    if not inputs:
        raise BadSamples("there are no input arrays", where=where, hint=hint)
    for name, array in inputs.items():
        if not array.shape:
            raise BadSamples(f"array `{name}` has no sample axis", where=where, hint=hint)
        if array.dtype.hasobject:
            raise BadSamples(f"array `{name}` holds Python objects", where=where, hint=hint)
    lengths = {name: array.shape[0] for name, array in inputs.items()}
    count = next(iter(lengths.values()))
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"`{name}` {length}" for name, length in lengths.items())
        raise BadSamples(f"arrays of unlike length: {listing}", where=where, hint=hint)
    if count == 0:
        raise BadSamples("there are no samples", where=where, hint="give at least one sample")
    if labels is not None and (not labels.shape or labels.shape[0] != count):
        length = labels.shape[0] if labels.shape else 0
        raise BadSamples(
            f"{length} labels for {count} samples", where=where, hint="one label a sample"
        )
    if labels is not None:
        labels = np.asarray(labels)
    return Samples(Arrays(inputs, where, origin), labels, np.arange(count), where)


def open_npz(path: str | Path) -> Samples:
    """The samples of an `.npz` file, read from disk as they are used.

    Raises:
        BadSamples: as `map_npz`, or the arrays are no samples.
    """
    path = Path(path)
    return from_arrays(map_npz(path), where=str(path), origin={"npz": str(path.resolve())})


def map_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file, of whatever lengths, read from disk as they are used.

    Uncompressed members are memory-mapped in place; compressed ones are unpacked once into an
    unnamed temporary file and mapped there. Pickled arrays are refused.

    Raises:
        BadSamples: the file is missing, damaged, or not an `.npz` file.
    """
    hint = "make one with np.savez('samples.npz', input=x)"
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            return {
                entry.filename.removesuffix(".npy"): _member(archive, entry, file)
                for entry in archive.infolist()
            }
    except FileNotFoundError as error:
        raise BadSamples("no such file", where=str(path), hint=hint) from error
    except IsADirectoryError as error:
        raise BadSamples("is a folder, not an .npz file", where=str(path), hint=hint) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise BadSamples(f"not a sound .npz file ({reason})", where=str(path), hint=hint) from error


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> np.ndarray:
    if entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1:
        file.seek(entry.header_offset)
        local = file.read(30)
        if local[:4] != b"PK\x03\x04":
            raise zipfile.BadZipFile("a member's header is damaged")
        name_length, extra_length = struct.unpack("<HH", local[26:30])
        start = entry.header_offset + 30 + name_length + extra_length
        return _map(file, start, entry.file_size)
    import tempfile

    with tempfile.TemporaryFile() as unpacked, archive.open(entry) as member:
        written = 0
        while block := member.read(BLOCK):
            written += len(block)
            if written > entry.file_size:
                raise zipfile.BadZipFile("a member is larger than it says")
            unpacked.write(block)
        unpacked.flush()
        return _map(unpacked, 0, written)


def _map(file: IO[bytes], start: int, size: int) -> np.ndarray:
    file.seek(start)
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("holds pickled Python objects, which are never read")
    offset = file.tell()
    length = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if length != size - (offset - start):
        raise ValueError("a member's length does not fit its shape")
    if length == 0:
        return np.empty(shape, dtype)
    return np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")

"""Weights that stay in their files, mapped: those beside an ONNX file, and large ones inside it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

LEAST_FILE_BYTES = 1 << 20
LEAST_WEIGHT_BYTES = 1 << 12

# Numbers of protobuf fields (onnx.proto3) and their wire types.
GRAPH, INITIALIZER, RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 7, 5, 9, 13, 14
VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5

Data = bytes | mmap.mmap


def without_weights(path: Path) -> bytes:
    """An ONNX file in whose graph large weights are named as external data of the file itself.

    Weights of 4 KiB and more in files of 1 MiB and more are not read at all, so that a model of
    2 GiB costs no memory until one of its weights is looked at. What is no sound protobuf message
    is given as it is, for its parser to tell why.

    Raises:
        OSError: the file cannot be read.
    """
    if path.stat().st_size < LEAST_FILE_BYTES:
        return path.read_bytes()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return b"".join(_model(data, path.name))
        except (ValueError, IndexError):
            return data[:]


def _model(data: Data, name: str) -> Iterator[bytes]:
    for number, kind, start, body, end in _fields(data, 0, len(data)):
        if (number, kind) == (GRAPH, DELIMITED):
            yield _delimited(GRAPH, b"".join(_graph(data, body, end, name)))
        else:
            yield data[start:end]


def _graph(data: Data, start: int, end: int, name: str) -> Iterator[bytes]:
    done = start
    for number, kind, begin, body, stop in _fields(data, start, end):
        if (number, kind) == (INITIALIZER, DELIMITED) and stop - body >= LEAST_WEIGHT_BYTES:
            yield data[done:begin]
            yield _delimited(INITIALIZER, b"".join(_tensor(data, body, stop, name)))
            done = stop
    yield data[done:end]


def _tensor(data: Data, start: int, end: int, name: str) -> Iterator[bytes]:
    place: dict[str, str] = {}
    for number, kind, begin, body, stop in _fields(data, start, end):
        if (number, kind) == (RAW_DATA, DELIMITED) and stop - body >= LEAST_WEIGHT_BYTES:
            place = {"location": name, "offset": str(body), "length": str(stop - body)}
        else:
            yield data[begin:stop]
    if place:
        # Behind what the tensor says of itself: of a field that is there twice, the last counts,
        # and a writer may have stated that its data is inside.
        for key, value in place.items():
            entry = _delimited(1, key.encode()) + _delimited(2, value.encode())
            yield _delimited(EXTERNAL_DATA, entry)
        yield _varint(DATA_LOCATION << 3 | VARINT) + _varint(1)


def _fields(data: Data, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Of every field of a message its number, wire type, start, start of its value, and end.

    Raises:
        ValueError, IndexError: the bytes are no message.
    """
    while at < end:
        start = at
        tag, at = _number(data, at)
        kind = tag & 7
        body = at
        if kind == VARINT:
            _, at = _number(data, at)
        elif kind in (FIXED_64, FIXED_32):
            at += 8 if kind == FIXED_64 else 4
        elif kind == DELIMITED:
            length, body = _number(data, at)
            at = body + length
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("truncated")
        yield tag >> 3, kind, start, body, at


def _number(data: Data, at: int) -> tuple[int, int]:
    """A variable-length integer, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def _delimited(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | DELIMITED) + _varint(len(body)) + body


class Mapped(ir.ExternalTensor):
    """A tensor in a file, which is mapped once for all of its tensors, and checked once."""

    __slots__ = ("_maps",)

    def __init__(self, tensor: ir.ExternalTensor, maps: dict[str, mmap.mmap]) -> None:
        super().__init__(
            tensor.location,
            tensor.offset,
            tensor.length,
            tensor.dtype,
            shape=tensor.shape,
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
            base_dir=tensor.base_dir,
        )
        self._maps = maps

    def _check_path_containment(self) -> None:
        """A link leads nowhere outside the model's folder. Other names of the file are no matter:
        models in the store share their weights."""
        base = os.path.realpath(self.base_dir or ".")
        real = os.path.realpath(self.path)
        if os.path.commonpath([base, real]) != base:
            raise ValueError(f"`{self.location}` lies outside the model's folder")

    def release(self) -> None:
        """Forget the array; the map belongs to the others as well."""
        self._array = self.raw = None

    def _load(self) -> None:
        if self.size == 0 or self.dtype.bitwidth < 8:
            super()._load()  # type: ignore[no-untyped-call]
            return
        path = self.path
        if path not in self._maps:
            self._check_path_containment()
            with Path(path).open("rb") as file:
                self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.raw = self._maps[path]
        dtype = np.dtype(self.dtype.numpy()).newbyteorder("<")
        array = np.frombuffer(self.raw, dtype, count=self.size, offset=self.offset or 0)
        self._array = array.reshape(self.shape.numpy())


def keep_mapped(graph: ir.Model) -> None:
    """Let all external weights of a graph, and of its bodies, share one map of each file."""
    maps: dict[str, mmap.mmap] = {}
    for one in (graph.graph, *graph.graph.subgraphs()):
        for value in one.initializers.values():
            if type(value.const_value) is ir.ExternalTensor:
                value.const_value = Mapped(value.const_value, maps)

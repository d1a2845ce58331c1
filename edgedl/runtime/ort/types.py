"""Which reduced types an ONNX graph holds, told without any ONNX library."""

from __future__ import annotations

import mmap
from pathlib import Path

from edgedl.runtime.expand import (
    ATTRIBUTE,
    ATTRIBUTE_INT,
    DTYPE,
    GRAPH,
    INITIALIZER,
    NODE,
    OPERATOR,
    fields,
)

# TensorProto.DataType of onnx.proto3.
TYPES = {3: "int8", 2: "int8", 10: "float16", 16: "bf16"}
QUANTIZERS = (b"QuantizeLinear", b"DequantizeLinear")


def types_in(model: bytes | str | Path) -> frozenset[str]:
    """`int8` where there are quantizers; `float16` and `bf16` where constants or casts have them.

    A file that is no ONNX model has none; its engine says what is wrong with it.
    """
    try:
        if isinstance(model, bytes):
            return _types(memoryview(model))
        with (
            Path(model).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _types(memoryview(bytes(data)))
    except (IndexError, OSError, TypeError, ValueError):
        return frozenset()


def _types(data: memoryview) -> frozenset[str]:
    found: set[str] = set()
    for graph in (value for number, value, _ in fields(data) if number == GRAPH):
        for number, value, _ in fields(_bytes(graph)):
            if number == INITIALIZER:
                found |= {TYPES.get(kind, "") for kind in _numbers(_bytes(value), DTYPE)} - {"int8"}
            elif number == NODE:
                found |= _of_node(_bytes(value))
    return frozenset(found - {""})


def _of_node(node: memoryview) -> set[str]:
    parts = list(fields(node))
    operator = next((bytes(_bytes(v)) for n, v, _ in parts if n == OPERATOR), b"")
    if operator in QUANTIZERS:
        return {"int8"}
    if operator != b"Cast":
        return set()
    attributes = [_bytes(value) for number, value, _ in parts if number == ATTRIBUTE]
    return {TYPES.get(to, "") for one in attributes for to in _numbers(one, ATTRIBUTE_INT)} - {
        "int8"
    }


def _numbers(message: memoryview, wanted: int) -> list[int]:
    return [v for n, v, _ in fields(message) if n == wanted and isinstance(v, int)]


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a number in place of bytes")
    return value

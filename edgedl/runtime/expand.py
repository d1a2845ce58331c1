"""Weights stored in 8 bits taken out of an ONNX file and expanded, without any ONNX library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# Field numbers of onnx.proto3, and the types of its tensors.
GRAPH = 7
NODE, INITIALIZER, INPUT, OUTPUT = 1, 5, 11, 12
INPUTS, OUTPUTS, OPERATOR, ATTRIBUTE, DOMAIN = 1, 2, 4, 5, 7
ATTRIBUTE_INT, ATTRIBUTE_GRAPHS = 3, (6, 11)
DIMS, DTYPE, NAME, RAW = 1, 2, 8, 9
FLOAT, INT8, INT32, EXTERNAL = 1, 3, 6, 1
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
CAST = bytes([OPERATOR << 3 | LENGTH, 4]) + b"Cast"

Field = tuple[int, int | memoryview, memoryview]


@dataclass(frozen=True)
class _Node:
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    to: int | None
    plain: bool


@dataclass(frozen=True)
class _Tensor:
    dtype: int
    shape: tuple[int, ...]
    raw: memoryview | None

    def array(self, dtype: str) -> np.ndarray | None:
        """Its values, None where they are not stored as raw bytes of this shape."""
        size = math.prod(self.shape) * np.dtype(dtype).itemsize
        if self.raw is None or len(self.raw) != size or min(self.shape, default=0) < 0:
            return None
        return np.frombuffer(self.raw, dtype).reshape(self.shape)


def expand(model: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """A model whose stored weights are external initializers, and these by name as float32.

    What the pass `weight_only` wrote is looked for: a constant of int8 that a Cast to int32, a Cast
    to float32 and a Mul by a constant of float32 expand. An engine that folds these makes three
    arrays of four bytes a weight, and copies them; here it is one, computed alike to the bit.
    Whatever else there is stays as it is; a model with bodies (`If`, `Loop`), without such weights
    or of unknown structure is given back, with no weights.
    """
    try:
        return _expanded(memoryview(model)) or (model, {})
    except (IndexError, TypeError, ValueError):
        return model, {}


def _expanded(data: memoryview) -> tuple[bytes, dict[str, np.ndarray]] | None:
    model = list(fields(data))
    graphs = [value for number, value, _ in model if number == GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        return None
    graph = list(fields(graphs[0]))
    if not any(number == NODE and CAST in bytes(whole) for number, _, whole in graph):
        return None
    nodes = {i: _node(_bytes(value)) for i, (n, value, _) in enumerate(graph) if n == NODE}
    if not all(node.plain for node in nodes.values()):
        return None
    found = [
        (i, _tensor(_bytes(value))) for i, (n, value, _) in enumerate(graph) if n == INITIALIZER
    ]
    tensors = {name: (i, tensor) for i, (name, tensor) in found}
    used = Counter(name for node in nodes.values() for name in node.inputs)
    ends = [_bytes(value) for number, value, _ in graph if number in (INPUT, OUTPUT)]
    used.update(_name(one, 1) for one in ends)
    made = {node.outputs[0]: i for i, node in nodes.items() if len(node.outputs) == 1}
    weights: dict[str, np.ndarray] = {}
    gone: set[int] = set()
    for i, node in nodes.items():
        steps = _steps(i, nodes, made)
        if steps is None or any(used[nodes[step].outputs[0]] != 1 for step in steps[1:]):
            continue
        names = nodes[steps[-1]].inputs[0], node.inputs[1]
        if any(name not in tensors or used[name] != 1 for name in names):
            continue
        array = _product(*(tensors[name][1] for name in names))
        if array is not None and node.outputs[0] not in tensors:
            weights[node.outputs[0]] = array
            gone |= {*steps, *(tensors[name][0] for name in names)}
    if not weights:
        return None
    kept = [whole for i, (_, _, whole) in enumerate(graph) if i not in gone]
    placed = [_message(INITIALIZER, _external(name, array)) for name, array in weights.items()]
    edited = _message(GRAPH, b"".join([*kept, *placed]))
    parts = [edited if number == GRAPH else whole for number, _, whole in model]
    return b"".join(parts), weights


def _steps(last: int, nodes: dict[int, _Node], made: dict[str, int]) -> tuple[int, int, int] | None:
    """The Mul, the Cast to float32 before it and the Cast to int32 before that."""
    node = nodes[last]
    if node.operator != "Mul" or len(node.inputs) != 2 or len(node.outputs) != 1:
        return None
    real = made.get(node.inputs[0], last)
    if nodes[real].operator != "Cast" or nodes[real].to != FLOAT:
        return None
    wide = made.get(nodes[real].inputs[0], last)
    if nodes[wide].operator != "Cast" or nodes[wide].to != INT32:
        return None
    return last, real, wide


def _product(codes: _Tensor, scales: _Tensor) -> np.ndarray | None:
    if (codes.dtype, scales.dtype) != (INT8, FLOAT):
        return None
    small, factors = codes.array("<i1"), scales.array("<f4")
    if small is None or factors is None:
        return None
    if np.broadcast_shapes(codes.shape, scales.shape) != codes.shape:
        return None
    array = np.empty(codes.shape, np.float32)
    np.multiply(small, factors, out=array, dtype=np.float32, casting="unsafe")
    return array


def fields(data: memoryview) -> Iterator[Field]:
    """Number, value and all bytes of each field of a message, by the wire format of Protocol
    Buffers; the value of a field of fixed width is its bytes.

    Raises:
        ValueError: the bytes are no message.
    """
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        wire = key & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(wire, 0)
            if wire == LENGTH:
                size, at = _varint(data, at)
            elif not size:
                raise ValueError(f"a field of wire type {wire}")
            value = data[at : at + size]
            at += size
        if at > len(data):
            raise ValueError("a field ends beyond its message")
        yield key >> 3, value, data[start:at]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("a message was expected")
    return value


def _text(value: int | memoryview) -> str:
    return str(_bytes(value), "utf-8")


def _name(message: memoryview, number: int) -> str:
    return next((_text(value) for n, value, _ in fields(message) if n == number), "")


def _node(message: memoryview) -> _Node:
    """A node; it is not plain where it has a body."""
    operator, domain, inputs, outputs = "", "", [], []
    to, plain = None, True
    for number, value, _ in fields(message):
        if number == INPUTS:
            inputs.append(_text(value))
        elif number == OUTPUTS:
            outputs.append(_text(value))
        elif number == OPERATOR:
            operator = _text(value)
        elif number == DOMAIN:
            domain = _text(value)
        elif number == ATTRIBUTE:
            for inner, held, _ in fields(_bytes(value)):
                plain = plain and inner not in ATTRIBUTE_GRAPHS
                if inner == ATTRIBUTE_INT and isinstance(held, int):
                    to = held
    own = domain in ("", "ai.onnx")
    return _Node(operator if own else "", tuple(inputs), tuple(outputs), to, plain)


def _tensor(message: memoryview) -> tuple[str, _Tensor]:
    name, dtype, raw = "", 0, None
    shape: list[int] = []
    for number, value, _ in fields(message):
        if number == NAME:
            name = _text(value)
        elif number == DTYPE and isinstance(value, int):
            dtype = value
        elif number == RAW:
            raw = _bytes(value)
        elif number == DIMS:
            shape += [value] if isinstance(value, int) else _packed(value)
    return name, _Tensor(dtype, tuple(shape), raw)


def _packed(data: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        found.append(value)
    return found


def _external(name: str, array: np.ndarray) -> bytes:
    """A TensorProto whose data lies elsewhere: dims, data_type, name, external_data and
    data_location."""
    entries = {"location": "expanded", "offset": "0", "length": str(array.nbytes)}
    pairs = [_message(1, k.encode()) + _message(2, v.encode()) for k, v in entries.items()]
    return b"".join(
        [
            *(_number(DIMS, size) for size in array.shape),
            _number(DTYPE, FLOAT),
            _message(NAME, name.encode()),
            *(_message(13, pair) for pair in pairs),
            _number(14, EXTERNAL),
        ]
    )


def _number(number: int, value: int) -> bytes:
    return _as_varint(number << 3 | VARINT) + _as_varint(value)


def _message(number: int, content: bytes) -> bytes:
    return _as_varint(number << 3 | LENGTH) + _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])

"""Whether a model's bytes are an ONNX file that names nothing outside of itself.

Engines that are given bytes still open the files that external data names, beside the process's
working directory, and OpenVINO takes one such name for an address in memory. So bytes are looked
at before an engine sees them, without any ONNX library: wire format and field numbers are those of
Protocol Buffers and of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

# An entry of external data is found under this key; without it, no engine has a name to open.
# These messages are always looked through, others where it stands somewhere in them.
KEY, ALWAYS = b"location", ("model", "graph", "tensor")
# A node of onnxruntime's that holds what an engine compiled, or names a file that does.
CONTEXT, OPERATOR = b"EPContext", 4
MOST_FIELDS = 1 << 22
# What stands at byte 4 of onnxruntime's own format and of TensorFlow Lite's.
OTHERS, OTHERS_AT = (b"ORTM", b"TFL3"), slice(4, 8)
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
FIXED = {FIXED64: 8, FIXED32: 4}
MOST_VARINT_BYTES = 10
EXTERNAL_DATA, DATA_LOCATION = 13, 14
# The fields of each message that hold messages in which a tensor may lie.
INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}

Field = tuple[int, int | memoryview]


def refuse_outward(model: bytes) -> None:
    """Pass an ONNX file's bytes that name no data outside of them.

    Raises:
        ValueError: they do, or are no ONNX file; what they are, in words.
    """
    if bytes(model[OTHERS_AT]) in OTHERS:
        raise ValueError("is a file of another kind than ONNX")
    left = MOST_FIELDS
    waiting = [("model", memoryview(model))]
    while waiting:
        kind, message = waiting.pop()
        if kind not in ALWAYS and not _speaks(bytes(message)):
            continue
        inside = INSIDE[kind]
        for number, value in _fields(message):
            left -= 1
            if kind == "tensor" and (
                number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)
            ):
                raise ValueError("names data outside of it, which no engine is to open")
            if not left:
                raise ValueError(f"has more than {MOST_FIELDS} fields")
            if isinstance(value, int):
                continue
            if (kind, number) == ("node", OPERATOR) and value.tobytes() == CONTEXT:
                raise ValueError("holds what an engine compiled in place of a model")
            if number in inside:
                waiting.append((inside[number], value))


def _speaks(message: bytes) -> bool:
    return KEY in message or CONTEXT in message


def _fields(message: memoryview) -> Iterator[Field]:
    """Number and value of each field of a message.

    Raises:
        ValueError: it is none. Groups, which ONNX never had, are refused, too.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        wire = tag & 7
        value: int | memoryview
        if wire == VARINT:
            value, at = _varint(message, at)
        else:
            size = FIXED.get(wire, -1)
            if wire == LENGTH:
                size, at = _varint(message, at)
            if not 0 <= size <= end - at:
                raise ValueError("is no ONNX file")
            value, at = message[at : at + size], at + size
        if not 0 < tag >> 3 < 1 << 29:
            raise ValueError("is no ONNX file")
        yield tag >> 3, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    for byte in message[at : at + MOST_VARINT_BYTES]:
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("is no ONNX file")

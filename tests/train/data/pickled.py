"""Pickles of data frames, written operation by operation, as an old pandas wrote them."""

from __future__ import annotations

import struct

import numpy as np

NONE = b"N"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def truth(value: bool) -> bytes:
    return b"I01\n" if value else b"I00\n"


def group(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def listed(*parts: bytes) -> bytes:
    return b"](" + b"".join(parts) + b"e"


def keyed(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + group(*arguments) + b"R"


def built(thing: bytes, state: bytes) -> bytes:
    return thing + state + b"b"


def data(value: bytes) -> bytes:
    return called(name("_codecs", "encode"), text(value.decode("latin1")), text("latin1"))


def new_array(shape: bytes, kind: bytes, fortran: bool, contents: bytes) -> bytes:
    bare = called(name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"),
                  group(number(0)), data(b"b"))  # fmt: skip
    return built(bare, group(number(1), shape, kind, truth(fortran), contents))


def kind_of(letter: str, order: str) -> bytes:
    bare = called(name("numpy", "dtype"), text(letter), number(0), number(1))
    return built(bare, group(number(3), text(order), NONE, NONE, NONE,
                             number(-1), number(-1), number(0)))  # fmt: skip


def array(values: np.ndarray, fortran: bool = False) -> bytes:
    shape = group(*map(number, values.shape))
    contents = data(values.tobytes(order="F" if fortran else "C"))
    return new_array(shape, kind_of(values.dtype.str[1:], "<"), fortran, contents)


def new(module: str, attribute: str) -> bytes:
    return called(name("copy_reg", "_reconstructor"), name(module, attribute),
                  name("__builtin__", "object"), NONE)  # fmt: skip


def frame(columns: dict[str, np.ndarray], fortran: bool = False) -> bytes:
    """A frame of two blocks: columns of floats, then those of whole numbers."""
    names = list(columns)
    floats = [key for key in names if columns[key].dtype.kind == "f"]
    assert names[: len(floats)] == floats
    index = called(
        name("pandas.core.indexes.base", "_new_Index"),
        name("pandas.core.indexes.base", "Index"),
        keyed(
            (text("data"), new_array(group(number(len(names))), kind_of("O8", "|"), False,
                                     listed(*map(text, names)))),
            (text("name"), NONE),
        ),
    )  # fmt: skip
    rows = called(
        name("pandas.core.indexes.base", "_new_Index"),
        name("pandas.core.indexes.range", "RangeIndex"),
        keyed((text("start"), number(0))),
    )
    blocks = []
    for start, chosen in ((0, floats), (len(floats), names[len(floats) :])):
        if chosen:
            values = np.stack([columns[key] for key in chosen])
            places = called(name("__builtin__", "slice"), number(start),
                            number(start + len(chosen)), number(1))  # fmt: skip
            blocks.append(keyed((text("values"), array(values, fortran)),
                                (text("mgr_locs"), places)))  # fmt: skip
    detail = keyed((text("axes"), listed(index, rows)), (text("blocks"), listed(*blocks)))
    state = group(listed(), listed(), listed(), keyed((text("0.14.1"), detail)))
    manager = built(new("pandas.core.internals.managers", "BlockManager"), state)
    return built(new("pandas.core.frame", "DataFrame"), keyed((text("_data"), manager)))


def document(frames: dict[int, list[bytes]]) -> bytes:
    return keyed(*((number(key), listed(*value)) for key, value in frames.items())) + b"."

"""Data frames of an old pandas in a pickle, read without running any of it.

A pickle is a program for a stack machine (Python's `pickletools` describes its operations). Here a
few of them are carried out on plain values: what a pickle names is never looked up or called, only
compared with the names that a data frame of numbers needs, and arrays are made by numpy from their
bytes. Anything else is refused.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgedl.core.errors import BadSamples

FRAME = "pandas.core.frame DataFrame"
MANAGER = "pandas.core.internals.managers BlockManager"
INDEX = "pandas.core.indexes.base Index"
RANGE = "pandas.core.indexes.range RangeIndex"
NEW_INDEX = "pandas.core.indexes.base _new_Index"
NEW_ARRAY = "numpy.core.multiarray _reconstruct"
NEW = "copy_reg _reconstructor"
ARRAY, DTYPE = "numpy ndarray", "numpy dtype"
ENCODE = "_codecs encode"
OBJECT, SLICE = "__builtin__ object", "__builtin__ slice"
KNOWN = frozenset({
    FRAME, MANAGER, INDEX, RANGE, NEW_INDEX, NEW_ARRAY, NEW, ARRAY, DTYPE, ENCODE, OBJECT, SLICE,
})  # fmt: skip
NUMBERS = frozenset({"f8", "f4", "i8", "i4", "i2", "i1", "u1"})


@dataclass(frozen=True)
class Name:
    """Something that a pickle names; it stays a name."""

    path: str


@dataclass(eq=False)
class Made:
    """What a pickle would have called, with which arguments, and the state it would have set."""

    path: str
    arguments: tuple[Any, ...]
    state: Any = field(default=None)


class _Mark:
    """Where a group of values begins on the stack."""


def read_frames(content: bytes, where: str) -> dict[Any, list[dict[str, np.ndarray]]]:
    """Lists of data frames by key: of each frame its columns, by name.

    Raises:
        BadSamples: it is not such a pickle, or names something that a frame does not need.
    """
    try:
        document = _run(content)
        if not isinstance(document, dict):
            raise _no(f"a {type(document).__name__}, not frames by key")
        return {key: [_frame(frame) for frame in frames] for key, frames in document.items()}
    except BadSamples as error:
        raise BadSamples(error.message, where=where, hint=error.hint) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, UnicodeError) as error:
        message = f"is no pickle of data frames ({type(error).__name__}: {str(error)[:100]})"
        raise BadSamples(message, where=where, hint="remove it, and fetch it anew") from error


def _run(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for operation, argument, _ in pickletools.genops(content):
        name = operation.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            [found] = stack
            return found
        if name == "MARK":
            stack.append(_Mark())
        elif name == "GLOBAL":
            stack.append(_known(str(argument)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "INT"):
            stack.append(argument)
        elif name in _SIMPLE:
            stack.append(_SIMPLE[name]())
        elif name in _GROUPS:
            _GROUPS[name](stack)
        else:
            raise _no(f"the operation {name}")
    raise _no("no end")


def _known(path: str) -> Name:
    if path not in KNOWN:
        raise _no(f"the name `{path}`")
    return Name(path)


def _group(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, taken off the stack with it."""
    places = (i for i in range(len(stack) - 1, -1, -1) if isinstance(stack[i], _Mark))
    place = next(places, None)
    if place is None:
        raise _no("a group without a beginning")
    found = stack[place + 1 :]
    del stack[place:]
    return found


def _tuple(stack: list[Any]) -> None:
    stack.append(tuple(_group(stack)))


def _appends(stack: list[Any]) -> None:
    values = _group(stack)
    _of(stack[-1], list).extend(values)


def _set_items(stack: list[Any]) -> None:
    values = _group(stack)
    _of(stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))


def _set_item(stack: list[Any]) -> None:
    value, key = stack.pop(), stack.pop()
    _of(stack[-1], dict)[key] = value


def _reduce(stack: list[Any]) -> None:
    arguments, function = stack.pop(), stack.pop()
    path = _of(function, Name).path
    values = _of(arguments, tuple)
    if path == ENCODE:
        text, coding = values
        if coding != "latin1":
            raise _no(f"text in `{coding}`")
        stack.append(text.encode("latin1"))
    else:
        stack.append(Made(path, values))


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    _of(stack[-1], Made).state = state


_SIMPLE: dict[str, Any] = {
    "NONE": lambda: None, "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_GROUPS: dict[str, Any] = {
    "TUPLE": _tuple, "APPENDS": _appends, "SETITEMS": _set_items, "SETITEM": _set_item,
    "REDUCE": _reduce, "BUILD": _build,
}  # fmt: skip


def _of(value: Any, kind: type[Any]) -> Any:
    if not isinstance(value, kind):
        raise _no(f"a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _frame(value: Any) -> dict[str, np.ndarray]:
    """The columns of a frame: a manager of blocks, each some of the columns, row by row."""
    frame = _new(value, FRAME)
    manager = _new(frame.state["_data"], MANAGER)
    detail = manager.state[3]["0.14.1"]
    names = [str(name) for name in _index(detail["axes"][0])]
    found: dict[str, np.ndarray] = {}
    for block in detail["blocks"]:
        values = _array(block["values"])
        for row, place in enumerate(_places(block["mgr_locs"])):
            found[names[place]] = values[row]
    if set(found) != set(names) or len({len(column) for column in found.values()}) > 1:
        raise _no("columns that do not fit together")
    return {name: found[name] for name in names}


def _new(value: Any, path: str) -> Made:
    made = _of(value, Made)
    if made.path != NEW or made.arguments[0] != Name(path):
        raise _no(f"a `{made.path}` where a `{path}` belongs")
    return made  # type: ignore[no-any-return]


def _index(value: Any) -> list[Any]:
    made = _of(value, Made)
    if made.path != NEW_INDEX or made.arguments[0] != Name(INDEX):
        raise _no("columns without names")
    data = _of(made.arguments[1]["data"], Made)
    if data.path != NEW_ARRAY:
        raise _no("names that are no array")
    return list(_of(data.state[4], list))


def _places(value: Any) -> range:
    made = _of(value, Made)
    if made.path != SLICE:
        raise _no("columns in no order")
    start, stop, step = made.arguments
    return range(int(start), int(stop), int(step or 1))


def _array(value: Any) -> np.ndarray:
    """An array of numbers, from its shape, type, order and bytes."""
    made = _of(value, Made)
    if made.path != NEW_ARRAY:
        raise _no("values that are no array")
    _, shape, kind, fortran, data = made.state
    dtype = _of(kind, Made)
    letter = dtype.arguments[0]
    if dtype.path != DTYPE or letter not in NUMBERS or dtype.state[1] not in ("<", "|"):
        raise _no(f"an array of `{letter}`")
    flat = np.frombuffer(_of(data, bytes), "<" + letter)
    sizes = tuple(int(size) for size in shape)
    if int(np.prod(sizes, dtype=object)) != flat.size:
        raise _no("an array of another size than its bytes")
    return flat.reshape(sizes, order="F" if fortran else "C")


def _no(what: str) -> BadSamples:
    return BadSamples(f"the pickle holds {what}, and is not read", hint="only frames of numbers")

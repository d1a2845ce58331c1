"""JSON numbers as arrays, exactly or not at all."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from edgedl.core.errors import BadRequest
from edgedl.service.contract import Slot

TAKEN: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "true and false"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "f": (frozenset({int, float}), "numbers"),
}


def from_json(data: Any, slot: Slot, shape: tuple[int, ...]) -> np.ndarray:
    """`data`, a list that is flat or nested as `shape`, in the slot's type.

    Raises:
        BadRequest: it is of another shape, or holds what the type cannot.
    """
    name = f"`data` of input `{slot.name}`"
    flat = _flat(data, shape, name)
    kinds, what = TAKEN[slot.dtype.kind]
    for kind in set(map(type, flat)) - kinds:
        _refuse(f"{name} holds {_said(kind)}, {slot.datatype} takes {what}")
    array = _whole(flat, slot, name) if slot.dtype.kind in "iu" else _numbers(flat, slot, name)
    return array.reshape(shape)


def _refuse(message: str) -> NoReturn:
    raise BadRequest(message)


def _said(kind: type) -> str:
    words = {dict: "an object", str: "text", list: "lists of different lengths", bool: "booleans"}
    return words.get(kind, "null" if kind is type(None) else f"a {kind.__name__}")


def _flat(data: Any, shape: tuple[int, ...], name: str) -> list[Any]:
    """The values in row-major order."""
    if not isinstance(data, list):
        _refuse(f"{name} is not a list")
    count = math.prod(shape)
    if len(data) == count and (not data or not isinstance(data[0], list)):
        return data
    level: list[Any] = [data]
    for size in shape:
        if not all(isinstance(entry, list) and len(entry) == size for entry in level):
            _refuse(f"{name} is neither a flat list of {count} values nor nested as {list(shape)}")
        level = [value for entry in level for value in entry]
    if not shape:
        _refuse(f"{name} has {len(data)} values, a scalar has one")
    return level


def _whole(flat: list[Any], slot: Slot, name: str) -> np.ndarray:
    bounds = np.iinfo(slot.dtype)
    for value in (min(flat, default=0), max(flat, default=0)):
        if not bounds.min <= value <= bounds.max:
            _refuse(f"{name} holds {str(value)[:40]}, which {slot.datatype} cannot")
    return np.array(flat, slot.dtype)


def _numbers(flat: list[Any], slot: Slot, name: str) -> np.ndarray:
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, slot.dtype)
    except OverflowError:
        _refuse(f"{name} holds a number that {slot.datatype} cannot")
    if slot.dtype.kind == "f" and not np.isfinite(array).all():
        _refuse(f"{name} holds a number that {slot.datatype} cannot")
    return array

"""Frozen dataclasses from plain data that a person wrote, and back."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgedl.core.errors import BadValue, nearest

T = TypeVar("T")
Keys = tuple[str | int, ...]
FRACTION = re.compile(r"\s*([+-]?\d{1,15}(?:\.\d{1,15})?)\s*/\s*(\d{1,15}(?:\.\d{1,15})?)\s*")
WANTED = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def from_plain(kind: type[T], document: Any, *, also: Iterable[str] = ()) -> T:
    """A dataclass from a mapping of its fields, as JSON and YAML give it.

    Fields may be int, float, bool, str, a Literal of texts, a dataclass, a tuple of these, and
    None beside any of them. A number may be written as a fraction, `1/255`. Where a tuple is
    wanted, a value that is no list stands for a tuple of one, or for each entry of a tuple of
    fixed length. Where one of several dataclasses is wanted, the document's `name` says which:
    each has a field `name`, a Literal, and one of them may take names like `module:callable`, a
    str. There, a word alone stands for `{name: word}`.

    Args:
        also: keys that somebody else has read; they are named to who misspells one.

    Raises:
        BadValue: a key is unknown or missing, a value has another type, or the class refuses it;
            `keys` says which.
    """
    return _dataclass(kind, document, (), tuple(also))


def value_from_plain(kind: Any, document: Any) -> Any:
    """The same for any type that a field may have, such as a tuple of one of several dataclasses.

    Raises:
        BadValue: as `from_plain` does.
    """
    return _value(kind, document, ())


def to_plain(value: Any) -> Any:
    """The same value as JSON has it, every field named: what `from_plain` reads."""
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple):
        return [to_plain(entry) for entry in value]
    return value


def _dataclass(kind: type[T], document: Any, keys: Keys, also: tuple[str, ...] = ()) -> T:
    if not isinstance(document, Mapping):
        raise BadValue(f"{_named(keys)} wants keys with values, not {_shown(document)}", keys=keys)
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in document:
        if key not in fields:
            hint = nearest(str(key), [*fields, *also])
            raise BadValue(f"unknown key `{key}`", keys=(*keys, key), hint=hint)
    for name, field in fields.items():
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in document and not optional:
            raise BadValue(f"{_named(keys)} lacks `{name}`", keys=keys, hint=f"add `{name}: ...`")
    values = {name: _value(hints[name], value, (*keys, name)) for name, value in document.items()}
    try:
        return kind(**values)
    except BadValue as error:
        raise error.under(keys) from None


def _value(wanted: Any, value: Any, keys: Keys) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        kinds = tuple(argument for argument in arguments if argument is not NoneType)
        return _value(kinds[0], value, keys) if len(kinds) == 1 else _one_of(kinds, value, keys)
    if origin is Literal:
        return _choice(arguments, value, keys)
    if origin is tuple:
        return _tuple(arguments, value, keys)
    if dataclasses.is_dataclass(wanted):
        if isinstance(value, str) and get_origin(get_type_hints(wanted).get("name")) is Literal:
            value = {"name": value}
        return _dataclass(wanted, value, keys)  # type: ignore[arg-type]
    if wanted is float:
        return _number(value, keys)
    if type(value) is not wanted:
        hint = "put it between quotes" if wanted is str else None
        raise BadValue(f"{_named(keys)} wants {WANTED[wanted]}, not {_shown(value)}", keys=keys,
                       hint=hint)  # fmt: skip
    return value


def _one_of(kinds: tuple[Any, ...], value: Any, keys: Keys) -> Any:
    """That of several dataclasses which the document names."""
    hints = {kind: get_type_hints(kind)["name"] for kind in kinds}
    known = {word: kind for kind, hint in hints.items() for word in get_args(hint)}
    document = {"name": value} if isinstance(value, str) else value
    if not isinstance(document, Mapping):
        raise BadValue(
            f"{_named(keys)} wants a name, or keys with values, not {_shown(value)}",
            keys=keys,
            hint=f"known: {', '.join(known)}",
        )
    if "name" not in document:
        hint = f"name: one of {', '.join(known)}"
        raise BadValue(f"{_named(keys)} lacks `name`", keys=keys, hint=hint)
    word = document["name"]
    own = [kind for kind, hint in hints.items() if hint is str]
    if own and isinstance(word, str) and ":" in word.strip(":"):
        return _dataclass(own[0], document, keys)
    place = keys if document is not value else (*keys, "name")
    return _dataclass(known[_choice(tuple(known), word, place)], document, keys)


def _choice(known: tuple[str, ...], value: Any, keys: Keys) -> str:
    if not isinstance(value, str):
        raise BadValue(
            f"{_named(keys)} wants one word, not {_shown(value)}",
            keys=keys,
            hint=f"known: {', '.join(known)}",
        )
    if value not in known:
        raise BadValue(f"{_named(keys)} is `{value}`", keys=keys, hint=nearest(value, known))
    return value


def _tuple(kinds: tuple[Any, ...], value: Any, keys: Keys) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        entries = value if isinstance(value, (list, tuple)) else [value]
        kinds = (kinds[0],) * len(entries)
    else:
        entries = value if isinstance(value, (list, tuple)) else [value] * len(kinds)
    if len(entries) != len(kinds):
        raise BadValue(f"{_named(keys)} wants {len(kinds)} values, not {len(entries)}", keys=keys)
    pairs = zip(kinds, entries, strict=True)
    return tuple(_value(kind, entry, (*keys, i)) for i, (kind, entry) in enumerate(pairs))


def _number(value: Any, keys: Keys) -> float:
    found: float | None = None
    if isinstance(value, str) and (parts := FRACTION.fullmatch(value)) and float(parts[2]):
        found = float(parts[1]) / float(parts[2])
    elif isinstance(value, float) or (type(value) is int and abs(value) < 2**63):
        found = float(value)
    if found is None or not math.isfinite(found):
        raise BadValue(
            f"{_named(keys)} wants a number, not {_shown(value)}",
            keys=keys,
            hint="like `0.5` or `1/255`",
        )
    return found


def _named(keys: Keys) -> str:
    """The last name on the way, and the place in its list where it is one."""
    if not keys:
        return "the document"
    if isinstance(keys[-1], int):
        return f"value {keys[-1] + 1} of {_named(keys[:-1])}"
    return f"`{keys[-1]}`"


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, (list, tuple)):
        return "a list"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    text = str(value)
    return f"`{text}`" if len(text) <= 40 else f"`{text[:37]}...`"

"""JSON Schema of what `from_plain` reads, so that editors complete and check it.

The dialect is draft 2020-12 (json-schema.org/draft/2020-12).
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgedl.core.fields import FRACTION, to_plain

DIALECT = "https://json-schema.org/draft/2020-12/schema"
PLAIN = {int: "integer", str: "string", bool: "boolean"}
# What every document with numbers in it has under `$defs`.
DEFINITIONS = {
    "number": {
        "anyOf": [{"type": "number"}, {"type": "string", "pattern": f"^{FRACTION.pattern}$"}]
    }
}
ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)

Schema = dict[str, Any]


def schema_of(kind: type[Any]) -> Schema:
    """The schema of a dataclass: its fields, their defaults, and what its docstring says of them.

    A field that has a default may be left out. `None` may stand where a field takes it.
    """
    hints = get_type_hints(kind)
    said = _attributes(kind)
    properties: Schema = {}
    needed = []
    for field in dataclasses.fields(kind):
        entry = of_type(hints[field.name])
        if field.name in said:
            entry["description"] = said[field.name]
        default = _default(field)
        if default is dataclasses.MISSING:
            needed.append(field.name)
        elif _is_plain(default):
            entry["default"] = default
        properties[field.name] = entry
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**found, "required": needed} if needed else found


def of_type(wanted: Any) -> Schema:
    """The schema of one field's type."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (Union, UnionType):
        kinds = [one for one in arguments if one is not NoneType]
        every = [of_type(kinds[0])] if len(kinds) == 1 else _one_of(kinds)
        every += [{"type": "null"}] if NoneType in arguments else []
        return {"anyOf": every} if len(every) > 1 else every[0]
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _tuple(arguments)
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        whole = schema_of(wanted)
        words = _words(wanted)
        return {"anyOf": [{"enum": words}, whole]} if words else whole
    if wanted is float:
        return {"$ref": "#/$defs/number"}
    return {"type": PLAIN[wanted]} if wanted in PLAIN else {}


def _one_of(kinds: list[Any]) -> list[Schema]:
    """Dataclasses that are told apart by their names: a word alone, or its settings beside it."""
    words = sorted({word for kind in kinds for word in _words(kind)})
    whole = [{**schema_of(kind), "required": _needed(kind)} for kind in kinds]
    return [*([{"enum": words}] if words else []), *whole]


def _needed(kind: type[Any]) -> list[str]:
    lacking = [f.name for f in dataclasses.fields(kind) if _default(f) is dataclasses.MISSING]
    return [*(["name"] if "name" not in lacking else []), *lacking]


def _tuple(arguments: tuple[Any, ...]) -> Schema:
    """A list, or one entry that stands for it."""
    entry = of_type(arguments[0])
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return {"anyOf": [{"type": "array", "items": entry}, entry]}
    entries = [of_type(one) for one in arguments]
    count = len(entries)
    whole = {"type": "array", "prefixItems": entries, "minItems": count, "maxItems": count}
    return {"anyOf": [whole, entry]}


def _words(kind: Any) -> list[str]:
    """The names by which a dataclass may be called with all its defaults."""
    if not dataclasses.is_dataclass(kind):
        return []
    name = get_type_hints(kind).get("name")
    whole = all(_default(f) is not dataclasses.MISSING for f in dataclasses.fields(kind))
    return list(get_args(name)) if whole and get_origin(name) is Literal else []


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return to_plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return to_plain(field.default_factory())
    return dataclasses.MISSING


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(one) for one in value.values())
    if isinstance(value, list):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _attributes(kind: type[Any]) -> dict[str, str]:
    """What the docstring's `Attributes:` say of each field, or those of the classes above it."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        _, _, text = inspect.cleandoc(one.__doc__ or "").partition("Attributes:\n")
        for names, words in ATTRIBUTE.findall(text):
            for name in names.split(", "):
                found[name] = " ".join(words.split())
    return found

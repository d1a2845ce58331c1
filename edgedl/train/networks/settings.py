"""A network's settings: what its factory takes by keyword, read from plain data."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, make_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from edgedl.core.errors import BadValue, nearest
from edgedl.core.fields import from_plain


def settings_of(factory: Callable[..., Any]) -> type:
    """A dataclass of a factory's settings with their types and defaults: every parameter behind
    the first two, which are the inputs and the outputs."""
    hints = _hints(factory)
    fields = [
        (one.name, hints.get(one.name, Any), _field(one.default)) for one in _parameters(factory)
    ]
    return make_dataclass("Settings", fields, frozen=True, kw_only=True)


def read(factory: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings given, as keyword arguments of the types that the factory states.

    A type that plain data cannot be checked against, such as a mapping, is taken as it stands.

    Raises:
        BadValue: a setting is unknown, lacking, or of another type.
    """
    kind = settings_of(factory)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    open_ended = any(
        one.kind is inspect.Parameter.VAR_KEYWORD
        for one in inspect.signature(factory).parameters.values()
    )
    for key in settings:
        if key not in fields and not open_ended:
            hint = nearest(str(key), fields) if fields else "it has no settings"
            raise BadValue(f"unknown key `{key}`", keys=(key,), hint=hint)
    loose = {
        key: _mapping(key, hints.get(key), value)
        for key, value in settings.items()
        if key not in fields or not _checked(hints[key])
    }
    strict = [(n, hints[n], _field(_default(f))) for n, f in fields.items() if n not in loose]
    tight: Any = make_dataclass("Settings", strict, frozen=True, kw_only=True)
    read: Any = from_plain(tight, {k: v for k, v in settings.items() if k not in loose})
    return {key: loose[key] if key in loose else getattr(read, key) for key in settings}


def _parameters(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(factory).parameters.values())[2:]
    return [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    """Types of its parameters; none where a user's own name types that cannot be found."""
    try:
        return get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)
    except (NameError, TypeError, AttributeError):
        return {}


def _field(default: Any) -> Any:
    if default in (inspect.Parameter.empty, dataclasses.MISSING):
        return field()
    try:
        hash(default)
    except TypeError:
        return field(default_factory=lambda: copy.deepcopy(default))
    return field(default=default)


def _default(one: dataclasses.Field[Any]) -> Any:
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return one.default


def _checked(hint: Any) -> bool:
    """Whether `from_plain` knows the type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        others = [one for one in arguments if one is not NoneType]
        return len(others) == 1 and _checked(others[0])
    if origin is tuple:
        return all(one is Ellipsis or _checked(one) for one in arguments)
    if origin is Literal:
        return all(isinstance(one, str) for one in arguments)
    return hint in (int, float, bool, str) or dataclasses.is_dataclass(hint)


def _mapping(key: str, hint: Any, value: Any) -> Any:
    """The value as it stands, where a mapping is wanted only if it is one."""
    wanted = {hint, *get_args(hint)}
    mapping = any((get_origin(one) or one) in (Mapping, dict) for one in wanted)
    if mapping and not isinstance(value, Mapping):
        raise BadValue(f"`{key}` wants keys with values, not `{value}`", keys=(key,))
    return value

"""The inputs and outputs that a manifest claims, of the kinds that they are taken for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgedl.core.model import Signature
from edgedl.runtime.limits import LIMITS


def signature_of(document: Mapping[str, Any]) -> Signature:
    """A manifest's signature.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is not sound.
    """
    for side in ("inputs", "outputs"):
        for tensor in _list(document[side]):
            for key in ("name", "dtype"):
                if not isinstance(tensor[key], str):
                    raise TypeError(f"a {key} of a tensor that is text")
            if tensor["shape"] is not None:
                for size in _list(tensor["shape"]):
                    _dimension(size)
    return Signature.from_json(document)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > LIMITS.parts:
        raise TypeError(f"a list, of at most {LIMITS.parts}")
    return value


def _dimension(value: Any) -> None:
    if value is None or isinstance(value, str):
        return
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError("a sound dimension")

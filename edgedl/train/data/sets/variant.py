"""Which of a set's variants a recipe asks for."""

from __future__ import annotations

from collections.abc import Iterable

from edgedl.core.errors import BadValue, nearest
from edgedl.train.data.settings import Data


def variant_of(settings: Data, known: Iterable[str]) -> str:
    """The variant's name; the first one where the recipe does not say.

    Raises:
        BadValue: there is none of this name.
    """
    names = list(known)
    if settings.variant is None:
        return names[0]
    if settings.variant not in names:
        message = f"`{settings.set}` has no variant `{settings.variant}`"
        raise BadValue(message, keys=("variant",), hint=nearest(settings.variant, names))
    return settings.variant


def no_variants(settings: Data) -> None:
    """Refuse a variant of a set that has none.

    Raises:
        BadValue: one is asked for.
    """
    if settings.variant is not None:
        message = f"`{settings.set}` has no variants"
        raise BadValue(message, keys=("variant",), hint="leave it out")

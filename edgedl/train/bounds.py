"""Bounds that settings keep."""

from __future__ import annotations

from typing import Any

from edgedl.core.errors import BadValue


def least(settings: Any, bound: float, *names: str) -> None:
    """Check that these fields are no less.

    Raises:
        BadValue: one is.
    """
    for name in names:
        if getattr(settings, name) < bound:
            raise BadValue(
                f"`{name}` is {getattr(settings, name)}", keys=(name,), hint=f"{bound} or more"
            )


def above(settings: Any, bound: float, *names: str) -> None:
    """Check that these fields are more.

    Raises:
        BadValue: one is not.
    """
    for name in names:
        if getattr(settings, name) <= bound:
            raise BadValue(
                f"`{name}` is {getattr(settings, name)}", keys=(name,), hint=f"more than {bound}"
            )


def within(settings: Any, low: float, high: float, *names: str) -> None:
    """Check that these fields are between two values, or one of them.

    Raises:
        BadValue: one is not.
    """
    for name in names:
        if not low <= getattr(settings, name) <= high:
            hint = f"between {low} and {high}"
            raise BadValue(f"`{name}` is {getattr(settings, name)}", keys=(name,), hint=hint)

"""Errors say where, what, and a way out."""

from __future__ import annotations

import pytest

from edgedl.core import errors
from edgedl.core.errors import EdgeError, first_line, nearest

KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeError)
]


def test_text_is_message_alone() -> None:
    assert str(EdgeError("unknown pass `quantise`")) == "unknown pass `quantise`"


def test_text_begins_with_the_place() -> None:
    error = EdgeError("unknown pass `quantise`", where="road.yaml:12", hint="look again")
    assert str(error) == "road.yaml:12: unknown pass `quantise`"
    assert (error.message, error.hint) == ("unknown pass `quantise`", "look again")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_explained_and_has_an_exit_status(kind: type[EdgeError]) -> None:
    expected = {"BadOption": 2}.get(kind.__name__, 1)
    assert kind("x").exit_status == expected
    assert kind.__doc__ is not None
    assert kind.__doc__.endswith(".")


def test_of_what_a_library_says_the_first_line_is_told() -> None:
    assert first_line(ValueError("\n  too small \nat line 3")) == "too small"
    assert first_line(ValueError("  \n")) == "ValueError"
    assert first_line(ValueError("x" * 301)) == "x" * 297 + "..."
    assert first_line(ValueError("x" * 20), 20) == "x" * 20


def test_nearest_names_the_closest_then_all() -> None:
    hint = nearest("quantise", {"quantize", "clean", "fold"})
    assert hint == "did you mean `quantize`? known: clean, fold, quantize"


def test_nearest_without_a_close_name_lists_all() -> None:
    assert nearest("xyz", ["fold", "clean"]) == "known: clean, fold"


def test_nearest_of_thousands_lists_a_few() -> None:
    hint = nearest("node_700x", [f"node_{i:04}" for i in range(5000)])
    assert "did you mean `node_" in hint
    assert hint.endswith(", node_0018, node_0019 and 4980 more")


def test_nearest_of_nothing() -> None:
    assert nearest("xyz", []) == "none are known"

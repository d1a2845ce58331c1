"""What a forked child finds of the sessions that were opened before: errors in words, no hang."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol

from edgedl.core.errors import WrongInput

# An engine's threads do not live in a forked child, and its destructor would wait for them there.
KEPT: list[Any] = []


class Forked(Protocol):
    """What is told that it finds itself in a forked child."""

    def forked(self) -> None:
        """Refuse all further use, and put what must not be destroyed here into `KEPT`."""


_live: weakref.WeakSet[Any] = weakref.WeakSet()


def watch(thing: Forked) -> None:
    """Have `thing` told in every child that this process forks while `thing` lives."""
    _live.add(thing)


def of_another_process() -> WrongInput:
    """What anything raises that was opened before the process was forked."""
    return WrongInput(
        "the session was opened before this process was forked",
        hint="open it in the child, or start children by `multiprocessing.get_context('spawn')`",
    )


def _in_child() -> None:
    for thing in list(_live):
        thing.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

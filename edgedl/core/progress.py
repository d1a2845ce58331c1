"""How long work tells that it moves on."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and of how much in all."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Tell that `done` of `total` parts of the work called `label` are done."""


def silent(label: str, done: int, total: int) -> None:
    """Tells nobody."""

"""Every error that edgedl raises on purpose, as a tree, one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MOST_LISTED = 20


class EdgeError(Exception):
    """Something that the user can put right: where it is, what it is, and a way out."""

    exit_status = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class BadModel(EdgeError):
    """The file is not a model that can be read, or its graph contradicts itself."""


class BadSamples(EdgeError):
    """The samples do not fit the model, or hold values that no model should see."""


class BadValue(EdgeError):
    """A value in a document, found under `keys`, is not what may stand there."""

    def __init__(
        self,
        message: str,
        *,
        keys: tuple[str | int, ...] = (),
        where: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.keys = keys

    def under(self, keys: tuple[str | int, ...]) -> BadValue:
        """The same of a document that lies under these keys of a larger one."""
        return BadValue(self.message, keys=(*keys, *self.keys), where=self.where, hint=self.hint)


class BadBundle(EdgeError):
    """The bundle is damaged, or was not written by edgedl."""


class NoPayload(EdgeError):
    """None of a bundle's payloads opens on this machine, each for its own reason."""


class Untrusted(EdgeError):
    """No trusted key signed the bundle as it lies there, or what was signed no longer holds."""


class BadKey(EdgeError):
    """A key cannot be used: its file is damaged, of another kind, or it is the wrong one."""


class BadOption(EdgeError):
    """The command was called in a way that it does not understand."""

    exit_status = 2


class Unsupported(EdgeError):
    """This engine, machine or operator cannot do what was asked."""


class Missing(EdgeError):
    """A package that this step needs is not installed."""


class EngineFailed(EdgeError):
    """An engine refused the model, or failed while it ran it."""


class WrongInput(EdgeError):
    """The arrays given to a session are not those of its signature, or it is closed."""


class Late(EdgeError):
    """The answer did not come within its deadline; the session answers the next call."""


class BadRequest(EdgeError):
    """What came to the service is no request of its protocol, or none that its model takes."""


class TooLarge(BadRequest):
    """The body of a request is larger than the service takes."""


class TooSlow(EdgeError):
    """The body of a request did not arrive in time."""


class Busy(EdgeError):
    """As many calls wait already as may wait; there may be room in `retry_s` seconds, if known."""

    def __init__(
        self, message: str, *, retry_s: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_s = retry_s


class GoingDown(EdgeError):
    """The service finishes what it has, and takes nothing new."""


class WrongAnswers(EdgeError):
    """A model answers differently from what it promised."""


class BadCheckpoint(EdgeError):
    """The checkpoint or weights file is damaged, or belongs to another network or run."""


class Diverged(EdgeError):
    """Training left the finite numbers; the last good checkpoint is still there."""


class MetricFailed(EdgeError):
    """A metric could not take a sample; `rows` holds what it made of those before."""

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        rows: Sequence[Any] = (),
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.rows = rows


class NoGain(EdgeError):
    """A step of shrinking would win nothing; the network stays as it was."""


class OutOfReach(BadValue):
    """A step of shrinking is asked for more than the network lets go; the hint tells the least."""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an exception's text that says something, of so many characters at most; the
    name of its type where none does."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= most else text[: most - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: its nearest relative, then the names there are, 20 at most."""
    import difflib

    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    listing = "known: " + ", ".join(names[:MOST_LISTED]) + more if names else "none are known"
    return f"did you mean `{close[0]}`? {listing}" if close else listing

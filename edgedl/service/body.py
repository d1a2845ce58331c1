"""A request's body from its pieces, within a size and a time, laid for arrays to be read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from types import TracebackType
from typing import Any

import numpy as np

from edgedl.core.errors import BadRequest, EdgeError, TooLarge

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
ALIGN = 64


class Gone(Exception):
    """The client went away before its request was whole."""


class Until:
    """Ends what the task awaits within it after so many seconds, with an error."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, error: EdgeError) -> None:
        self._loop, self._seconds, self._error = loop, seconds, error
        self._fired = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._loop)
        assert task is not None
        self._task = task
        self._handle = self._loop.call_later(self._seconds, self._fire)

    def _fire(self) -> None:
        self._fired = True
        self._task.cancel()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.cancel()
        if not self._fired:
            return
        uncancel = getattr(self._task, "uncancel", None)  # from Python 3.11 on
        if uncancel is not None:
            uncancel()
        if kind is asyncio.CancelledError:
            raise self._error from None


def too_large(given: int, limit: int) -> TooLarge:
    """What a body of `given` bytes is answered with."""
    return TooLarge(
        f"the body has {given} bytes or more, {limit} are taken", hint="`--max-body` is the limit"
    )


async def read_body(
    receive: Receive, declared: int | None, json_bytes: int, limit: int
) -> memoryview:
    """The body, writable, and so that what follows its first `json_bytes` begins at a multiple of
    64 bytes.

    Args:
        declared: its length by the request's head; None where the head does not say.
        limit: bytes at most.

    Raises:
        TooLarge: it is larger. Gone: the client hung up. BadRequest: it is not as long as declared.
    """
    if declared is not None and declared > limit:
        raise too_large(declared, limit)
    if declared is None:
        pieces: list[bytes] = []
        size = 0
        async for piece in _pieces(receive):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                raise too_large(size, limit)
        place = _place(size, json_bytes)
        place[:] = b"".join(pieces)
        return place
    place = _place(declared, json_bytes)
    at = 0
    async for piece in _pieces(receive):
        end = at + len(piece)
        if end > declared:
            raise BadRequest("the body is longer than `Content-Length` says")
        place[at:end] = piece
        at = end
    if at != declared:
        raise BadRequest("the body is shorter than `Content-Length` says")
    return place


async def _pieces(receive: Receive) -> Any:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        piece = message.get("body", b"")
        if piece:
            yield piece
        more = message.get("more_body", False)


def _place(size: int, json_bytes: int) -> memoryview:
    """`size` fresh bytes whose byte `json_bytes` has an address that is a multiple of 64."""
    room = np.empty(size + ALIGN, np.uint8)
    start = -(room.ctypes.data + json_bytes) % ALIGN
    return room[start : start + size].data

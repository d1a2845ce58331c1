"""An ASGI application called in process, every piece of a request in a test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answered:
    """A response; `status` is 0 where there was none."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        return str(self.json["error"])


class Connection:
    """One request: its pieces are given one by one, or the client goes away."""

    def __init__(self, app: Any, method: str, path: str, headers: dict[str, str]) -> None:
        self.scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        }  # fmt: skip
        self.app = app
        self.coming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> Answered:
        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await self.app(self.scope, self.coming.get, send)
        if not self.sent:
            return Answered(0, {}, b"")
        head, *rest = self.sent
        headers = {k.decode().lower(): v.decode() for k, v in head["headers"]}
        body = b"".join(message.get("body", b"") for message in rest)
        assert int(headers.get("content-length", len(body))) == len(body)
        return Answered(head["status"], headers, body)

    def give(self, *pieces: bytes, last: bool = True) -> None:
        for i, piece in enumerate(pieces):
            more = not last or i + 1 < len(pieces)
            self.coming.put_nowait({"type": "http.request", "body": piece, "more_body": more})

    def go_away(self) -> None:
        self.coming.put_nowait({"type": "http.disconnect"})


async def call(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Answered:
    """The answer to a whole request; a body in pieces comes without `Content-Length`."""
    given = dict(headers or {})
    if isinstance(body, bytes):
        given.setdefault("Content-Length", str(len(body)))
    connection = Connection(app, method, path, given)
    connection.give(*([body] if isinstance(body, bytes) else body))
    return await connection.task

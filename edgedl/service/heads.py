"""Requests' heads within a size and a time: the parser that is quick bounds neither by itself."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 65_536
HEAD_S = 30.0


class BoundedHeads(HttpToolsProtocol):
    """Uvicorn's connection, closed when a head is larger than 64 KiB (as far as whole pieces of it
    go) or is not there 30 s after it or the connection began."""

    _bytes = 0
    _reading = True
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection, of which nothing has come yet."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_S, transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of it."""
        self._no_patience()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a head, of a body, or of both."""
        super().data_received(data)
        if self._reading:
            self._bytes += len(data)
            if self._bytes > MOST_HEAD_BYTES and not self.transport.is_closing():
                self._end("431 Request Header Fields Too Large", "the request's head is too large")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._no_patience()
        self._bytes, self._reading = 0, True
        self._patience = self.loop.call_later(HEAD_S, self.transport.close)

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._no_patience()
        self._reading = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be read as HTTP is answered like whatever else cannot be read."""
        del msg
        self._end("400 Bad Request", "this is no HTTP request")

    def _end(self, status: str, error: str) -> None:
        body = json.dumps({"error": error})
        head = f"HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\n"
        text = f"{head}content-length: {len(body)}\r\n\r\n{body}"
        self.transport.write(text.encode())
        self.transport.close()

    def _no_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

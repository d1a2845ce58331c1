"""The one path that must be quick: a request's head to its answer, straight on ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import monotonic
from typing import Any

from edgedl.core.errors import (
    BadRequest,
    Busy,
    EdgeError,
    EngineFailed,
    GoingDown,
    Late,
    TooLarge,
    TooSlow,
    Unsupported,
    WrongInput,
)
from edgedl.runtime.session import closed
from edgedl.service.answer import encoded, refusal
from edgedl.service.batcher import Job
from edgedl.service.body import Gone, Receive, Until, read_body, too_large
from edgedl.service.model import VERSION, Model, Service
from edgedl.service.request import header_bytes, parse, shown

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
STATUS: tuple[tuple[type[EdgeError], int], ...] = (
    (TooLarge, 413),
    (BadRequest, 400),
    (WrongInput, 400),
    (Busy, 429),
    (GoingDown, 503),
    (TooSlow, 408),
    (Late, 504),
    (Unsupported, 406),
    (EngineFailed, 500),
)
CLOSED = closed().message
GONE = "499"
WATCH_AFTER_S = 0.05
PLAIN = b"application/json"
BINARY = b"application/octet-stream"
LENGTH_HEADER = b"inference-header-content-length"


def status_of(error: EdgeError) -> int:
    """The HTTP status that says what kind of error it is."""
    if isinstance(error, WrongInput) and error.message == CLOSED:
        return 503
    return next((status for kind, status in STATUS if isinstance(error, kind)), 500)


def unknown_model(service: Service, name: str, version: str | None) -> str | None:
    """What a request for a model or version that is not there is answered with; None for one that
    is."""
    if name not in service.models:
        return f"no model `{shown(name)}` is served here; there is {', '.join(service.models)}"
    if version not in (None, VERSION):
        return f"`{name}` has no version `{shown(version)}`; there is {VERSION}"
    return None


class Infer:
    """`POST v2/models/NAME/infer`, as an ASGI application.

    Args:
        watch_after_s: a request that has waited so long is watched for a client that goes away.
    """

    def __init__(self, service: Service, watch_after_s: float = WATCH_AFTER_S) -> None:
        self._service = service
        self._watch_after_s = watch_after_s

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = monotonic()
        name = scope["path_params"]["model"]
        unknown = unknown_model(self._service, name, scope["path_params"].get("version"))
        if unknown is not None:
            await _send(send, 404, refusal(EdgeError(unknown)), [])
            return
        headers = dict(scope["headers"])
        try:
            body, more = await self._answer(self._service.models[name], headers, receive, began)
        except Gone:
            self._service.metrics.requests.add((name, GONE))
            return
        except asyncio.CancelledError:
            if not self._service.closing:
                raise
            late = GoingDown("the service went down before the body was there")
            await _send(send, 503, refusal(late), [])
            return
        except EdgeError as error:
            status = status_of(error)
            self._service.metrics.requests.add((name, str(status)))
            await _send(send, status, refusal(error), _beside(error, headers))
            return
        self._service.metrics.requests.add((name, "200"))
        self._service.metrics.request_seconds.see(name, monotonic() - began)
        await _send(send, 200, body, more)

    async def _answer(
        self, model: Model, headers: Mapping[bytes, bytes], receive: Receive, began: float
    ) -> tuple[bytes, Headers]:
        service = self._service
        declared = _declared(headers, service.settings.max_body_bytes)
        json_bytes = header_bytes(headers.get(LENGTH_HEADER))
        held = service.settings.max_body_bytes if declared is None else declared
        self._admit(model, held)
        service.held_bytes += held
        try:
            body = await self._read(model, receive, declared, json_bytes)
            request = parse(body, json_bytes, model.contract)
            rows = model.rows(request.inputs)
            if rows is None:
                raise BadRequest("the inputs have different numbers of samples")
            limit_s = service.settings.timeout_s
            until = began + min(request.timeout_s or limit_s, limit_s)
            job = service.queues[model.name].submit(request.inputs, rows, until)
            outputs = await self._waited(model, job, receive)
            answer = encoded(request, outputs, model.contract, model.name, VERSION)
        finally:
            service.held_bytes -= held
        if answer.json_bytes is None:
            return answer.body, [(b"content-type", PLAIN)]
        length = str(answer.json_bytes).encode()
        return answer.body, [(b"content-type", BINARY), (LENGTH_HEADER, length)]

    def _admit(self, model: Model, held: int) -> None:
        """Refuse before the body is read what there is no room for."""
        service = self._service
        if service.closing:
            raise GoingDown("the service is going down")
        queue = service.queues[model.name]
        queue.room(service.reading[model.name])
        if service.held_bytes and service.held_bytes + held > service.settings.max_memory_bytes:
            raise Busy("requests in hand fill the memory", retry_s=queue.backlog_s())

    async def _read(
        self,
        model: Model,
        receive: Receive,
        declared: int | None,
        json_bytes: int | None,
    ) -> memoryview:
        settings = self._service.settings
        self._service.reading[model.name] += 1
        try:
            slow = TooSlow(f"the body was not there within {settings.timeout_s:g} s")
            with Until(asyncio.get_running_loop(), settings.timeout_s, slow):
                return await read_body(receive, declared, json_bytes or 0, settings.max_body_bytes)
        finally:
            self._service.reading[model.name] -= 1

    async def _waited(self, model: Model, job: Job, receive: Receive) -> Mapping[str, Any]:
        """The job's outputs; a client that goes away meanwhile takes it out of the queue."""
        queue = self._service.queues[model.name]
        loop = asyncio.get_running_loop()
        watches: list[asyncio.Task[None]] = []
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await receive())["type"] != "http.disconnect":
                pass
            gone = True
            queue.cancel(job)

        timer = loop.call_later(
            self._watch_after_s, lambda: watches.append(loop.create_task(watch()))
        )
        try:
            outputs: Mapping[str, Any] = await job.answer
        except asyncio.CancelledError:
            if gone:
                raise Gone from None
            raise
        finally:
            timer.cancel()
            queue.cancel(job)
            for task in watches:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        return outputs


def _declared(headers: Mapping[bytes, bytes], limit: int) -> int | None:
    """The body's length by the request's head.

    Raises:
        TooLarge: it is over the limit. BadRequest: it is compressed, or not a number.
    """
    encoding = headers.get(b"content-encoding", b"identity").strip().lower()
    if encoding not in (b"", b"identity"):
        raise BadRequest("the body is compressed, which is not taken", hint="send it plain")
    text = headers.get(b"content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 18:
        raise BadRequest("`Content-Length` is not a count of bytes")
    if int(text) > limit:
        raise too_large(int(text), limit)
    return int(text)


def _beside(error: EdgeError, headers: Mapping[bytes, bytes]) -> Headers:
    """The headers of a refusal."""
    beside: Headers = []
    if isinstance(error, Busy):
        beside.append((b"retry-after", str(max(1, math.ceil(error.retry_s or 1))).encode()))
    if b"expect" in headers:  # a client that was not told to go on may never send the body
        beside.append((b"connection", b"close"))
    return beside


async def _send(send: Send, status: int, body: bytes, headers: Headers) -> None:
    kinds = (
        [] if any(name == b"content-type" for name, _ in headers) else [(b"content-type", PLAIN)]
    )
    length = (b"content-length", str(len(body)).encode())
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, *kinds, length]}
    )
    await send({"type": "http.response.body", "body": body})

"""The service as an ASGI application: the protocol's addresses, health, and metrics."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from edgedl.service.infer import Infer, unknown_model
from edgedl.service.metrics import CONTENT_TYPE
from edgedl.service.model import VERSION, Service, server_metadata


def application(service: Service, **infer: Any) -> Starlette:
    """The routes of the Open Inference Protocol, version 2, and `/metrics`.

    Args:
        service: begins with the application's lifespan.
        infer: further arguments of `Infer`.
    """

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        service.start()
        yield

    return Starlette(
        routes=[*_infer_routes(service, infer), *_model_routes(service), *_server_routes(service)],
        lifespan=life,
        exception_handlers={HTTPException: _refused, Exception: _broken},
    )


def _infer_routes(service: Service, more: Mapping[str, Any]) -> list[Route]:
    endpoint = Infer(service, **more)
    return [
        Route("/v2/models/{model}/infer", endpoint, methods=["POST"]),
        Route("/v2/models/{model}/versions/{version}/infer", endpoint, methods=["POST"]),
    ]


def _model_routes(service: Service) -> list[Route]:
    def missing(request: Request) -> Response | None:
        given = request.path_params
        unknown = unknown_model(service, given["model"], given.get("version"))
        return None if unknown is None else _json({"error": unknown}, 404)

    async def metadata(request: Request) -> Response:
        name = request.path_params["model"]
        return missing(request) or _json(service.models[name].metadata())

    async def ready(request: Request) -> Response:
        name = request.path_params["model"]
        return missing(request) or _ready(service.ready(name), {"name": name})

    places = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        route
        for place in places
        for route in (Route(place, metadata), Route(f"{place}/ready", ready))
    ]


def _server_routes(service: Service) -> list[Route]:
    async def server(_: Request) -> Response:
        return _json(server_metadata())

    async def live(_: Request) -> Response:
        return _json({"live": True})

    async def ready(_: Request) -> Response:
        return _ready(all(service.ready(name) for name in service.models), {})

    async def index(_: Request) -> Response:
        states = [("READY" if service.ready(name) else "UNAVAILABLE") for name in service.models]
        return _json(
            [
                {"name": name, "version": VERSION, "state": state, "reason": ""}
                for name, state in zip(service.models, states, strict=True)
            ]
        )

    async def metrics(_: Request) -> Response:
        return Response(service.text(), headers={"content-type": CONTENT_TYPE})

    return [
        Route("/v2", server),
        Route("/v2/", server),
        Route("/v2/health/live", live),
        Route("/v2/health/ready", ready),
        Route("/v2/repository/index", index, methods=["POST"]),
        Route("/metrics", metrics),
    ]


def _json(document: Any, status: int = 200) -> Response:
    text = json.dumps(document).encode()
    return Response(text, status, media_type="application/json")


def _ready(ready: bool, more: Mapping[str, Any]) -> Response:
    return _json({**more, "ready": ready}, 200 if ready else 503)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "no such address", 405: f"{request.method} is not for this address"}
    answer = _json({"error": words.get(error.status_code, error.detail)}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _broken(_: Request, __: Exception) -> Response:
    return _json({"error": "the service failed; its log says how"}, 500)

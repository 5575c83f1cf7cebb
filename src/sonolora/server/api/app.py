"""The HTTP application: the queue, the files and their descriptions.

In: the parts of the server. Out: an ASGI app. Every response but files and streams is JSON, and every one has
`x-fal-request-id`. Descriptions and files, whose URLs cannot be guessed, need no key.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sonolora import __version__
from sonolora.core.errors import ErrorItem, InputError
from sonolora.server.api import storage_api
from sonolora.server.api.authorise import authorise, for_operators
from sonolora.server.api.host_routing import HostAliases
from sonolora.server.api.metrics import Metrics
from sonolora.server.api.openapi import describe
from sonolora.server.api.queue_api import QueueApi
from sonolora.server.api.request_body import BodyMemory
from sonolora.server.api.responses import JsonResponse, RejectedError, error_response, input_error_response
from sonolora.server.database.faults import StoreError
from sonolora.server.endpoints.registry import ENDPOINT_PATHS, ENDPOINTS
from sonolora.server.files.incoming import UploadError
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.keys import Keys
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.logs import AccessLog
from sonolora.server.net.urls import base_url
from sonolora.server.placing.placer import Slot
from sonolora.server.rest.rest import Rest
from sonolora.server.settings import JSON, ServerSettings

_RETRY_SECONDS = 30
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_EXPOSED = (
    "x-fal-request-id", "x-fal-billable-units", "x-fal-error-type", "x-fal-needs-retry", "x-fal-request-timeout-type",
    "etag", "content-range", "accept-ranges", "content-length", "content-disposition",
)  # fmt: skip


@dataclass(frozen=True)
class Services:
    """The parts of the server. `wake` tells the workers that there is something to do; `jwks` is public."""

    settings: ServerSettings
    store: Store
    keys: Keys
    storage: Storage
    notifier: Notifier
    retrying: Retrying
    wake: Callable[[], None]
    jwks: dict[str, Any]
    active: Callable[[], dict[str, str]] = dict  # requests that run, with their slots
    slots: Callable[[], Sequence[Slot]] = tuple


def make_rest(services: Services) -> Rest:
    """The REST face of our own, and its page."""
    return Rest(
        services.settings,
        services.store,
        services.keys,
        services.storage,
        services.notifier,
        services.retrying,
        services.wake,
        services.active,
        services.slots,
    )


def build_app(services: Services, rest: Rest | None = None) -> ASGIApp:
    """The app, for http and https alike."""
    settings = services.settings
    rest = rest or make_rest(services)
    memory = BodyMemory()

    by_header = partial(authorise, services.keys)

    def base_of(request: Request) -> str:
        return base_url(request, settings)

    async def openapi(request: Request) -> Response:
        id = request.path_params.get("id")
        if id is None and (named := request.query_params.get("endpoint_id")) is not None:
            id = named.strip("/")
            if id not in ENDPOINTS:
                raise InputError(
                    [ErrorItem(("query", "endpoint_id"), f"must be one of {', '.join(ENDPOINTS)}", input=id)]
                )
        if id is not None and id not in ENDPOINTS:
            raise HTTPException(404)
        return JsonResponse(describe([ENDPOINTS[id]] if id else list(ENDPOINTS.values()), base_of(request)))

    async def root(request: Request) -> Response:
        if "text/html" in request.headers.get("accept", ""):
            return await rest.page(request)
        urls = [f"{base_of(request)}/{id}/openapi.json" for id in ENDPOINTS]
        return JsonResponse({"sonolora": __version__, "openapi": urls})

    async def health(request: Request) -> Response:  # noqa: ARG001 - the signature of a handler
        reason = services.retrying.health.waiting_for
        if reason is not None:
            return JsonResponse({"status": "waiting", "waiting_for": reason}, 503)
        return JsonResponse({"status": "ok"})

    figures = Metrics(settings, services.store, services.keys, services.active, services.slots)

    async def metrics(request: Request) -> Response:
        for_operators(await services.keys.reading(by_header, request))
        return Response(await asyncio.to_thread(figures.text), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def jwks(request: Request) -> Response:  # noqa: ARG001
        return JsonResponse(services.jwks, headers={"cache-control": "max-age=3600"})

    async def store_fault(request: Request, error: Exception) -> Response:  # noqa: ARG001
        """The database cannot be used now, such as when the disk is full. The same request may succeed later."""
        assert isinstance(error, StoreError)
        services.retrying.health.log(error.public, str(error))
        return error_response(503, f"Try again later: {error.public}.", headers={"retry-after": str(_RETRY_SECONDS)})

    queue = QueueApi(
        settings,
        services.store,
        services.storage,
        memory,
        services.notifier,
        services.retrying,
        services.wake,
        by_header,
    )
    app = Starlette(
        routes=[
            *queue.routes(),
            *storage_api.routes(services.storage, services.keys, memory, by_header, base_of),
            *rest.routes(memory, base_of),
            Route("/.well-known/jwks.json", jwks),
            Route("/rest/.well-known/jwks.json", jwks),
            Route("/openapi.json", openapi),
            Route("/queue/{id:path}/openapi.json", openapi),
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/", root),
        ],
        exception_handlers={
            InputError: _input_error,
            RejectedError: _rejected,
            UploadError: _upload_error,
            StoreError: store_fault,
            HTTPException: _http_error,
            ClientDisconnect: _disconnected,
            Exception: _unexpected,
        },
    )
    app.router.redirect_slashes = False
    cors = CORSMiddleware(
        HostAliases(AccessLog(app) if settings.log_format == JSON else app),
        allow_origins=["*"],
        allow_methods=_METHODS,
        allow_headers=["*"],  # which repeats the requested headers; a literal * would not cover Authorization
        expose_headers=_EXPOSED,
        allow_private_network=True,
        max_age=86400,
    )
    return _RequestIds(cors)


class _RequestIds:
    """ASGI middleware: an id for every response that has none of its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                headers.setdefault("x-fal-request-id", str(uuid.uuid4()))
            await send(message)

        await self.app(scope, receive, send_with_id if scope["type"] == "http" else send)


async def _input_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, InputError)
    return input_error_response(error)


async def _rejected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, RejectedError)
    return error.response


async def _upload_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    assert isinstance(error, UploadError)
    return error_response(error.status, str(error))


async def _http_error(request: Request, error: Exception) -> Response:
    """Errors of Starlette itself, and of handlers that raise its exception."""
    assert isinstance(error, HTTPException)
    detail = f"Path {_path_as_sent(request)} not found" if error.status_code == 404 else error.detail
    if error.status_code == 404 and request.url.path.startswith(("/queue/", "/run/")):
        detail += f". There are: {ENDPOINT_PATHS}"
    return error_response(error.status_code, detail, headers=error.headers)


def _path_as_sent(request: Request) -> str:
    """Without the prefix that `HostAliases` has added."""
    path: str = request.url.path
    raw: bytes = request.scope.get("raw_path", b"")
    return path if raw.startswith((b"/queue", b"/run")) else path.removeprefix("/queue").removeprefix("/run")


async def _disconnected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """Nobody reads this."""
    return error_response(499, "The client has disconnected.", "client_disconnected")


async def _unexpected(request: Request, error: Exception) -> Response:  # noqa: ARG001
    """A bug. The HTTP server logs the traceback."""
    return error_response(500, "Internal Server Error", "internal_error")

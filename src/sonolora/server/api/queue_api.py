"""The queue over HTTP: submit, status, result and cancel; and `run`, which submits and waits.

In: requests at our own paths (see `host_routing`). Out: responses as the published clients expect them. The handlers
are thin: the store holds the requests, `submission` reads new ones, `serializers` write status and result, and
`event_stream` follows changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sonolora.core.errors import ErrorItem, InputError
from sonolora.server.api.event_stream import PING, event_stream, follow, frame, wait_until_done
from sonolora.server.api.inline_data import InlineData
from sonolora.server.api.request_body import BodyMemory
from sonolora.server.api.responses import JsonResponse, RejectedError, error_headers, error_response
from sonolora.server.api.serializers import result_body, result_response, status_body
from sonolora.server.api.submission import read_queue_limit, read_submission
from sonolora.server.endpoints.registry import APPS, ENDPOINT_PATHS, ENDPOINTS, app_of
from sonolora.server.files.storage import Storage
from sonolora.server.jobs import records
from sonolora.server.jobs.keys import Access
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.records import State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import QueueFullError, Store
from sonolora.server.logs import note
from sonolora.server.net.urls import base_url
from sonolora.server.settings import ServerSettings

_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}
_STOPPED = "The server was stopped. The request continues when it is started again; its id is {id}."

_background: set[asyncio.Task[object]] = set()  # tasks that nobody awaits, which must be referenced somewhere

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueApi:
    """The handlers. `wake` tells the workers that there is something to do."""

    settings: ServerSettings
    store: Store
    storage: Storage
    memory: BodyMemory
    notifier: Notifier
    retrying: Retrying
    wake: Callable[[], None]
    authorise: Callable[[Request], Access]

    def routes(self) -> list[Route]:
        request = "/queue/{app:path}/requests/{id}"
        return [
            Route(f"{request}/status", self.status),
            Route(f"{request}/status/stream", self.status_stream),
            Route(f"{request}/cancel", self.cancel, methods=["PUT"]),
            Route(f"{request}/response", self.result),
            Route(request, self.result),
            *(
                Route(path.format(app=app), partial(handler, app=app), methods=["POST"])
                for app in APPS
                for path, handler in (
                    ("/queue/{app}/{{endpoint:path}}", self.submit),
                    ("/run/{app}/{{endpoint:path}}/stream", self.run_stream),
                    ("/run/{app}/{{endpoint:path}}", self.run),
                )
            ),
        ]

    async def submit(self, request: Request, app: str) -> Response:
        """Put a request into the queue."""
        queued = await self._enqueue(request, app)
        body = await self.store.reading(self._status, queued, request)
        return JsonResponse({**body, "gateway_request_id": queued.id}, headers={"x-fal-request-id": queued.id})

    async def status(self, request: Request) -> Response:
        """202 until it is done. Each waiting client polls this ten times a second, so it is one look at the store."""

        def look() -> tuple[records.Request, dict[str, object]]:
            queued = self._find(request)
            lines = self.store.logs(queued.id) if _wants_logs(request) else None
            return queued, self._status(queued, request, lines)

        queued, body = await self.store.reading(look)
        return JsonResponse(body, 200 if queued.state == State.DONE else 202, {"x-fal-request-id": queued.id})

    async def status_stream(self, request: Request) -> Response:
        """The status as events, until it is done."""
        queued = await self.store.reading(self._find, request)
        logs, base = _wants_logs(request), base_url(request, self.settings)

        async def frames() -> AsyncIterator[str]:
            async for update in follow(self.store, self.notifier, queued.id, logs=logs):
                if update is None:
                    yield PING
                else:
                    lines = update.lines if logs else None
                    yield frame(status_body(update.request, update.position, base, lines, self._waiting_for))

        return event_stream(frames(), queued.id)

    async def result(self, request: Request) -> Response:
        """The status, headers and body with which it ended."""
        return await self._result(await self.store.reading(self._find, request), request)

    async def cancel(self, request: Request) -> Response:
        """Request its end, which follows within seconds. The body is ignored: a client sends an empty one as JSON."""
        queued = await self.store.reading(self._find, request)
        headers = {"x-fal-request-id": queued.id}
        if await asyncio.to_thread(self.store.request_cancel, queued.id) == State.DONE:
            return JsonResponse({"status": "ALREADY_COMPLETED"}, 400, {**error_headers(400), **headers})
        self.wake()
        return JsonResponse({"status": "CANCELLATION_REQUESTED"}, 202, headers)

    async def run(self, request: Request, app: str) -> Response:
        """Submit, wait and return the result. A client that disconnects cancels: nobody else knows the request."""
        queued = await self._enqueue(request, app)
        done = asyncio.create_task(wait_until_done(self.store, self.notifier, queued.id))
        disconnected = asyncio.create_task(_wait_for_disconnect(request))
        try:
            await asyncio.wait((done, disconnected), return_when=asyncio.FIRST_COMPLETED)
            if done.done() and (finished := done.result()):
                return await self._result(finished, request)
        finally:
            done.cancel()
            disconnected.cancel()
            self._cancel_unless_done(queued.id)
        return error_response(500, _STOPPED.format(id=queued.id), "internal_error", {"x-fal-request-id": queued.id})

    async def run_stream(self, request: Request, app: str) -> Response:
        """The same with the status as events; the last one carries the result, or is an `event: error`."""
        queued, base = await self._enqueue(request, app), base_url(request, self.settings)

        async def frames() -> AsyncIterator[str]:
            try:
                async for update in follow(self.store, self.notifier, queued.id):
                    if update is None:
                        yield PING
                    elif (result := update.request.result) is None:
                        status = status_body(update.request, update.position, base, update.lines, self._waiting_for)
                        yield frame(status)
                    else:
                        body = await asyncio.to_thread(result_body, update.request, base, self.storage)
                        yield frame(body, "error" if result.status >= 400 else None)
                        return
                yield frame({"detail": _STOPPED.format(id=queued.id), "error_type": "internal_error"}, "error")
            finally:
                self._cancel_unless_done(queued.id)

        return event_stream(frames(), queued.id)

    async def _result(self, request: records.Request, http: Request) -> Response:
        """In a thread, as it may hold whole files."""
        return await asyncio.to_thread(result_response, request, base_url(http, self.settings), self.storage)

    def _cancel_unless_done(self, id: str) -> None:
        """Its client has gone. A request whose server stops is not cancelled: it continues later."""
        if not self.notifier.closed:
            # Not awaited: this may be the end of a task that is cancelled itself.
            cancelling = asyncio.create_task(self._cancel(id))
            _background.add(cancelling)
            cancelling.add_done_callback(_background.discard)

    async def _cancel(self, id: str) -> None:
        await self.retrying(self.store.request_cancel, id)  # changes nothing when it is done
        self.wake()

    async def _enqueue(self, request: Request, app: str) -> records.Request:
        key = (await self.store.reading(self.authorise, request)).key
        path = request.path_params["endpoint"]
        endpoint = ENDPOINTS.get(f"{app}/{path}")
        if endpoint is None:
            raise RejectedError(error_response(404, f"Path /{path} not found. There are: {ENDPOINT_PATHS}"))
        with self.memory.account() as account:
            inline = InlineData(self.storage, key.id, base_url(request, self.settings), account)
            new, warnings = await read_submission(request, endpoint, key, self.settings, inline)
            limit = read_queue_limit(request, self.settings)
            try:
                queued = await asyncio.to_thread(self.store.add_request, new, queue_limit=limit, warnings=warnings)
            except QueueFullError as error:
                raise RejectedError(error_response(429, f"{error}.", "concurrent_requests_limit")) from error
            await asyncio.to_thread(inline.accepted)
        note(run=queued.id)
        logger.info("request %s: submitted, %s", queued.id, queued.endpoint)
        self.wake()
        return queued

    def _find(self, request: Request) -> records.Request:
        """Raises `RejectedError` (404) also for one that the key does not reach."""
        queued = self.authorise(request).own(self.store.request(request.path_params["id"]))
        named = request.path_params["app"]
        known = ENDPOINTS[named].app if named in ENDPOINTS else named  # older clients name the endpoint
        if queued is None or app_of(queued.endpoint) != known:
            raise RejectedError(JsonResponse({"status": "NOT_FOUND"}, 404, error_headers(404)))
        return queued

    @property
    def _waiting_for(self) -> str | None:
        return self.retrying.health.waiting_for

    def _status(
        self, queued: records.Request, request: Request, lines: list[records.LogLine] | None = None
    ) -> dict[str, object]:
        position = self.store.queue_position(queued.id) if queued.state == State.QUEUED else 0
        return status_body(queued, position, base_url(request, self.settings), lines, self._waiting_for)


async def _wait_for_disconnect(request: Request) -> None:
    """After the body there is nothing else to receive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wants_logs(request: Request) -> bool:
    value = request.query_params.get("logs", "0")
    if (wanted := _BOOLEANS.get(value.lower())) is None:
        msg = "Input should be a valid boolean: 1, 0, true or false"
        raise InputError([ErrorItem(("query", "logs"), msg, "bool_parsing", input=value)])
    return wanted

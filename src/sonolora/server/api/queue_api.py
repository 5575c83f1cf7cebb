"""The queue over HTTP: submit, status, result and cancel; and `run`, which submits and waits.

In: requests at our own paths (see `faces`). Out: what the published clients expect. The handlers are thin: the store
knows the requests, `submission` reads what is asked for, `wire` says how it stands, `streams` what has changed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sonolora.core.errors import ErrorItem, InputError
from sonolora.modes import MODES
from sonolora.modes.request import unknown_fields
from sonolora.server.api.answers import Answer, RefusedError, failure_headers, refusal
from sonolora.server.api.event_stream import PING, end_of, event_stream, follow, frame
from sonolora.server.api.serializers import result_answer, status_body
from sonolora.server.api.submission import read_queue_limit, read_submission
from sonolora.server.jobs import records
from sonolora.server.jobs.notifier import Notifier
from sonolora.server.jobs.records import Key, State
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import QueueFullError, Store
from sonolora.server.net.urls import APP, ENDPOINT_PATHS, ENDPOINTS, absolute, base_url
from sonolora.server.settings import ServerSettings

_APPS = frozenset({APP, *(f"{APP}/{endpoint}" for endpoint in ENDPOINTS)})
_TRUTH = {"1": True, "true": True, "0": False, "false": False}
_STOPPED = "The server was stopped. The request goes on when it is started again; its id is {id}."

_background: set[asyncio.Task[object]] = set()  # tasks that nobody awaits, which must be referenced somewhere

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Queue:
    """The handlers, and what they work with. `wake` tells the workers that there is something to do."""

    settings: ServerSettings
    store: Store
    notifier: Notifier
    retrying: Retrying
    wake: Callable[[], None]
    authorise: Callable[[Request], Key]

    def routes(self) -> list[Route]:
        request = "/queue/{app:path}/requests/{id}"
        return [
            Route(f"{request}/status", self.status),
            Route(f"{request}/status/stream", self.status_stream),
            Route(f"{request}/cancel", self.cancel, methods=["PUT"]),
            Route(f"{request}/response", self.result),
            Route(request, self.result),
            Route(f"/queue/{APP}/{{endpoint:path}}", self.submit, methods=["POST"]),
            Route(f"/run/{APP}/{{endpoint:path}}/stream", self.run_stream, methods=["POST"]),
            Route(f"/run/{APP}/{{endpoint:path}}", self.run, methods=["POST"]),
        ]

    async def submit(self, request: Request) -> Response:
        """Any valid key may ask about any request: keys are of people who share a server."""
        queued = await self._enqueue(request)
        body = self._status(queued, request)
        return Answer({**body, "gateway_request_id": queued.id}, headers={"x-fal-request-id": queued.id})

    async def status(self, request: Request) -> Response:
        """202 until it is done. Polled ten times a second by each waiting client: no thread, no waiting."""
        found = self._find(request)
        lines = self.store.logs(found.id) if _wants_logs(request) else None
        code = 200 if found.state == State.DONE else 202
        return Answer(self._status(found, request, lines), code, {"x-fal-request-id": found.id})

    async def status_stream(self, request: Request) -> Response:
        """The same as events, until it is done."""
        found, logs, base = self._find(request), _wants_logs(request), base_url(request, self.settings)

        async def frames() -> AsyncIterator[str]:
            async for view in follow(self.store, self.notifier, found.id, logs=logs):
                if view is None:
                    yield PING
                else:
                    lines = view.lines if logs else None
                    yield frame(status_body(view.request, view.position, base, lines, self._waiting_for))

        return event_stream(frames(), found.id)

    async def result(self, request: Request) -> Response:
        """The code, headers and body that it ended with."""
        return result_answer(self._find(request), base_url(request, self.settings))

    async def cancel(self, request: Request) -> Response:
        """Ask for its end; it comes within seconds. A body is not looked at: a client says JSON and sends none."""
        found = self._find(request)
        headers = {"x-fal-request-id": found.id}
        if await asyncio.to_thread(self.store.request_cancel, found.id) == State.DONE:
            return Answer({"status": "ALREADY_COMPLETED"}, 400, {**failure_headers(400), **headers})
        self.wake()
        return Answer({"status": "CANCELLATION_REQUESTED"}, 202, headers)

    async def run(self, request: Request) -> Response:
        """Submit, wait, answer with the result. A client that goes away cancels: it alone knew of the request."""
        queued = await self._enqueue(request)
        end = asyncio.create_task(end_of(self.store, self.notifier, queued.id))
        gone = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((end, gone), return_when=asyncio.FIRST_COMPLETED)
            if end.done() and (finished := end.result()):
                return result_answer(finished, base_url(request, self.settings))
        finally:
            end.cancel()
            gone.cancel()
            self._give_up(queued.id)
        return refusal(500, _STOPPED.format(id=queued.id), "internal_error", {"x-fal-request-id": queued.id})

    async def run_stream(self, request: Request) -> Response:
        """The same with its status as events; the data of the last one is the result, or `event: error`."""
        queued, base = await self._enqueue(request), base_url(request, self.settings)

        async def frames() -> AsyncIterator[str]:
            try:
                async for view in follow(self.store, self.notifier, queued.id):
                    if view is None:
                        yield PING
                    elif (result := view.request.result) is None:
                        yield frame(status_body(view.request, view.position, base, view.lines, self._waiting_for))
                    else:
                        yield frame(absolute(result.body, base), "error" if result.status >= 400 else None)
                        return
                yield frame({"detail": _STOPPED.format(id=queued.id), "error_type": "internal_error"}, "error")
            finally:
                self._give_up(queued.id)

        return event_stream(frames(), queued.id)

    def _give_up(self, id: str) -> None:
        """What nobody waits for any more is cancelled; what is done stays as it is, what the server stops goes on."""
        found = self.store.request(id)
        if found and found.state != State.DONE and not self.notifier.closed:
            # Not awaited: this may be the end of a task that is cancelled itself.
            cancelling = asyncio.create_task(self._cancel(id))
            _background.add(cancelling)
            cancelling.add_done_callback(_background.discard)

    async def _cancel(self, id: str) -> None:
        await self.retrying(self.store.request_cancel, id)
        self.wake()

    async def _enqueue(self, request: Request) -> records.Request:
        key = self.authorise(request)
        endpoint = request.path_params["endpoint"]
        if endpoint not in ENDPOINTS:
            raise RefusedError(refusal(404, f"Path /{endpoint} not found. There are: {ENDPOINT_PATHS}"))
        new = await read_submission(request, endpoint, key, self.settings)
        limit = read_queue_limit(request, self.settings)
        warnings = unknown_fields(MODES[new.mode].request, new.body)
        try:
            queued = await asyncio.to_thread(self.store.add_request, new, queue_limit=limit, warnings=warnings)
        except QueueFullError as error:
            raise RefusedError(refusal(429, f"{error}.", "concurrent_requests_limit")) from error
        logger.info("request %s: submitted, %s", queued.id, queued.endpoint)
        self.wake()
        return queued

    def _find(self, request: Request) -> records.Request:
        self.authorise(request)
        found = self.store.request(request.path_params["id"]) if request.path_params["app"] in _APPS else None
        if found is None:
            raise RefusedError(Answer({"status": "NOT_FOUND"}, 404, failure_headers(404)))
        return found

    @property
    def _waiting_for(self) -> str | None:
        return self.retrying.health.waiting_for

    def _status(
        self, request: records.Request, asked: Request, lines: list[records.LogLine] | None = None
    ) -> dict[str, object]:
        position = self.store.queue_position(request.id) if request.state == State.QUEUED else 0
        return status_body(request, position, base_url(asked, self.settings), lines, self._waiting_for)


async def _disconnected(request: Request) -> None:
    """Until the client has gone. After the body there is nothing else to receive."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _wants_logs(request: Request) -> bool:
    said = request.query_params.get("logs", "0")
    if (truth := _TRUTH.get(said.lower())) is None:
        msg = "Input should be a valid boolean: 1, 0, true or false"
        raise InputError([ErrorItem(("query", "logs"), msg, "bool_parsing", input=said)])
    return truth

"""Server-sent events: the status of a request as it changes, with new log lines only.

In: the store and its notifications of changes. Out: frames `data: {json}`, and comments while nothing happens. The
JavaScript client accumulates the log lines of all events, so each line is sent once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.responses import StreamingResponse

from sonolora.server.database.faults import StoreError
from sonolora.server.jobs.notifier import Notifier, wait
from sonolora.server.jobs.records import LogLine, Request, State
from sonolora.server.jobs.store import Store

POLL_SECONDS = 1.0  # for what other processes change, such as a command in a terminal
_MIN_INTERVAL = 0.1  # seconds between two events
_PING_SECONDS = 15.0  # without an event before a comment shows that the connection is alive
PING = ": ping\n\n"


@dataclass(frozen=True)
class Update:
    """A request that has changed, the number of requests ahead of it, and its new log lines."""

    request: Request
    position: int
    lines: list[LogLine]


async def follow(store: Store, notifier: Notifier, id: str, *, logs: bool = True) -> AsyncIterator[Update | None]:
    """Yield at once, and whenever the request changes, until it is done or the server stops; None for a ping."""
    now = asyncio.get_running_loop().time
    sent: tuple[Request, int] | None = None
    last_line, last_sent = 0, now()
    while not notifier.closed:
        event = notifier.watch(id)
        try:
            update = await store.reading(_look, store, id, last_line if logs else None)
        except StoreError:  # the stream outlasts it
            await wait(event, POLL_SECONDS)
            continue
        if update is None:
            return
        request, position, lines = update.request, update.position, update.lines
        if lines or (request, position) != sent:
            yield update
            if request.state == State.DONE:
                return
            sent, last_sent = (request, position), now()
            last_line = lines[-1].number if lines else last_line
            await asyncio.sleep(_MIN_INTERVAL)
        elif now() - last_sent > _PING_SECONDS:
            yield None
            last_sent = now()
        await wait(event, POLL_SECONDS)


def _look(store: Store, id: str, after: int | None) -> Update | None:
    """With the log lines after that one; `after` is None for no lines."""
    if (request := store.request(id)) is None:
        return None
    position = store.queue_position(id) if request.state == State.QUEUED else 0
    return Update(request, position, [] if after is None else store.logs(id, after))


async def wait_until_done(store: Store, notifier: Notifier, id: str) -> Request | None:
    """The request when it is done; None if the server stops before that, or does not know it."""
    last = None
    async for update in follow(store, notifier, id, logs=False):
        last = update.request if update else last
    return last if last and last.state == State.DONE else None


def frame(data: Any, event: str | None = None) -> str:
    """One event. JSON has no line breaks outside its strings, and inside they are escaped."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n"


def event_stream(frames: AsyncIterator[str], id: str) -> StreamingResponse:
    """The response that sends them. Proxies on the way should not buffer it."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "x-fal-request-id": id}
    return StreamingResponse(frames, headers=headers, media_type="text/event-stream")

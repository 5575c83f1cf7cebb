"""Server-sent events: a request's status as it changes, with the log lines that are new.

In: the store, and the changes that it is told of. Out: frames `data: {json}`, comments while nothing happens. The
JavaScript client adds up the log lines of all events, so that each may be sent only once.
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

LOOK_SECONDS = 1.0  # between looks for what other processes change, such as a command in a terminal
_LEAST_SECONDS = 0.1  # between two events
_SILENCE_SECONDS = 15.0  # before a comment shows that we are still there
PING = ": ping\n\n"


@dataclass(frozen=True)
class View:
    """What of a request is new: how it stands, how many are in front of it, the new lines of its log."""

    request: Request
    position: int
    lines: list[LogLine]


async def follow(store: Store, notifier: Notifier, id: str, *, logs: bool = True) -> AsyncIterator[View | None]:
    """Yield at once and whenever the request has changed, until it is done or the server stops; None in silence."""
    now = asyncio.get_running_loop().time
    shown: tuple[Request, int] | None = None
    last_line, last_sent = 0, now()
    while not notifier.closed:
        event = notifier.watch(id)
        try:
            if (request := store.request(id)) is None:
                return
            position = store.queue_position(id) if request.state == State.QUEUED else 0
            lines = store.logs(id, last_line) if logs else []
        except StoreError:  # the stream outlasts it
            await wait(event, LOOK_SECONDS)
            continue
        if lines or (request, position) != shown:
            yield View(request, position, lines)
            if request.state == State.DONE:
                return
            shown, last_sent = (request, position), now()
            last_line = lines[-1].number if lines else last_line
            await asyncio.sleep(_LEAST_SECONDS)
        elif now() - last_sent > _SILENCE_SECONDS:
            yield None
            last_sent = now()
        await wait(event, LOOK_SECONDS)


async def end_of(store: Store, notifier: Notifier, id: str) -> Request | None:
    """The request when it is done; None when the server stops before, or does not know it."""
    last = None
    async for view in follow(store, notifier, id, logs=False):
        last = view.request if view else last
    return last if last and last.state == State.DONE else None


def frame(data: Any, event: str | None = None) -> str:
    """One event. JSON has no line breaks outside its strings, and inside they are escaped."""
    name = f"event: {event}\n" if event else ""
    return f"{name}data: {json.dumps(data, allow_nan=False, separators=(',', ':'))}\n\n"


def event_stream(frames: AsyncIterator[str], id: str) -> StreamingResponse:
    """The answer that sends them. Proxies on the way should not hold it back."""
    headers = {"cache-control": "no-store", "x-accel-buffering": "no", "x-fal-request-id": id}
    return StreamingResponse(frames, headers=headers, media_type="text/event-stream")

"""The events of a run for a browser: what has changed since the event that it saw last.

In: the store, and the id of the last event. Out: server-sent events `run`, `log`, `metrics` and `previews`. An event's
id says how far log and metrics have come, so that a connection that breaks continues without loss or repetition.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from sonolora.server.api.event_stream import POLL_SECONDS
from sonolora.server.database.faults import StoreError
from sonolora.server.jobs.notifier import Notifier, wait
from sonolora.server.jobs.records import LogLine, Request, State
from sonolora.server.jobs.store import Store
from sonolora.server.rest.run_view import log_json, summary

_MIN_INTERVAL = 0.2
_PING_SECONDS = 15.0


@dataclass(frozen=True)
class Position:
    """The last log line and the last step that were sent."""

    line: int = 0
    step: int = -1

    @classmethod
    def parse(cls, id: str | None) -> Position:
        """From an event's id; anything else is the beginning."""
        line, _, step = (id or "").partition(":")
        try:
            return cls(int(line), int(step))
        except ValueError:
            return cls()

    def __str__(self) -> str:
        return f"{self.line}:{self.step}"


async def follow(
    store: Store,
    notifier: Notifier,
    id: str,
    position: Position,
    previews: Callable[[Request], list[dict[str, Any]]],
) -> AsyncIterator[str | None]:
    """Frames until the run is done or the server stops; None for a ping. The last one is `event: end`."""
    now = asyncio.get_running_loop().time
    shown: dict[str, Any] | None = None
    seen: dict[int, dict[str, Any]] = {}  # metrics that were sent, from the last step on
    pictures, last_sent = -1, now()
    while not notifier.closed:
        changed = notifier.watch(id)
        try:
            found = await store.reading(_look, store, id, position)
        except StoreError:
            await wait(changed, POLL_SECONDS)
            continue
        if found is None:
            return
        request, place, lines, rows = found
        frames: list[tuple[str, Any]] = []
        if new := {step: values for step, values in rows if seen.get(step) != values}:
            position = Position(position.line, max(max(new), position.step))
            seen = {step: values for step, values in {**seen, **new}.items() if step >= position.step}
            frames.append(("metrics", [{"step": step, **values} for step, values in new.items()]))
        if lines:
            position = Position(lines[-1].number, position.step)
            frames.append(("log", [log_json(line) for line in lines]))
        made = await asyncio.to_thread(previews, request)
        if len(made) != pictures:
            pictures = len(made)
            frames.append(("previews", made))
        state = summary(request)
        if request.state == State.QUEUED:
            state["position"] = place
        if state != shown:
            shown = state
            frames.append(("run", state))
        for kind, data in frames:
            yield _frame(kind, data, position)
            last_sent = now()
        if request.state == State.DONE:
            yield _frame("end", {}, position)
            return
        if now() - last_sent > _PING_SECONDS:
            yield None
            last_sent = now()
        await asyncio.sleep(_MIN_INTERVAL)
        await wait(changed, POLL_SECONDS)


def _look(
    store: Store, id: str, position: Position
) -> tuple[Request, int, list[LogLine], list[tuple[int, dict[str, Any]]]] | None:
    """The request, its place in the queue, and its log lines and metrics from the position on."""
    if (request := store.request(id)) is None:
        return None
    place = store.queue_position(id) if request.state == State.QUEUED else 0
    return request, place, store.logs(id, position.line), store.metrics(id, max(position.step, 0))


def _frame(kind: str, data: Any, position: Position) -> str:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return f"event: {kind}\nid: {position}\ndata: {text}\n\n"

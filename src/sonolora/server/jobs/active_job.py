"""A request while a worker runs it: the command for the worker, and the events that it sends back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonolora.server.files.names import file_id
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.records import Kind, Request
from sonolora.server.jobs.worker_process import WorkerProcess
from sonolora.server.net.urls import holds_address, is_own_url
from sonolora.server.settings import ServerSettings

STOP_SECONDS = 20.0  # for a run to save its state; then its worker is killed
GIVEN = ("audio", "reference", "video")  # fields of a request to generate that hold an address
_ENDINGS = ("done", "stopped", "input_error", "failed")


@dataclass(frozen=True)
class ActiveJob:
    request: Request
    body: dict[str, Any]
    folder: Path
    worker: WorkerProcess
    journal: Journal
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    sent: asyncio.Event = field(default_factory=asyncio.Event)  # the worker has it, and will say when it is ready again
    yielding: asyncio.Event = field(default_factory=asyncio.Event)  # to be stopped, and continued later
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the request left the queue."""
        return round(time.monotonic() - self.began, 3)

    def command(self, settings: ServerSettings, storage: Storage) -> dict[str, Any]:
        """What the worker is sent. Looks up the request's files."""
        known = {
            url: path and str(path)
            for url in _urls([self.body, self.request.options])
            if (path := storage.local(url)) or (file_id(url) and is_own_url(url, settings))
        }
        request, options = self.request, self.request.options
        job = {
            "id": request.id,
            "kind": request.kind,
            "folder": str(self.folder),
            "mode": request.mode,
            "base": options.get("base", settings.base),
            "body": self.body,
            "sources": {"local": False, "private": settings.allow_private_urls, "known": known},
        }
        if request.kind == Kind.GENERATE:
            weights = {name: getattr(settings, name) for name in ("weights", "block_offload")}
            return {
                **job,
                "loras": options.get("loras", []),
                "passes": options.get("passes", [{"mode": request.mode, "body": self.body, "names": {}}]),
                "samples": options["samples"],
                "format": options.get("format", "wav"),
                "settings": {**weights, **options.get("settings", {})},
            }
        return {**job, "settings": {**settings.run_settings(request.mode), **options.get("settings", {})}}

    async def follow(self, on_begun: Callable[[str], Awaitable[None]]) -> dict[str, Any] | None:
        """Read events until the one that says how it ended, which is returned; None when the worker has died.

        `on_begun` is called with "started" or "resumed".
        """
        while event := await self.worker.event():
            if event["event"] in _ENDINGS:
                return event
            if event["event"] == "begun":
                kind = "resumed" if event["resumed"] else "started"
                await on_begun(kind)
                self.journal.log(kind)
            else:
                self.journal.add(event)
        return None

    async def stop_when_yielding(self) -> None:
        """Once the request is paused, or makes room for another, let its run save its state and end."""
        await self.yielding.wait()
        await self.worker.send({"stop": self.request.id})

    async def stop_when_cancelled(self) -> None:
        """Once the request is cancelled stop its run; if it does not stop in time, kill its worker."""
        await self.cancelled.wait()
        await self.worker.send({"stop": self.request.id})
        await asyncio.sleep(STOP_SECONDS)
        await self.worker.kill()


def _urls(body: Any) -> Iterator[str]:
    """All URLs in a request."""
    if isinstance(body, dict):
        for name, value in body.items():
            if isinstance(value, str) and (holds_address(name) or name in GIVEN):
                yield value.strip()
            else:
                yield from _urls(value)
    elif isinstance(body, list):
        for value in body:
            yield from _urls(value)

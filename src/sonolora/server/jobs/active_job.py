"""A request while a worker runs it: the command for the worker, and the events that it sends back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sonolora.core.errors import SonoloraError
from sonolora.planning.sweep_plan import WITHOUT
from sonolora.runs.run_copy import RunCopy
from sonolora.server.files.names import file_id
from sonolora.server.files.records import StoredFile
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.base_fingerprints import fingerprint_of
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.keys import Access
from sonolora.server.jobs.records import Kind, Request
from sonolora.server.net.urls import holds_address, is_own_url
from sonolora.server.placing.placer import ENDINGS, STOP_SECONDS, Placer, Run, WorkerDiedError
from sonolora.server.settings import EMBEDDED_BASE, ServerSettings

GIVEN = ("audio", "reference", "video")  # fields of a request to generate that hold an address
COLLECT_SECONDS = 5.0  # between two looks for what a run elsewhere has made
_COLLECTING = ThreadPoolExecutor(4, "collect")  # not the usual one, which a store that is away would take up

logger = logging.getLogger(__name__)


@dataclass
class ActiveJob:
    request: Request
    body: dict[str, Any]
    folder: Path
    slot: str
    placer: Placer[Any]
    journal: Journal
    copy: RunCopy | None = None  # where it is made elsewhere
    handle: Any = None  # the placer's, while the run is placed
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    yielding: asyncio.Event = field(default_factory=asyncio.Event)  # to be stopped, and continued later
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the request left the queue."""
        return round(time.monotonic() - self.began, 3)

    def command(self, settings: ServerSettings, storage: Storage, access: Access) -> dict[str, Any]:
        """What the worker is sent. Looks up the request's files, of which `access` says which it may use."""
        apart = settings.nodes_share_nothing
        known: dict[str, Any] = {}
        for url in _urls([self.body, self.request.options]):
            if (file := storage.behind(url)) is not None:  # another owner's is as one that is not there
                known[url] = _place(file, storage, apart=apart) if access.own(file) else None
            elif file_id(url) and is_own_url(url, settings):
                known[url] = None
        request, options = self.request, self.request.options
        job = {
            "id": request.id,
            "kind": request.kind,
            "mode": request.mode,
            "base": options.get("base", settings.base),
            "body": self.body,
            "sources": {"local": False, "private": settings.allow_private_urls, "known": known},
        }
        if apart:
            if job["base"] != EMBEDDED_BASE:
                job["base_fingerprint"] = fingerprint_of(job["base"])
        else:
            job["folder"] = str(self.folder)
        if settings.files is not None and (apart or request.kind != Kind.GENERATE):
            job["copies"] = {"address": settings.files, "attempt": request.starts}
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
        run_settings = {**settings.run_settings(request.mode), **options.get("settings", {})}
        if "sweep" in options:
            job["sweep"] = options["sweep"]
            run_settings = {name: value for name, value in run_settings.items() if name not in WITHOUT}
        if "from_lora" in options:
            job["from_lora"] = options["from_lora"]["path"]
        return {**job, "settings": run_settings}

    async def start(self, command: dict[str, Any]) -> None:
        """Place the run. Raises `WorkerDiedError`."""
        self.handle = await self.placer.start(Run(self.request.id, self.slot, command), self.request.starts)
        if self.cancelled.is_set() or self.yielding.is_set():
            await self.stop(save=True)

    async def follow(self, on_begun: Callable[[str], Awaitable[None]]) -> dict[str, Any]:
        """Read events until the one that says how it ended, which is returned. Raises `WorkerDiedError`.

        `on_begun` is called with "started" or "resumed".
        """
        async for event in self.placer.lines(self.handle):
            if event["event"] in ENDINGS:
                self.handle = None
                return event
            if event["event"] == "begun":
                kind = "resumed" if event["resumed"] else "started"
                await on_begun(kind)
                self.journal.log(kind)
            else:
                self.journal.add(event)
        raise WorkerDiedError("the events of the run ended without saying how it ended")

    async def stop_when_yielding(self) -> None:
        """Once the request is paused, or makes room for another, let its run save its state and end."""
        await self.yielding.wait()
        await self.stop(save=True)

    async def stop_when_cancelled(self) -> None:
        """Once the request is cancelled stop its run; if it does not stop in time, kill its worker."""
        await self.cancelled.wait()
        await self.stop(save=True)
        await asyncio.sleep(STOP_SECONDS)
        await self.stop(save=False)

    async def collect_while_running(self) -> None:
        """Fetch what the run makes, for those who look at it."""
        while self.copy is not None:
            await asyncio.sleep(COLLECT_SECONDS)
            await self.collect()

    async def collect(self, *, own: bool = False) -> None:
        """Fetch what there is now; with `own` what this attempt has made alone. A fault is logged."""
        if self.copy is None:
            return
        try:
            work = partial(self.copy.collect, self.folder, own=own)
            await asyncio.get_running_loop().run_in_executor(_COLLECTING, work)
        except (SonoloraError, OSError) as error:
            logger.info("what request %s has made is not fetched now: %s", self.request.id, error)

    async def end(self) -> None:
        """Let the run save its state, and wait for its end; after a time kill it."""
        if self.handle is None:
            return
        await self.stop(save=True)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.follow(_ignored)
        except TimeoutError:
            await self.stop(save=False)
        except WorkerDiedError:
            pass

    async def stop(self, *, save: bool) -> None:
        """What `Placer.stop` does, while the run is placed."""
        if self.handle is not None:
            await self.placer.stop(self.handle, save)


def _place(file: StoredFile, storage: Storage, *, apart: bool) -> str | dict[str, str]:
    """Where a worker finds a file: a path, or for one `apart` an object."""
    return {"object": file.object_name} if apart else str(storage.content(file))


async def _ignored(kind: str) -> None: ...


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

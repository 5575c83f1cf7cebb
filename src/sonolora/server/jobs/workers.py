"""The workers: one process a device, each given the next request of the queue when it has done the one before.

In: the requests in the job store. Out: their results there, and everything that happens on the way. A worker that dies
costs a request an attempt, and no more work than was done since its last saved state. When the server ends, runs save
their state and go back to the queue; when it was killed, they do so at its next start.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonolora.core.errors import SonoloraError
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.runs.run_folder import remove_unpacked
from sonolora.server.files.storage import Storage, file_id
from sonolora.server.jobs.database import StoreError
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.notifier import wait
from sonolora.server.jobs.records import Request, Result, State
from sonolora.server.jobs.results import CANCELLED, OVERDUE, crashed, failed, finished, refused
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.worker_process import WorkerDiedError, WorkerProcess
from sonolora.server.net.urls import is_own_url
from sonolora.server.settings import ServerSettings
from sonolora.training.metrics import read_metrics

STOP_SECONDS = 20.0  # for a run to save its state; then its worker is killed
_LOOK_SECONDS = 1.0  # between looks for what other processes, such as a command in a terminal, have changed
_LONGEST_PAUSE = 60.0  # between attempts to start a worker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActiveJob:
    """A request that a worker has in hand."""

    request: Request
    body: dict[str, Any]
    folder: Path
    worker: WorkerProcess
    journal: Journal
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class Workers:
    """`changed` is told, in the event loop, the id of every request of which something is new."""

    def __init__(
        self, settings: ServerSettings, store: Store, storage: Storage, changed: Callable[[str], None]
    ) -> None:
        self._settings, self._store, self._storage, self._changed = settings, store, storage, changed
        self._woken = asyncio.Event()
        self._going: dict[str, ActiveJob] = {}

    def wake(self) -> None:
        """There is a request more, or one is to be cancelled. Called in the event loop."""
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def run(self) -> None:
        """Until it is cancelled; it ends when all runs have saved their state and all workers are gone."""
        # What an earlier server has left running is resumed.
        for request in await asyncio.to_thread(self._store.requests, state=State.RUNNING, limit=1_000_000):
            await asyncio.to_thread(self._store.requeue, request.id, crashed=False)
        async with asyncio.TaskGroup() as tasks:
            for device in self._settings.devices:
                tasks.create_task(self._serve(device))
            tasks.create_task(self._watch())

    async def _serve(self, device: str) -> None:
        """Keep a worker on a device, and give it requests."""
        while True:
            worker = await self._start(device)
            try:
                while request := await self._next(worker):
                    await self._carry_out(request, worker)
                    if not await worker.is_ready():
                        break
            finally:
                await worker.stop(STOP_SECONDS)

    async def _start(self, device: str) -> WorkerProcess:
        """Until one is ready nothing is taken out of the queue: it is no request's fault when none gets ready."""
        pause = 1.0
        while True:
            try:
                return await WorkerProcess.start(self._settings.base, device)
            except WorkerDiedError as error:
                logger.error("no worker on %s: %s; the next try is in %.0f s", device, error, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _next(self, worker: WorkerProcess) -> Request | None:
        """A request for the worker, when there is one; None when the worker is dead."""
        while not worker.is_dead:
            woken = self._woken
            if request := await asyncio.to_thread(self._store.claim):
                return request
            await wait(woken, _LOOK_SECONDS)
        return None

    async def _watch(self) -> None:
        """See to what was cancelled, and to what has waited for too long."""
        while True:
            woken = self._woken
            for request in await asyncio.to_thread(self._store.cancels):
                if request.state == State.QUEUED:
                    await self._finish(request, CANCELLED)
                elif request.id in self._going:
                    self._going[request.id].cancelled.set()
            for request in await asyncio.to_thread(self._store.overdue, time.time()):
                await self._finish(request, OVERDUE)
            await wait(woken, _LOOK_SECONDS)

    async def _carry_out(self, request: Request, worker: WorkerProcess) -> None:
        """Have the worker do it, and note what becomes of it."""
        body = await asyncio.to_thread(self._store.body, request.id) or {}
        journal = Journal(self._store, request.id, self._changed)
        going = ActiveJob(request, body, self._settings.run_folder(request.id), worker, journal)
        self._going[request.id] = going
        self._changed(request.id)
        logger.info("request %s: started", request.id)
        keeping, cancelling = asyncio.create_task(journal.keep()), asyncio.create_task(_cancel(going))
        try:
            last = await self._follow(going)
            how = "" if last else await worker.end()
        except asyncio.CancelledError:  # the server ends
            await worker.stop(STOP_SECONDS)
            await asyncio.to_thread(self._store.requeue, request.id, crashed=False)
            raise
        except StoreError:  # no room, say: nothing can be noted now, and it is not the request's fault
            raise
        except Exception:  # a fault of ours, which would come again with this request: it ends it
            logger.exception("request %s broke off", request.id)
            await worker.kill()
            last, how = {"event": "failed", "message": None, "traceback": None}, ""
        finally:
            del self._going[request.id]
            cancelling.cancel()
            journal.close()
            await keeping
        if result := await asyncio.to_thread(self._result, going, last, how):
            await self._finish(request, result)
        self._changed(request.id)

    async def _follow(self, going: ActiveJob) -> dict[str, Any] | None:
        """Give the job and listen; returns the event that says how it ended, None when the worker has died."""
        await going.worker.order(await asyncio.to_thread(self._job, going))
        while event := await going.worker.event():
            match event["event"]:
                case "done" | "stopped" | "input_error" | "failed":
                    return event
                case "begun":
                    kind = "resumed" if event["resumed"] else "started"
                    await asyncio.to_thread(self._store.add_event, going.request.id, kind)
                    going.journal.log(kind)
                case _:
                    going.journal.take(event)
        return None

    def _job(self, going: ActiveJob) -> dict[str, Any]:
        known = {
            url: path and str(path)
            for url in _addresses(going.body)
            if (path := self._storage.local(url)) or (file_id(url) and is_own_url(url, self._settings))
        }
        return {
            "id": going.request.id,
            "folder": str(going.folder),
            "mode": going.request.mode,
            "body": going.body,
            "sources": {
                "local": False,
                "private": self._settings.allow_private_urls,
                "known": known,
            },
            "settings": self._settings.run_settings(going.request.mode),
        }

    def _result(self, going: ActiveJob, last: dict[str, Any] | None, how: str) -> Result | None:
        """From the last event, or from how the worker died; None when the request is back in the queue."""
        request = going.request
        if last is not None and last["event"] == "done":
            steps = parse(find_mode(request.mode).request, going.body).number_of_steps
            try:
                # What a killed server was told and had not written yet is in the run's own file.
                self._store.add_metrics(request.id, _metrics(going.folder / "metrics.jsonl"))
                return finished(request, steps, going.folder, self._storage)
            except StoreError:  # not the request's fault: it goes on from its newest state
                raise
            except (OSError, SonoloraError) as error:
                logger.error(
                    "the outputs of request %s, in %s, could not be stored: %s", request.id, going.folder, error
                )
                return failed(request, "the outputs could not be stored")
        if going.cancelled.is_set():
            return CANCELLED
        match last:
            case None:
                return self._crash(request, how)
            case {"event": "input_error", "detail": detail}:
                return refused(request, detail)
            case {"event": "failed", "message": message, "traceback": trace}:
                logger.error("request %s failed: %s\n%s", request.id, message, trace or "")
                return failed(request, message)
        self._store.requeue(request.id, crashed=False)  # someone has ended the worker, in order
        return None

    def _crash(self, request: Request, how: str) -> Result | None:
        logger.error("request %s: %s", request.id, how)
        if request.no_retry or request.attempts + 1 >= self._settings.attempts:
            return crashed(request, how)
        self._store.add_logs(request.id, [(time.time(), "ERROR", f"{how}; it is tried again")])
        self._store.requeue(request.id, crashed=True, how=how)
        return None

    async def _finish(self, request: Request, result: Result) -> None:
        def write() -> None:
            remove_unpacked(self._settings.run_folder(request.id))  # what a killed worker left
            if result.status >= 400:
                self._store.add_logs(request.id, [(time.time(), "ERROR", result.error or "")])
            self._store.finish(request.id, result)

        await asyncio.to_thread(write)
        logger.info("request %s: %s", request.id, result.standing)
        self._changed(request.id)


async def _cancel(going: ActiveJob) -> None:
    """Stop the run when that is asked for; one that does not stop in time loses its worker."""
    await going.cancelled.wait()
    await going.worker.order({"stop": going.request.id})
    await asyncio.sleep(STOP_SECONDS)
    await going.worker.kill()


def _metrics(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """Those of a run by step; none of one that kept none."""
    rows: dict[int, dict[str, Any]] = {}
    for line in read_metrics(path) if path.exists() else ():
        rows.setdefault(line.pop("step"), {}).update(line)
    return list(rows.items())


def _addresses(body: Any) -> Iterator[str]:
    """All that a request points at."""
    if isinstance(body, dict):
        for name, value in body.items():
            if isinstance(value, str) and name.endswith("_url"):
                yield value.strip()
            else:
                yield from _addresses(value)
    elif isinstance(body, list):
        for value in body:
            yield from _addresses(value)

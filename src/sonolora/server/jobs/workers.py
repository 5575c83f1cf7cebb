"""The workers: one process per device, each given the next request of the queue when it has finished one.

In: the requests in the job store. Out: their results there, with progress, logs and metrics. A worker that dies costs
a request one attempt and the work since its last saved state. When the server stops, runs save their state and return
to the queue; after the server was killed, they return at its next start. While the database or the disk is at fault,
runs go on, and what they report is written when the fault is over.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sonolora.core.errors import InputError, SonoloraError
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.run_folder import remove_scratch
from sonolora.server import clock
from sonolora.server.database.faults import StoreError
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.active_job import STOP_SECONDS, ActiveJob
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.notifier import wait
from sonolora.server.jobs.records import Kind, Request, Result, State
from sonolora.server.jobs.results import CANCELLED, OVERDUE, crashed, failed, finished, generated, refused
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.jobs.worker_process import WorkerDiedError, WorkerProcess
from sonolora.server.settings import INTERRUPT, ServerSettings

MIN_FREE_BYTES = 256 << 20  # on the server's disk; with less no run is started
FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds before a device gets a new worker, doubled for each that died
_POLL_SECONDS = 1.0  # for changes by other processes, such as a command in a terminal
_LAST_WRITE_SECONDS = 5.0  # for what runs have reported when the server stops

logger = logging.getLogger(__name__)


class Workers:
    """`changed` is called, in the event loop, with the id of each request that has changed."""

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        storage: Storage,
        retrying: Retrying,
        changed: Callable[[str], None],
    ) -> None:
        self._settings, self._store, self._storage, self._changed = settings, store, storage, changed
        self._retrying = retrying
        self._woken = asyncio.Event()
        self._active: dict[str, ActiveJob] = {}
        self._at: dict[str, str] = {}  # ids by device
        self.ready: set[str] = set()  # devices whose worker has loaded its base

    @property
    def active(self) -> dict[str, str]:
        """The requests that are being carried out, with the device of each."""
        return {id: device for device, id in self._at.items()}

    def wake(self) -> None:
        """There is a new request, or one to cancel. Called in the event loop."""
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()

    async def run(self) -> None:
        """Until it is cancelled; it ends when all runs have saved their state and all workers have exited."""
        # Runs that an earlier server left running are resumed.
        for request in await self._retrying(self._store.requests, state=State.RUNNING, limit=1_000_000):
            await self._retrying(self._store.requeue, request.id, crashed=False)
        async with asyncio.TaskGroup() as tasks:
            for device in self._settings.devices:
                tasks.create_task(self._serve(device))
            tasks.create_task(self._watch())

    async def _serve(self, device: str) -> None:
        """Keep a worker running on a device. Nothing that goes wrong here reaches the other devices."""
        deaths = 0
        while True:
            try:
                worker = await WorkerProcess.start(self._settings.base, device)
                self.ready.add(device)
                try:
                    while await self._next_job(worker, device):
                        deaths = 0
                finally:
                    self.ready.discard(device)
                    await worker.stop(STOP_SECONDS)
            except WorkerDiedError as error:
                logger.error("no worker on %s: %s", device, error)
            except Exception:
                logger.exception("the worker on %s is replaced after an unexpected fault", device)
            pause = min(FIRST_PAUSE * 2**deaths, MAX_PAUSE)
            deaths += 1
            logger.info("a new worker on %s starts in %g s", device, pause)
            await asyncio.sleep(pause)

    async def _next_job(self, worker: WorkerProcess, device: str) -> bool:
        """Wait for a request and run it. False when the worker has died, before or while it ran."""
        while not worker.is_dead:
            woken = self._woken
            if self._has_space() and (request := await self._retrying(self._store.claim)):
                self._at[device] = request.id
                try:
                    sent = await self._carry_out(request, worker)
                finally:
                    del self._at[device]
                return not sent or await worker.is_ready()
            await wait(woken, _POLL_SECONDS)
        return False

    def _has_space(self) -> bool:
        """Whether the disk has room to start a run."""
        if shutil.disk_usage(self._settings.folder).free >= MIN_FREE_BYTES:
            self._retrying.health.end(self)
            return True
        self._retrying.health.begin(self, f"the server's disk has less than {MIN_FREE_BYTES >> 20} MiB left")
        return False

    async def _watch(self) -> None:
        """End requests that were cancelled or have waited for too long."""
        while True:
            woken = self._woken
            for request in await self._retrying(self._store.to_cancel):
                if request.state == State.QUEUED:
                    await self._finish(request, CANCELLED)
                elif request.id in self._active:
                    self._active[request.id].cancelled.set()
            for id in await self._retrying(self._store.to_pause):
                if id in self._active:
                    self._active[id].yielding.set()
            await self._make_room()
            for request in await self._retrying(self._store.overdue, clock.now()):
                await self._finish(request, OVERDUE)
            await wait(woken, _POLL_SECONDS)

    async def _make_room(self) -> None:
        """By the policy `interrupt`: where a sound is to be generated and no worker is free, a training yields."""
        if self._settings.generate_while_training != INTERRUPT or len(self._active) < len(self._settings.devices):
            return
        jobs = self._active.values()
        if any(job.yielding.is_set() or job.request.kind == Kind.GENERATE for job in jobs):
            return
        queue = await self._retrying(self._store.queue)
        if queue and queue[0].kind == Kind.GENERATE and not queue[0].paused:
            max(jobs, key=lambda job: job.began).yielding.set()

    async def _carry_out(self, request: Request, worker: WorkerProcess) -> bool:
        """Let the worker run it, and record what becomes of it. False when the worker was not given it."""
        body = await self._retrying(self._store.body, request.id) or {}
        journal = Journal(self._store, self._retrying, request.id, self._changed)
        job = ActiveJob(request, body, self._settings.run_folder(request.id), worker, journal)
        self._active[request.id] = job
        self._changed(request.id)
        logger.info("request %s: started", request.id)
        writing = asyncio.create_task(journal.run())
        cancelling = asyncio.create_task(job.stop_when_cancelled())
        yielding = asyncio.create_task(job.stop_when_yielding())
        try:
            ending, how = await self._ending(job)
            cancelling.cancel()
            yielding.cancel()
            journal.close()
            await asyncio.shield(writing)
            if result := await self._result(job, ending, how):
                await self._finish(request, result)
        except asyncio.CancelledError:  # the server stops
            await worker.stop(STOP_SECONDS)
            journal.close()
            await asyncio.wait({writing}, timeout=_LAST_WRITE_SECONDS)
            with suppress(StoreError):  # it is requeued at the next start
                await asyncio.to_thread(self._store.requeue, request.id, crashed=False)
            raise
        except Exception:  # a bug, which would come again with this request: fail it
            logger.exception("what became of request %s cannot be recorded", request.id)
            await self._finish(request, failed(None, job.seconds))
        finally:
            del self._active[request.id]
            cancelling.cancel()
            yielding.cancel()
            writing.cancel()
        self._changed(request.id)
        return job.sent.is_set()

    async def _ending(self, job: ActiveJob) -> tuple[dict[str, Any] | None, str]:
        """The event that says how the run ended; None when the worker has died, with how it died."""
        try:
            command = await self._retrying(job.command, self._settings, self._storage)
            job.sent.set()
            await job.worker.send(command)
            ending = await job.follow(lambda kind: self._retrying(self._store.add_event, job.request.id, kind))
            if ending is None:
                return None, await job.worker.end()
            if ending.get("disk_full"):  # a run that is too large for the disk has left room again
                ending["disk_full"] = not self._has_space()
            return ending, ""
        except InputError as error:  # of what the request names, found before the worker begins
            return {"event": "input_error", "detail": error.detail()}, ""
        except Exception:  # a bug, which would come again with this request: fail it
            logger.exception("request %s failed unexpectedly", job.request.id)
            await job.worker.kill()
            return {"event": "failed", "message": None, "traceback": None}, ""

    async def _result(self, job: ActiveJob, ending: dict[str, Any] | None, how: str) -> Result | None:
        """From the last event, or from how the worker died; None when the request was requeued."""
        request = job.request
        if ending is not None and ending["event"] == "done":
            return await self._success(job)
        if job.cancelled.is_set():
            return CANCELLED
        match ending:
            case None:
                return await self._crash(job, how)
            case {"event": "input_error", "detail": detail}:
                return refused(detail, job.seconds)
            case {"event": "failed", "disk_full": True}:
                line = (time.time(), "WARN", "the server's disk is full; the run continues when there is space")
                await self._retrying(self._store.add_logs, request.id, [line])
            case {"event": "failed", "message": message, "traceback": trace}:
                logger.error("request %s failed: %s", request.id, "\n".join(filter(None, [message, trace])))
                return failed(message, job.seconds)
        await self._retrying(self._store.requeue, request.id, crashed=False)  # or the worker was stopped from outside
        return None

    async def _success(self, job: ActiveJob) -> Result:
        request, seconds = job.request, job.seconds
        if request.kind == Kind.GENERATE:
            try:
                return await self._retrying(generated, request, job.folder, self._storage, seconds)
            except (OSError, SonoloraError) as error:
                logger.error("the sounds of request %s, in %s, could not be stored: %s", request.id, job.folder, error)
                return failed("the sounds could not be stored", seconds)
        steps = parse(find_mode(request.mode).request, job.body).number_of_steps
        try:
            # The run's own file has what a server had not yet written when it was killed.
            metrics = await asyncio.to_thread(_metrics, job.folder)
        except (OSError, ValueError, SonoloraError) as error:
            logger.error("the metrics of request %s cannot be read: %s", request.id, error)
            metrics = []
        await self._retrying(self._store.record, request.id, metrics=metrics)
        try:
            return await self._retrying(finished, request, steps, job.folder, self._storage, seconds)
        except (OSError, SonoloraError) as error:
            logger.error("the outputs of request %s, in %s, could not be stored: %s", request.id, job.folder, error)
            return failed("the outputs could not be stored", seconds)

    async def _crash(self, job: ActiveJob, how: str) -> Result | None:
        request = job.request
        logger.error("request %s: %s", request.id, how)
        if request.no_retry or request.attempts + 1 >= self._settings.attempts:
            return crashed(how, job.seconds)
        line = (time.time(), "ERROR", f"{how}; trying again")
        await self._retrying(self._store.add_logs, request.id, [line])
        await self._retrying(self._store.requeue, request.id, crashed=True, how=how)
        return None

    async def _finish(self, request: Request, result: Result) -> None:
        await asyncio.to_thread(remove_scratch, self._settings.run_folder(request.id))  # left by a killed worker
        if result.status >= 400:
            line = (time.time(), "ERROR", result.error or "")
            await self._retrying(self._store.add_logs, request.id, [line])
        await self._retrying(self._store.finish, request.id, result)
        logger.info("request %s: %s", request.id, result.outcome)
        self._changed(request.id)


def _metrics(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """A run's metrics by step; none if it wrote none."""
    rows: dict[int, dict[str, Any]] = {}
    for line in RunArtifacts(folder).metrics():
        rows.setdefault(line.pop("step"), {}).update(line)
    return list(rows.items())

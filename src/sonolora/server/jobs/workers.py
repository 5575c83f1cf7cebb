"""The workers: each slot of the placer is given the next request of the queue when it has finished one.

In: the requests in the job store. Out: their results there, with progress, logs and metrics. A worker that dies costs
a request one attempt and the work since its last saved state. When the server stops, runs save their state and return
to the queue; after the server was killed, they return at its next start. While the database or the disk is at fault,
runs go on, and what they report is written when the fault is over.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sonolora.core.errors import ErrorItem, InputError, SonoloraError
from sonolora.modes import find_mode
from sonolora.modes.request import parse
from sonolora.planning.sweep_plan import SweepPlan
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.run_folder import remove_scratch
from sonolora.server import clock
from sonolora.server.database.faults import StoreError
from sonolora.server.files.remote import collect
from sonolora.server.files.storage import Storage
from sonolora.server.jobs.active_job import ActiveJob
from sonolora.server.jobs.drains import Drain, covering
from sonolora.server.jobs.journal import Journal
from sonolora.server.jobs.notifier import wait
from sonolora.server.jobs.records import Kind, Request, Result, State
from sonolora.server.jobs.results import CANCELLED, OVERDUE, crashed, failed, finished, generated, refused
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store
from sonolora.server.logs import begin_notes, note
from sonolora.server.placing.attempt_folders import drop_older_attempts
from sonolora.server.placing.placer import Placer, Slot, WorkerDiedError
from sonolora.server.settings import INTERRUPT, ServerSettings

MIN_FREE_BYTES = 256 << 20  # on the server's disk; with less no run is started
_POLL_SECONDS = 1.0  # for changes by other processes, such as a command in a terminal
_LAST_WRITE_SECONDS = 5.0  # for what runs have reported when the server stops

logger = logging.getLogger(__name__)


class Workers:
    """`changed` is called, in the event loop, with the id of each request that has changed.

    `make_placer` is called with a function that the placer calls when a slot has become free. `memory` says how much
    a request with its body needs on a device, in GB, and raises `InputError`; it is asked where devices differ.
    """

    def __init__(
        self,
        settings: ServerSettings,
        store: Store,
        storage: Storage,
        retrying: Retrying,
        changed: Callable[[str], None],
        make_placer: Callable[[Callable[[], None]], Placer[Any]],
        memory: Callable[[Request, dict[str, Any]], Awaitable[float]] | None = None,
    ) -> None:
        self._settings, self._store, self._storage, self._changed = settings, store, storage, changed
        self._retrying = retrying
        self._placer, self._memory = make_placer(self._place_more), memory
        self._largest = -1.0  # memory of the largest device that there has been, in GB
        self._woken, self._place_woken = asyncio.Event(), asyncio.Event()
        self._drains: list[Drain] = []  # as they were when last looked at
        self._active: dict[str, ActiveJob] = {}
        self._at: dict[str, str] = {}  # ids by slot
        self.slots: Sequence[Slot] = ()  # as they were when last looked at

    @property
    def active(self) -> dict[str, str]:
        """The requests that are being carried out, with the slot of each."""
        return {id: slot for slot, id in self._at.items()}

    def wake(self) -> None:
        """There is a new request, or one to cancel. Called in the event loop."""
        woken, self._woken = self._woken, asyncio.Event()
        woken.set()
        self._place_more()

    def _place_more(self) -> None:
        """There is a request that could be placed, or a free slot."""
        woken, self._place_woken = self._place_woken, asyncio.Event()
        woken.set()

    async def run(self) -> None:
        """Until it is cancelled; it ends when all runs have saved their state and all workers have exited."""
        # Runs that an earlier server left running are resumed.
        for request in await self._retrying(self._store.requests, state=State.RUNNING, limit=1_000_000):
            await self._retrying(self._store.requeue, request.id, crashed=False)
        await self._look_at_drains()
        async with self._placer, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._count())
            await self._place(tasks)

    async def _place(self, tasks: asyncio.TaskGroup) -> None:
        """Give each slot that is free the next request."""
        while True:
            woken = self._place_woken
            try:
                self._look_at(await self._placer.capacity())
                for slot in sorted(self.slots, key=lambda slot: slot.gb):  # so that large ones stay free for large runs
                    if not slot.free or slot.drained or slot.name in self._at:
                        continue
                    if not self._has_space():
                        break
                    if request := await self._retrying(self._store.claim, slot.gb):
                        self._at[slot.name] = request.id
                        tasks.create_task(self._carry_out(request, slot))
                    elif slot.gb == math.inf:
                        break
            except Exception:  # the runs go on
                logger.exception("no run could be placed")
            await wait(woken, _POLL_SECONDS)

    def _look_at(self, slots: Sequence[Slot]) -> None:
        self.slots = [replace(slot, drained=covering(self._drains, slot.name) is not None) for slot in slots]
        self._largest = max([self._largest, *(slot.gb for slot in slots)])

    async def _look_at_drains(self) -> None:
        self._drains = await self._retrying(self._store.drains.all)
        for id, name in self.active.items():
            if (drain := covering(self._drains, name)) and drain.move and id in self._active:
                self._active[id].yielding.set()

    async def _count(self) -> None:
        """Where devices differ, note the memory that each request needs; refuse what none could ever hold."""
        while True:
            woken = self._woken
            if 0 <= self._largest < math.inf and (request := await self._retrying(self._store.uncounted)):
                await self._count_one(request)
                self._place_more()
            else:
                await wait(woken, _POLL_SECONDS)

    async def _count_one(self, request: Request) -> None:
        try:
            body = await self._retrying(self._store.body, request.id)
            gb = 0.0 if self._memory is None else await self._memory(request, body or {})
        except InputError as error:
            await self._finish(request, refused(error.detail(), 0.0))
            return
        except Exception as error:
            logger.error("what request %s needs is not known, so the largest device is taken: %s", request.id, error)
            gb = self._largest
        await self._retrying(self._store.set_gb, request.id, gb)
        if gb > self._largest:
            words = f"it needs {gb:.1f} GB of memory on a device, and the largest has {self._largest:g} GB"
            advice = "Lower rank or duration, or use settings that save memory: see `sonolora estimate`"
            item = ErrorItem(("body",), f"{words}. {advice}", "does_not_fit")
            await self._finish(request, refused(InputError([item]).detail(), 0.0))

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
            await self._look_at_drains()
            await self._make_room()
            for request in await self._retrying(self._store.overdue, clock.now()):
                await self._finish(request, OVERDUE)
            await wait(woken, _POLL_SECONDS)

    async def _make_room(self) -> None:
        """By the policy `interrupt`: where a sound is to be generated and no worker is free, a training yields."""
        if self._settings.generate_while_training != INTERRUPT or len(self._active) < max(len(self.slots), 1):
            return
        jobs = self._active.values()
        if any(job.yielding.is_set() or job.request.kind == Kind.GENERATE for job in jobs):
            return
        queue = await self._retrying(self._store.queue)
        if queue and queue[0].kind == Kind.GENERATE and not queue[0].paused:
            max(jobs, key=lambda job: job.began).yielding.set()

    async def _carry_out(self, request: Request, slot: Slot) -> None:
        """Place the request on a slot, and record what becomes of it. What goes wrong does not reach other runs."""
        begin_notes(run=request.id, attempt=request.starts, key=request.key_id, node=slot.name)
        journal = Journal(self._store, self._retrying, request.id, request.starts, self._changed)
        folder = self._settings.run_folder(request.id)
        copy = self._storage.run_copy(request.id, request.starts) if self._settings.nodes_share_nothing else None
        job = ActiveJob(request, {}, folder, slot.name, self._placer, journal, copy)
        writing = asyncio.create_task(journal.run())
        beside = (job.stop_when_cancelled, job.stop_when_yielding, job.collect_while_running)
        stopping = [asyncio.create_task(work()) for work in beside]
        try:
            body = await self._retrying(self._store.body, request.id)
            job.body = body or {}
            self._active[request.id] = job
            self._changed(request.id)
            logger.info("request %s: started", request.id)
            ending, how = await self._ending(job)
            for task in stopping:
                task.cancel()
            journal.close()
            await asyncio.shield(writing)
            if result := await self._result(job, ending, how):
                await self._finish(request, result, request.starts)
        except asyncio.CancelledError:  # the server stops
            await job.end()
            journal.close()
            await asyncio.wait({writing}, timeout=_LAST_WRITE_SECONDS)
            with suppress(StoreError):  # it is requeued at the next start
                await asyncio.to_thread(self._store.requeue, request.id, crashed=False, attempt=request.starts)
            raise
        except Exception:  # a bug, which would come again with this request: fail it
            logger.exception("what became of request %s cannot be recorded", request.id)
            try:
                await self._finish(request, failed(None, job.seconds), request.starts)
            except Exception:
                logger.exception("request %s stays as it is until the next start", request.id)
        finally:
            self._active.pop(request.id, None)
            del self._at[slot.name]
            for task in (*stopping, writing):
                task.cancel()
        self._changed(request.id)
        self._place_more()

    async def _ending(self, job: ActiveJob) -> tuple[dict[str, Any] | None, str]:
        """The event that says how the run ended; None when the worker has died, with how it died."""
        try:
            access = await self._retrying(self._store.keys.access_of, job.request.key_id)
            note(owner=access.key.owner)
            await job.start(await self._retrying(job.command, self._settings, self._storage, access))
            id, attempt = job.request.id, job.request.starts
            ending = await job.follow(lambda kind: self._retrying(self._store.add_event, id, kind, attempt=attempt))
            if ending.get("disk_full"):  # a run that is too large for the disk has left room again
                ending["disk_full"] = not self._has_space()
            return ending, ""
        except WorkerDiedError as error:
            job.handle = None
            return None, str(error)
        except InputError as error:  # of what the request names, found before the worker begins
            return {"event": "input_error", "detail": error.detail()}, ""
        except Exception:  # a bug, which would come again with this request: fail it
            logger.exception("request %s failed unexpectedly", job.request.id)
            await job.stop(save=False)
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
                await job.collect(own=True)  # the report
                return refused(detail, job.seconds)
            case {"event": "failed", "disk_full": True}:
                line = (time.time(), "WARN", "the server's disk is full; the run continues when there is space")
                await self._retrying(self._store.add_logs, request.id, [line], request.starts)
            case {"event": "failed", "message": message, "traceback": trace}:
                logger.error("request %s failed: %s", request.id, "\n".join(filter(None, [message, trace])))
                return failed(message, job.seconds)
        # or the worker was stopped from outside
        await self._retrying(self._store.requeue, request.id, crashed=False, attempt=request.starts)
        return None

    async def _success(self, job: ActiveJob) -> Result:
        request, seconds = job.request, job.seconds
        if job.copy is not None:
            await self._retrying(collect, job.copy, job.folder)
        if request.kind == Kind.GENERATE:
            try:
                return await self._retrying(generated, request, job.folder, self._storage, seconds)
            except (OSError, SonoloraError) as error:
                logger.error("the sounds of request %s, in %s, could not be stored: %s", request.id, job.folder, error)
                return failed("the sounds could not be stored", seconds)
        steps = _billed(request, job.body)
        try:
            # The run's own file has what a server had not yet written when it was killed.
            metrics = await asyncio.to_thread(_metrics, job.folder)
        except (OSError, ValueError, SonoloraError) as error:
            logger.error("the metrics of request %s cannot be read: %s", request.id, error)
            metrics = []
        await self._retrying(self._store.record, request.id, metrics=metrics, attempt=request.starts)
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
        await self._retrying(self._store.add_logs, request.id, [line], request.starts)
        await self._retrying(self._store.requeue, request.id, crashed=True, how=how, attempt=request.starts)
        return None

    async def _finish(self, request: Request, result: Result, attempt: int | None = None) -> None:
        """`attempt`: the one whose result it is, of a request that runs."""
        folder = self._settings.run_folder(request.id)
        await asyncio.to_thread(remove_scratch, folder)  # left by a killed worker
        await asyncio.to_thread(drop_older_attempts, folder)
        if result.status >= 400:
            line = (time.time(), "ERROR", result.error or "")
            await self._retrying(self._store.add_logs, request.id, [line], attempt)
        await self._retrying(self._store.finish, request.id, result, attempt)
        about = {"run": request.id, "key": request.key_id, "duration": result.inference_time}
        logger.info("request %s: %s", request.id, result.outcome, extra={"fields": about})
        self._changed(request.id)


def _billed(request: Request, body: dict[str, Any]) -> int:
    """Steps, of a sweep those of all its members."""
    mode = find_mode(request.mode)
    if "sweep" not in request.options:
        return parse(mode.request, body).number_of_steps
    plan = SweepPlan.of(request.options["sweep"])
    return plan.member_steps(plan.request(mode, body).number_of_steps)


def _metrics(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """A run's metrics by step; none if it wrote none."""
    rows: dict[int, dict[str, Any]] = {}
    for line in RunArtifacts(folder).metrics():
        rows.setdefault(line.pop("step"), {}).update(line)
    return list(rows.items())

"""Runs on the devices of this machine: one process per device, which keeps the networks loaded from run to run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sonolora.server.placing.placer import ENDINGS, STOP_SECONDS, Run, Slot, WorkerDiedError
from sonolora.server.placing.worker_process import WorkerProcess

FIRST_PAUSE, MAX_PAUSE = 1.0, 60.0  # seconds before a device gets a new worker, doubled for each that died

logger = logging.getLogger(__name__)


@dataclass
class Worker:
    """A device with its process, and the request that it has."""

    process: WorkerProcess
    run: str | None = None
    runs: int = 0  # that it has ended


class LocalPlacer:
    """`changed` is called, in the event loop, when a device has become free."""

    def __init__(self, base: str, devices: Sequence[str], changed: Callable[[], None]) -> None:
        self._base, self._devices, self._changed = base, devices, changed
        self._workers: dict[str, Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._tasks = {asyncio.create_task(self._keep(device)) for device in self._devices}
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Runs save their state, and all workers exit."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def capacity(self) -> list[Slot]:
        return [
            Slot(device, free=worker is not None and worker.run is None, ready=worker is not None)
            for device in self._devices
            for worker in [self._workers.get(device)]
        ]

    async def start(self, run: Run, attempt: int) -> Worker:  # noqa: ARG002 - its folder is that of every attempt
        worker = self._workers.get(run.slot)
        if worker is None or worker.run is not None:
            raise WorkerDiedError(f"there is no free worker on {run.slot}")
        worker.run = run.id
        await worker.process.send(run.command)
        return worker

    async def lines(self, handle: Worker) -> AsyncIterator[dict[str, Any]]:
        while event := await handle.process.event():
            if event["event"] in ENDINGS:
                task = asyncio.create_task(self._release(handle))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                yield event
                return
            yield event
        raise WorkerDiedError(await handle.process.end())

    async def stop(self, handle: Worker, save: bool) -> None:
        if save:
            await handle.process.send({"stop": handle.run})
        else:
            await handle.process.kill()

    async def _release(self, worker: Worker) -> None:
        if await worker.process.is_ready():
            worker.run, worker.runs = None, worker.runs + 1
            self._changed()

    async def _keep(self, device: str) -> None:
        """Keep a worker running on a device. Nothing that goes wrong here reaches the other devices."""
        deaths = 0
        while True:
            try:
                process = await WorkerProcess.start(self._base, device)
                worker = self._workers[device] = Worker(process)
                self._changed()
                try:
                    await process.ended()
                finally:
                    del self._workers[device]
                    await process.stop(STOP_SECONDS)
                if worker.runs:
                    deaths = 0
            except WorkerDiedError as error:
                logger.error("no worker on %s: %s", device, error)
            except Exception:
                logger.exception("the worker on %s is replaced after an unexpected fault", device)
            pause = min(FIRST_PAUSE * 2**deaths, MAX_PAUSE)
            deaths += 1
            logger.info("a new worker on %s starts in %g s", device, pause)
            await asyncio.sleep(pause)

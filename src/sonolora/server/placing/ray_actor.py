"""The process of one run on a node of a Ray cluster, for the server's `ray_placer`.

In: calls from the server. Out: the events of the same process that the server starts on its own machine. When the
server is gone Ray ends the actor, and the process saves its state and ends when its input does.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sonolora.server.placing.placer import WorkerDiedError
from sonolora.server.placing.worker_process import WorkerProcess

DIED = "died"  # the event after the last one


class RunActor:
    """An asynchronous Ray actor. Events are kept until the server says that it has them."""

    def __init__(self, device: str, command: dict[str, Any]) -> None:
        self._device, self._command = device, command
        self._process: WorkerProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._events: list[dict[str, Any]] = []
        self._dropped = 0  # of all events, at the front
        self._news = asyncio.Event()

    async def begin(self) -> None:
        """Start the process, and do not wait for it."""
        self._task = asyncio.create_task(self._work())

    async def lines(self, after: int) -> list[dict[str, Any]]:
        """The events after the first `after`; waits until there is one."""
        del self._events[: after - self._dropped]
        self._dropped = after
        while not self._events:
            self._news.clear()
            await self._news.wait()
        return list(self._events)

    async def stop(self, save: bool) -> None:
        """As `Placer.stop`."""
        if self._process is None:
            if self._task is not None:
                self._task.cancel()
            self._tell({"event": DIED, "how": "the worker was stopped while it started"})
        elif save:
            await self._process.send({"stop": self._command["id"]})
        else:
            await self._process.kill()

    async def _work(self) -> None:
        try:
            self._process = await WorkerProcess.start(None, self._device)
            await self._process.send(self._command)
            while event := await self._process.event():
                self._tell(event)
            how = await self._process.end()
        except WorkerDiedError as error:
            how = str(error)
        self._tell({"event": DIED, "how": how})

    def _tell(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        self._news.set()

"""A worker process as the server sees it: started, given orders, listened to, ended.

In: a base and a device. Out: the events that `sonolora.server.jobs.worker` tells, as dictionaries.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from sonolora.core.errors import SonoloraError

_COMMAND = (sys.executable, "-m", "sonolora.server.jobs.worker")
_START_SECONDS = 600.0  # until it is ready: a large base is read from a slow disk
_LONGEST_LINE = 1 << 26  # bytes; an error may name every file of a large archive


class WorkerDiedError(SonoloraError):
    """A worker process that ended by itself; the message says how."""


class WorkerProcess:
    """`start` makes one."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._orders, self._told = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, base: str, device: str) -> WorkerProcess:
        """One that is ready for a job. Raises `WorkerDiedError`; why it ended is then on standard error."""
        spawning = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *_COMMAND,
                *("--base", base, "--device", device),
                stdin=PIPE,
                stdout=PIPE,
                limit=_LONGEST_LINE,
                start_new_session=True,  # Ctrl-C is for the server, which then ends its workers in order
            )
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                worker = cls(await asyncio.shield(spawning))  # cut off in the middle, it would leave a process behind
                ready = await worker.is_ready()
        except TimeoutError:
            await cls(await spawning).kill()
            raise WorkerDiedError(f"the worker was not ready within {_START_SECONDS:.0f} s") from None
        except asyncio.CancelledError:
            await cls(await spawning).kill()
            raise
        if not ready:
            raise WorkerDiedError(await worker.end())
        return worker

    @property
    def id(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        return self._process.returncode is not None

    async def is_ready(self) -> bool:
        """Wait until it can take a job; False when it has ended instead."""
        while event := await self.event():
            if event["event"] == "ready":
                return True
        return False

    async def order(self, order: Mapping[str, Any]) -> None:
        """Send a job or a stop. That nothing reaches a dead one is seen from its events, which end."""
        with suppress(ConnectionError, RuntimeError):  # the latter is uvloop's for a closed pipe
            self._orders.write(json.dumps(order).encode() + b"\n")
            await self._orders.drain()

    async def event(self) -> dict[str, Any] | None:
        """The next thing that it tells; None when it has ended."""
        line = await self._told.readline()
        # A line without an end is the last word of one that was killed.
        return json.loads(line) if line.endswith(b"\n") else None

    async def end(self) -> str:
        """How it ended, in words, when it has."""
        code = await self._process.wait()
        if code >= 0:
            return f"the worker ended with exit code {code}"
        hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {signal.Signals(-code).name}{hint}"

    async def stop(self, seconds: float) -> None:
        """Let its run save its state and the process end, but not for longer than that."""
        self._orders.close()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

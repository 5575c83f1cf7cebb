"""A worker process, from the server's side: started, sent commands, read from, ended.

In: a base, which it loads at once, and a device. Out: the events that `sonolora.server.jobs.worker` writes, as
dictionaries.
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

from sonolora.server.placing.placer import WorkerDiedError

_COMMAND = (sys.executable, "-m", "sonolora.server.jobs.worker")
_START_SECONDS = 600.0  # until it is ready: a large base may be read from a slow disk
_MAX_LINE_BYTES = 1 << 26  # an error may name every file of a large archive


class WorkerProcess:
    """Made by `start`."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._commands, self._events = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, base: str | None, device: str) -> WorkerProcess:
        """A worker that is ready for a job; without a base it loads that of the job.

        Raises `WorkerDiedError`; the cause is then on standard error.
        """
        spawning = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *_COMMAND,
                *(() if base is None else ("--base", base)),
                *("--device", device),
                stdin=PIPE,
                stdout=PIPE,
                limit=_MAX_LINE_BYTES,
                start_new_session=True,  # Ctrl-C is for the server, which then stops its workers
            )
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                worker = cls(await asyncio.shield(spawning))  # cancelled halfway, it would leave a process behind
                ready = await worker.is_ready()
        except OSError as error:  # no process: out of memory, too many of them
            raise WorkerDiedError(f"its process could not be started: {error.strerror or error}") from error
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
    def pid(self) -> int:
        return self._process.pid

    async def is_ready(self) -> bool:
        """Wait until it can take a job; False when it has ended instead."""
        while event := await self.event():
            if event["event"] == "ready":
                return True
        return False

    async def send(self, command: Mapping[str, Any]) -> None:
        """Send a job or a stop. For a dead worker nothing happens: its events have ended."""
        with suppress(ConnectionError, RuntimeError):  # the latter is uvloop's for a closed pipe
            self._commands.write(json.dumps(command).encode() + b"\n")
            await self._commands.drain()

    async def event(self) -> dict[str, Any] | None:
        """The next event; None when the process has ended."""
        line = await self._events.readline()
        # A process that is killed may leave an incomplete line.
        return json.loads(line) if line.endswith(b"\n") else None

    async def ended(self) -> None:
        """Wait for its end."""
        await self._process.wait()

    async def end(self) -> str:
        """Wait for its end; returns how it ended, in words."""
        code = await self._process.wait()
        if code >= 0:
            return f"the worker exited with code {code}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-code).name}{hint}"

    async def stop(self, seconds: float) -> None:
        """Let its run save its state and the process end; after that time kill it."""
        self._commands.close()
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

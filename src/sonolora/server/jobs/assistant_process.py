"""The assistant from the server's side: started when somebody asks, ended when nobody has asked for a while.

In: a task. Out: its result, and its progress on the way. Tasks are done one after the other; a task that nobody waits
for any more is dropped before it begins.
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sonolora.core.errors import ErrorItem, InputError, SonoloraError

IDLE_SECONDS = 300.0
_COMMAND = (sys.executable, "-m", "sonolora.server.jobs.assistant")
_MAX_LINE_BYTES = 1 << 26


class Assistant:
    """For one event loop."""

    def __init__(self) -> None:
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def __call__(
        self, task: dict[str, Any], progress: Callable[[dict[str, Any]], None] = lambda _: None
    ) -> dict[str, Any]:
        """The result. Raises `InputError` or `SonoloraError` with what the assistant says."""
        async with self._turn:
            if self._idle is not None:
                self._idle.cancel()
            try:
                return await self._ask({**task, "id": uuid.uuid4().hex}, progress)
            except BaseException as error:
                if not isinstance(error, SonoloraError):  # nobody waits any more: half a task cannot be taken back
                    await self.stop()
                raise
            finally:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end)

    async def _ask(self, task: dict[str, Any], progress: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *_COMMAND, stdin=PIPE, stdout=PIPE, limit=_MAX_LINE_BYTES, start_new_session=True
            )
        assert process.stdin is not None and process.stdout is not None
        with suppress(ConnectionError, RuntimeError):
            process.stdin.write(json.dumps(task).encode() + b"\n")
            await process.stdin.drain()
        while line := await process.stdout.readline():
            match json.loads(line) if line.endswith(b"\n") else None:
                case {"id": id, "progress": state} if id == task["id"]:
                    progress(state)
                case {"id": id, "result": result} if id == task["id"]:
                    return dict(result)
                case {"id": id, "detail": detail} if id == task["id"]:
                    raise InputError([ErrorItem(tuple(one["loc"]), one["msg"], one["type"]) for one in detail])
                case {"id": id, "message": message} if id == task["id"]:
                    raise SonoloraError(message)
        await self.stop()
        raise SonoloraError("the process that checks and estimates has ended; the server's log may say why")

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()

    async def stop(self) -> None:
        """End the process at once."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

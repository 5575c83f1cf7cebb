"""A placer in another process, from the server's side; see `placer_process`.

In: its command line. Out: a placer that has no slots while there is no such process, or no cluster behind it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from sonolora.server.placing.placer import ENDINGS, Run, Slot, WorkerDiedError

_COMMAND = (sys.executable, "-m", "sonolora.server.placing.placer_process")
_MAX_LINE_BYTES = 1 << 26
_LOST = "the cluster was lost"
FIRST_PAUSE, MAX_PAUSE = 1.0, 30.0  # seconds before the process is started again
_STOP_SECONDS = 10.0  # for the process to end when its input does

logger = logging.getLogger(__name__)


class RemotePlacer:
    """`changed` is called, in the event loop, when there are slots again."""

    def __init__(self, arguments: Sequence[str], changed: Callable[[], None]) -> None:
        self._arguments, self._changed = arguments, changed
        self._process: Process | None = None
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._events: dict[int, asyncio.Queue[dict[str, Any]]] = {}  # by handle
        self._numbers = itertools.count(1)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def capacity(self) -> list[Slot]:
        try:
            return [Slot(**slot) for slot in await self._ask(next(self._numbers), {"capacity": None})]
        except WorkerDiedError:
            return []

    async def start(self, run: Run, attempt: int) -> int:
        number = next(self._numbers)
        self._events[number] = asyncio.Queue()
        try:
            await self._ask(number, {"start": asdict(run), "attempt": attempt})
        except BaseException:
            del self._events[number]
            await self._send({"stop": number, "save": False})
            raise
        return number

    async def lines(self, handle: int) -> AsyncIterator[dict[str, Any]]:
        while True:
            line = await self._events[handle].get()
            if "died" in line or line["event"]["event"] in ENDINGS:
                del self._events[handle]
            if "died" in line:
                raise WorkerDiedError(line["died"])
            yield line["event"]
            if handle not in self._events:
                return

    async def stop(self, handle: int, save: bool) -> None:
        await self._send({"stop": handle, "save": save})

    async def _ask(self, number: int, command: dict[str, Any]) -> Any:
        if self._process is None:
            raise WorkerDiedError(_LOST)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._send({"id": number, **command})
            return await answer
        finally:
            del self._answers[number]

    async def _send(self, command: dict[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with suppress(ConnectionError, RuntimeError):  # it has ended, which `_keep` notices
            process.stdin.write(json.dumps(command).encode() + b"\n")
            await process.stdin.drain()

    async def _keep(self) -> None:
        """Keep the process running, and hand on what it says."""
        pause = FIRST_PAUSE
        while True:
            process = await asyncio.create_subprocess_exec(
                *_COMMAND, *self._arguments, stdin=PIPE, stdout=PIPE, limit=_MAX_LINE_BYTES, start_new_session=True
            )
            self._process = process
            assert process.stdin is not None and process.stdout is not None
            self._changed()
            try:
                while (line := await process.stdout.readline()).endswith(b"\n"):
                    self._hand_on(json.loads(line))
                    pause = FIRST_PAUSE
            finally:
                self._process = None
                process.stdin.close()
                self._give_up()
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            logger.error("%s: the process that places runs ended; it is started again in %g s", _LOST, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    def _hand_on(self, line: dict[str, Any]) -> None:
        if (queue := self._events.get(line.get("handle", 0))) is not None:
            queue.put_nowait(line)
        answer = self._answers.get(line.get("id") or 0)
        if answer is not None and not answer.done():
            if "died" in line:
                answer.set_exception(WorkerDiedError(line["died"]))
            else:
                answer.set_result(line["result"])

    def _give_up(self) -> None:
        """There will be no more lines."""
        for queue in self._events.values():
            queue.put_nowait({"died": _LOST})
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(WorkerDiedError(_LOST))

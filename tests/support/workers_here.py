"""The server's own workers as threads of this process: the runs are real, but nothing is started or loaded twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from run_support import short_runs

from sonolora.ltx.weights.base import find_base
from sonolora.modes import MODES
from sonolora.runs.loaded_networks import Networks
from sonolora.server.endpoints import registry
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.worker import CommandReader, Desk, Events, work
from sonolora.server.jobs.workers import Workers
from sonolora.server.placing.placer import ENDINGS, Run, Slot


class OneBase(Desk):
    """Whatever base a job names, it gets this one."""

    def of(self, job, events):  # noqa: ARG002
        return self.networks


class PlacerHere:
    """A `Placer` with one slot, whose runs are threads of this process."""

    def __init__(self, networks, changed):
        self._desk, self._changed, self._run = OneBase(networks.device, networks), changed, None

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_): ...

    async def capacity(self):
        return [Slot("cpu", free=self._run is None)]

    async def start(self, run: Run, attempt: int):  # noqa: ARG002
        loop, events = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

        class Out:
            def write(self, line: str) -> None:
                loop.call_soon_threadsafe(events.put_nowait, json.loads(line))

            def flush(self) -> None: ...

        arguments = self._desk, run.command, CommandReader(), Events(Out())
        self._run = threading.Thread(target=work, args=arguments, daemon=True)
        self._run.start()
        return events

    async def lines(self, handle) -> AsyncIterator[dict[str, Any]]:
        event: dict[str, Any] = {"event": ""}
        while event["event"] not in ENDINGS:
            event = await handle.get()
            if event["event"] in ENDINGS:
                self._run = None
                self._changed()
            yield event

    async def stop(self, handle, save: bool) -> None: ...


@contextmanager
def workers_of(live, base: str) -> Iterator[None]:
    """Within it the requests of a server are carried out on a base, in runs as short as `short_runs` makes them."""

    ended = threading.Event()

    async def run() -> None:
        placer = partial(PlacerHere, Networks(find_base(base), torch.device("cpu")))
        arguments = live.settings, live.store, live.storage, Retrying(live.health), live.notifier.notify, placer
        try:
            await Workers(*arguments).run()
        finally:
            ended.set()

    with short_runs(), pytest.MonkeyPatch.context() as patch:
        for name, mode in MODES.items():
            patch.setitem(registry._BY_PATH, name, replace(registry._BY_PATH[name], request=mode.request))
        future = asyncio.run_coroutine_threadsafe(run(), live.loop)
        yield
        future.cancel()
        assert ended.wait(30)

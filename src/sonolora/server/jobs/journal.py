"""What a run tells, on its way into the job store: collected, and written twice a second.

In: the events of a worker. Out: the request's progress, log and metrics in the store. A write waits for the disk, so it
is done in a thread, and less often than a run tells something.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from sonolora.server.jobs.notifier import wait
from sonolora.server.jobs.store import Store

_WRITE_SECONDS = 0.5
_STEPS_SECONDS = 10.0  # between two lines on the steps of a training


class Journal:
    """Of one request, for one go at it. `changed` is told of every write."""

    def __init__(self, store: Store, id: str, changed: Callable[[str], None]) -> None:
        self._store, self._id, self._changed = store, id, changed
        self._closing = asyncio.Event()
        self._logs: list[tuple[float, str, str]] = []
        self._metrics: dict[int, dict[str, Any]] = {}
        self._progress: dict[str, Any] = {}
        self._written: dict[str, Any] = {}
        self._measured: tuple[int, dict[str, Any]] = (-1, {})
        self._steps_told = 0.0

    async def keep(self) -> None:
        """Write until `close`, and then what is left."""
        while not self._closing.is_set():
            await wait(self._closing, _WRITE_SECONDS)
            await self._write()
        await self._write()  # what was told while the last write waited for the disk

    def close(self) -> None:
        """There is nothing more to come."""
        self._closing.set()

    def log(self, message: str, level: str = "INFO") -> None:
        """Add a line. `level` is one of the published ones: INFO, WARN, ERROR, STDERR and so on."""
        self._logs.append((time.time(), level, message))

    def take(self, event: Mapping[str, Any]) -> None:
        """Note an event; one that says how a run ended is none of ours."""
        match event:
            case {"event": "phase", "name": name, "total": total}:
                self._progress = {"phase": name, "step": 0, "steps": total}
                self.log(name)
            case {"event": "progress", "step": step, "total": total, "note": note}:
                self._progress |= {"step": step, "steps": total, "note": note}
                if rate := self._progress.get("steps_per_second"):
                    self._progress["estimated_end"] = round(time.time() + (total - step) / rate, 1)
            case {"event": "message", "text": text}:
                self.log(text)
            case {"event": "warning", "text": text}:
                self.log(text, "WARN")
            case {"event": "metrics", "step": step, "values": values}:
                self._measure(step, values)

    def _measure(self, step: int, values: dict[str, Any]) -> None:
        # A step's loss and its grid come one after the other; the store has one row for both.
        earlier = self._measured[1] if self._measured[0] == step else {}
        self._measured = step, {**earlier, **values}
        self._metrics[step] = self._measured[1]
        if (rate := values.get("steps_per_second")) is None:
            return
        steps = self._progress.get("steps")
        self._progress["steps_per_second"] = rate
        if step == steps or time.monotonic() - self._steps_told >= _STEPS_SECONDS:
            self._steps_told = time.monotonic()
            self.log(f"step {step} of {steps}: loss {values['loss']:.4f}, {rate:g} steps a second")

    async def _write(self) -> None:
        logs, self._logs = self._logs, []
        metrics, self._metrics = self._metrics, {}
        progress = dict(self._progress)
        if not logs and not metrics and progress == self._written:
            return

        def write() -> None:
            if progress != self._written:
                self._store.set_progress(self._id, progress)
            self._store.add_logs(self._id, logs)
            self._store.add_metrics(self._id, list(metrics.items()))

        await asyncio.to_thread(write)
        self._written = progress
        self._changed(self._id)

"""What a run reports, on its way into the job store: collected, and written twice a second.

In: the events of a worker. Out: the request's progress, log and metrics in the store. A write waits for the disk, so
it is done in a thread, and less often than a run reports; while the store fails, everything is kept for later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from sonolora.server.jobs.notifier import wait
from sonolora.server.jobs.retrying import Retrying
from sonolora.server.jobs.store import Store

_WRITE_SECONDS = 0.5
_STEP_LINE_SECONDS = 10.0  # between two log lines about training steps


class Journal:
    """Of one attempt at one request. `changed` is called with the request's id after every write."""

    def __init__(self, store: Store, retrying: Retrying, id: str, attempt: int, changed: Callable[[str], None]) -> None:
        self._store, self._retrying, self._id, self._attempt, self._changed = store, retrying, id, attempt, changed
        self._closing = asyncio.Event()
        self._logs: list[tuple[float, str, str]] = []
        self._metrics: dict[int, dict[str, Any]] = {}
        self._progress: dict[str, Any] = {}
        self._written_progress: dict[str, Any] = {}
        self._last_metrics: tuple[int, dict[str, Any]] = (-1, {})
        self._last_step_line = 0.0
        self._later = 0.0  # seconds that the run takes after the current phase

    async def run(self) -> None:
        """Write until `close`, and then what is left."""
        while not self._closing.is_set():
            await wait(self._closing, _WRITE_SECONDS)
            await self._write()
        await self._write()  # what was added during the last write

    def close(self) -> None:
        """Nothing more will be added."""
        self._closing.set()

    def log(self, message: str, level: str = "INFO") -> None:
        """Add a line. `level` is one of the published ones: INFO, WARN, ERROR, STDERR and so on."""
        self._logs.append((time.time(), level, message))

    def add(self, event: Mapping[str, Any]) -> None:
        """Add an event of the worker; those that say how a run ended are ignored."""
        match event:
            case {"event": "phase", "name": name, "total": total}:
                self._progress = {"phase": name, "step": 0, "steps": total}
                self.log(name)
            case {"event": "progress", "step": step, "total": total, "note": note}:
                self._progress |= {"step": step, "steps": total, "note": note}
                if speed := self._progress.get("steps_per_second"):
                    seconds = (total - step) / speed + self._later
                    self._progress["estimated_end"] = round(time.time() + seconds, 1)
            case {"event": "remaining", "seconds": seconds}:
                self._later = seconds
            case {"event": "message", "text": text}:
                self.log(text)
            case {"event": "warning", "text": text}:
                self.log(text, "WARN")
            case {"event": "metrics", "step": step, "values": values}:
                self._add_metrics(step, values)

    def _add_metrics(self, step: int, values: dict[str, Any]) -> None:
        # A step's loss and its validation loss come one after the other; the store has one row for both.
        earlier = self._last_metrics[1] if self._last_metrics[0] == step else {}
        self._last_metrics = step, {**earlier, **values}
        self._metrics[step] = self._last_metrics[1]
        if (speed := values.get("steps_per_second")) is None:
            return
        steps = self._progress.get("steps")
        self._progress["steps_per_second"] = speed
        if step == steps or time.monotonic() - self._last_step_line >= _STEP_LINE_SECONDS:
            self._last_step_line = time.monotonic()
            self.log(f"step {step} of {steps}: loss {values['loss']:.4f}, {speed:g} steps a second")

    async def _write(self) -> None:
        logs, self._logs = self._logs, []
        metrics, self._metrics = self._metrics, {}
        progress = dict(self._progress) if self._progress != self._written_progress else None
        if not logs and not metrics and progress is None:
            return
        rows, attempt = list(metrics.items()), self._attempt
        await self._retrying(self._store.record, self._id, progress=progress, logs=logs, metrics=rows, attempt=attempt)
        self._written_progress = progress or self._written_progress
        self._changed(self._id)

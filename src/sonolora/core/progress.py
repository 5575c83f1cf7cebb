"""What a run reports while it works. Whoever shows a run (a terminal, a job store) implements the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Progress(Protocol):
    """Receives phases, steps, messages and metrics, in the thread of the run."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins; `total` is its number of steps, where that is known."""

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        """One step is done, or all up to `to`."""

    def remaining(self, seconds: float) -> None:
        """About how long everything takes that comes after the current phase."""

    def message(self, text: str) -> None:
        """A line for people."""

    def warning(self, text: str) -> None:
        """A line about something that needs attention."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """What was measured at a training step, as `metrics.jsonl` records it."""

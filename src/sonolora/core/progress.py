"""What a run tells while it works, and how it is stopped.

Whoever shows a run (a terminal, a job store) implements the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sonolora.core.errors import SonoloraError


class Progress(Protocol):
    """Receives phases, steps, messages and metrics, in the thread of the run."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins; `total` is its number of steps, where that is known."""

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        """One step is done, or all up to `to`."""

    def message(self, text: str) -> None:
        """A line for people."""

    def warning(self, text: str) -> None:
        """The same, of something that they should look at."""

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """What was measured at a training step, as it stands in `metrics.jsonl`."""


class Silent:
    """Shows nothing."""

    def phase(self, name: str, total: int | None) -> None: ...

    def advance(self, note: str = "", *, to: int | None = None) -> None: ...

    def message(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def metrics(self, step: int, values: Mapping[str, Any]) -> None: ...


class StopAskedError(Exception):
    """The run was asked to stop, and noticed it where it tells of its progress."""


@dataclass(frozen=True)
class StoppableProgress:
    """A `Progress` that passes everything on and raises `StopAskedError` between steps once `stop` says so."""

    progress: Progress
    stop: Callable[[], bool]

    def phase(self, name: str, total: int | None) -> None:
        self.progress.phase(name, total)
        self.check()

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        self.progress.advance(note, to=to)
        self.check()

    def message(self, text: str) -> None:
        self.progress.message(text)

    def warning(self, text: str) -> None:
        self.progress.warning(text)

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        self.progress.metrics(step, values)

    def check(self) -> None:
        """Raise if the run shall stop."""
        if self.stop():
            raise StopAskedError


class InterruptedRunError(SonoloraError):
    """The run was asked to stop. It has saved its state, if training had begun: `step` is None if not."""

    def __init__(self, folder: Path, step: int | None, steps: int) -> None:
        self.step = step
        super().__init__(
            "stopped before training began; start it again"
            if step is None
            else f"stopped at step {step} of {steps}; nothing is lost. Go on with: sonolora train --resume {folder}"
        )

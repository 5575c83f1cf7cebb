"""What a run tells while it works. Whoever shows it (a terminal, a job store) implements this protocol."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives phases, steps and messages, in the thread of the run."""

    def phase(self, name: str, total: int | None) -> None:
        """A phase begins; `total` is its number of steps, where that is known."""

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        """One step is done, or all up to `to`."""

    def message(self, text: str) -> None:
        """A line for people."""


class Silent:
    """Shows nothing."""

    def phase(self, name: str, total: int | None) -> None: ...

    def advance(self, note: str = "", *, to: int | None = None) -> None: ...

    def message(self, text: str) -> None: ...

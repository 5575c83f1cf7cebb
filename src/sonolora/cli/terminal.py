"""A run shown in a terminal: bars where someone watches, plain lines where the output goes to a file."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TerminalProgress:
    """Implements the `Progress` protocol of runs on standard error; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> TerminalProgress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def phase(self, name: str, total: int | None) -> None:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._task = self._bars.add_task(name, total=total, note="")
        if not self._console.is_terminal:
            self._console.print(f"{name} ...", highlight=False)

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        if self._task is None:
            return
        if to is None:
            self._bars.update(self._task, advance=1, note=note)
        else:
            self._bars.update(self._task, completed=to, note=note)

    def message(self, text: str) -> None:
        # A file or a pipe gets whole lines: whoever reads them breaks them, or searches them.
        self._console.print(text, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)

    def warning(self, text: str) -> None:
        self.message(f"warning: {text}")

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Not shown: they are in `metrics.jsonl`."""

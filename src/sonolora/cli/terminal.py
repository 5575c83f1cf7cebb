"""A run shown in a terminal: bars where someone watches, plain lines where the output goes to a file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

_LINE_SECONDS = 10.0  # between two lines about a phase where nobody watches a bar
_BAR_WIDTH = 18  # columns: with the longest phase, counts and times, 80 suffice


def called_as() -> str:
    """How this terminal finds the command: its name where that is on the PATH, else the path that was called."""
    called = sys.argv[0]
    return called if Path(called).name == "sonolora" and shutil.which("sonolora") is None else "sonolora"


class TerminalProgress:
    """Implements the `Progress` protocol of runs on standard error; a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(_BAR_WIDTH),
            TextColumn("{task.fields[count]}", table_column=Column(no_wrap=True)),
            _Times(),
            # The note gives way first. It may be the name of a file, which may look like markup.
            TextColumn(
                "{task.fields[note]}",
                style="dim",
                markup=False,
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=self._console,
            expand=True,
        )
        self._task: TaskID | None = None
        self._phase: _Phase | None = None

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
        self._phase = _Phase(name, total)
        self._task = self._bars.add_task(name, total=total, note="", count=self._phase.count, times="")
        if not self._console.is_terminal:
            self._line(f"{name} ...")

    def advance(self, note: str = "", *, to: int | None = None) -> None:
        if self._task is None or self._phase is None:
            return
        phase = self._phase
        phase.advance(to)
        self._bars.update(self._task, completed=phase.done, note=note, count=phase.count)
        if not self._console.is_terminal and phase.is_line_due():
            self._line(phase.line(note))

    def remaining(self, seconds: float) -> None:
        if self._phase is not None:
            self._phase.later = seconds
            if self._task is not None:
                self._bars.update(self._task, later=seconds)

    def message(self, text: str) -> None:
        # A file or a pipe gets whole lines: whoever reads them breaks them, or searches them.
        self._console.print(text, highlight=False, markup=False, soft_wrap=not self._console.is_terminal)

    def warning(self, text: str) -> None:
        self.message(f"warning: {text}")

    def metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Not shown: they are in `metrics.jsonl`."""

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Phase:
    """How far a phase is, for a line of text."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done = name, total, 0
        self.later = 0.0  # seconds that come after this phase
        self._began = self._last_line = time.monotonic()
        self._first: int | None = None  # what was done when the first step ended: a run may continue in the middle

    @property
    def count(self) -> str:
        return "" if self.total is None else f"{self.done}/{self.total}"

    def advance(self, to: int | None) -> None:
        self.done = self.done + 1 if to is None else to
        if self._first is None:
            self._first, self._began = self.done, time.monotonic()

    def is_line_due(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < _LINE_SECONDS or self.done == self._first:
            return False
        self._last_line = now
        return True

    def line(self, note: str) -> str:
        """Such as `training: 120 of 400, 12.3 a second, 0:23 left, loss 0.512`."""
        seconds = time.monotonic() - self._began
        done = self.done - (self._first or 0)
        parts = [f"{self.name}: {self.done}" + (f" of {self.total}" if self.total is not None else "")]
        if done > 0 and seconds > 0:
            rate = done / seconds
            parts.append(f"{rate:.3g} a second" if rate >= 1 else f"{1 / rate:.3g} s each")
            if self.total is not None:
                parts.append(f"{clock((self.total - self.done) / rate + self.later)} left")
        return ", ".join([*parts, *([note] if note else [])])


class _Times(ProgressColumn):
    """Elapsed, and what is left with what comes after this phase: `0:12 / 0:48`."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        left = "-:--"
        if task.time_remaining is not None:
            left = clock(task.time_remaining + task.fields.get("later", 0.0))
        elapsed = clock(task.elapsed or 0.0)
        return Text(f"{elapsed}, {left} left" if task.total is not None else elapsed)


def clock(seconds: float) -> str:
    """Minutes and seconds, or hours: `0:07`, `12:30`, `1:02:05`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""Progress where the output is no terminal: whole lines, with the rate and the time that is left."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from sonolora.cli import terminal
from sonolora.cli.terminal import TerminalProgress, clock


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    return clock


def test_a_line_every_ten_seconds_says_rate_and_end(time: Clock, capsys) -> None:
    with TerminalProgress() as progress:
        progress.phase("training", 400)
        progress.advance(to=100)  # where a run continues
        for step in range(110, 410, 10):
            time.now += 0.5
            progress.remaining(25.0)
            progress.advance("loss 0.500", to=step)
    assert capsys.readouterr().err.splitlines() == [
        "training ...",
        "training: 300 of 400, 20 a second, 0:30 left, loss 0.500",
    ]


def test_slow_steps_are_in_seconds_each(time: Clock, capsys) -> None:
    with TerminalProgress() as progress:
        progress.phase("encoding", None)
        for _ in range(3):
            time.now += 8
            progress.advance()
    assert capsys.readouterr().err.splitlines()[1:] == ["encoding: 2, 8 s each", "encoding: 3, 8 s each"][:1]


def test_nothing_is_wrapped_where_the_output_is_no_terminal(capsys) -> None:
    with TerminalProgress() as progress:
        progress.phase("x" * 200, None)
        progress.message("y" * 200)
    assert [len(line) for line in capsys.readouterr().err.splitlines()] == [204, 200]


@pytest.mark.parametrize("note", ["", "loss 0.500", "texts: hidden state 14 of 49"])
def test_a_terminal_of_80_columns_shows_the_times(note: str) -> None:
    out = io.StringIO()
    progress = TerminalProgress()
    console = Console(file=out, force_terminal=True, color_system=None, width=80)
    progress._bars.live.console = console
    progress.phase("reading and encoding the clips", 2000)
    progress.advance(note, to=1250)
    console.print(progress._bars.get_renderable())
    lines = [line for line in out.getvalue().splitlines() if line.strip()]
    assert len(lines) == 1
    assert "1250/2000" in lines[0] and "left" in lines[0]


def test_a_note_that_looks_like_markup_is_shown_as_it_is() -> None:
    """Such as the name of a file in an archive."""
    out = io.StringIO()
    progress = TerminalProgress()
    console = Console(file=out, force_terminal=True, color_system=None, width=120)
    progress._bars.live.console = console
    progress.phase("reading", 2)
    progress.advance("a[/b]")
    console.print(progress._bars.get_renderable())
    assert "a[/b]" in out.getvalue()


@pytest.mark.parametrize(("seconds", "shown"), [(7, "0:07"), (750, "12:30"), (3725, "1:02:05"), (-1, "0:00")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown

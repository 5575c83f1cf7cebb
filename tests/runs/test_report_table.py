from __future__ import annotations

import io

import pytest
from rich.console import Console

from sonolora.data.report import Report
from sonolora.runs.report_table import show_report

LONG = "[bold]a very long name[/bold] " * 12 + ".wav"


@pytest.fixture
def report() -> Report:
    report = Report()
    report.used(LONG, "2.000 s as wanted")
    report.warn(LONG, "clipped: " + "so much " * 30)
    report.warn(LONG, "silent")
    report.skipped("short.wav", "too short")
    report.ignored("__MACOSX/", "macOS metadata")
    return report


def test_what_goes_to_a_file_is_one_whole_line_for_each_thing(report: Report, capsys) -> None:
    show_report(report.as_json())
    assert capsys.readouterr().out.splitlines() == [
        f"used      {LONG}  2.000 s as wanted",
        f"warning   {LONG}  clipped: " + "so much " * 30,
        f"warning   {LONG}  silent",
        "ignored   __MACOSX/  macOS metadata",
        "skipped   short.wav  too short",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_a_table_with_nothing_cut_off(report: Report, width: int) -> None:
    out = io.StringIO()
    show_report(report.as_json(), Console(file=out, force_terminal=True, color_system=None, width=width))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in out.getvalue()
    assert "skipped" in out.getvalue()
    # Names and words may be folded, but all of them is there.
    assert out.getvalue().count("[") == LONG.count("[")
    assert out.getvalue().count("so") == 30

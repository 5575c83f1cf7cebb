from __future__ import annotations

import io

import pytest
from rich.console import Console

from sonolora.data.report import Report
from sonolora.modes import MODES
from sonolora.modes.pairing import pair_clips
from sonolora.modes.request import TrainRequest, parse
from sonolora.runs.report.report_table import show_files, show_summary

LONG = "[bold]a very long name[/bold] " * 12 + ".wav"


def request(mode: str = "t2a", **fields: object) -> TrainRequest:
    return parse(MODES[mode].request, {"training_data_url": "x", **fields})


@pytest.fixture
def report() -> Report:
    report = Report()
    report.used(LONG, "2.000 s as wanted")
    report.warn(LONG, "clipped: " + "so much " * 30)
    report.warn(LONG, "silent")
    report.measured(LONG, seconds=2.0)
    report.skipped("short.wav", "too short: it lasts 1.87 s", too_short=True)
    report.measured("short.wav", seconds=1.87)
    report.skipped("damaged.wav", "not media")
    report.ignored("__MACOSX/", "macOS metadata")
    return report


def test_the_summary_comes_first_and_names_the_length_that_would_fit_all(report: Report, capsys) -> None:
    show_summary(report.as_json(), 18, request(audio_duration_seconds=2))
    assert capsys.readouterr().out.splitlines() == [
        "18 clips of 2 s, 36 s in all; 1 too short; 1 other file skipped; 1 to look at first",
        "No clip would be too short with --seconds 1.8.",
        f"! {LONG}: clipped: " + "so much " * 30,
        f"! {LONG}: silent",
        "skipped: damaged.wav: not media",
        "skipped: short.wav: too short",
        "ignored: __MACOSX/: macOS metadata",
    ]


def test_the_length_of_films_is_in_frames(capsys) -> None:
    report = Report()
    report.skipped("film.mp4", "40 frames are too few", too_short=True)
    report.measured("film.mp4", frames=40)
    show_summary(report.as_json(), 0, request("v2a"))
    assert "No clip would be too short with --number-of-frames 33." in capsys.readouterr().out


def test_nothing_is_proposed_where_no_length_fits(capsys) -> None:
    report = Report()
    report.skipped("click.wav", "too short", too_short=True)
    report.measured("click.wav", seconds=0.2)
    show_summary(report.as_json(), 0, request())
    out = capsys.readouterr().out
    assert "--seconds" not in out
    assert out.startswith("0 clips of 5 s, 0 s in all; 1 too short; nothing to train on\n")


def test_captions_without_clips_are_one_line(capsys) -> None:
    report = Report()
    for name in ("a.txt", "b.txt"):
        report.skipped(name, pair_clips([name]).skipped[name])
    show_summary(report.as_json(), 0, request())
    assert "skipped: a.txt, b.txt: a caption without a clip" in capsys.readouterr().out


def test_files_are_listed_on_request_alone(report: Report, capsys) -> None:
    show_summary(report.as_json(), 1, request())
    assert "2.000 s as wanted" not in capsys.readouterr().out
    show_summary(report.as_json(), 1, request(), verbose=True)
    assert f"used      {LONG}  2.000 s as wanted" in capsys.readouterr().out


def test_what_goes_to_a_file_is_one_whole_line_for_each_thing(report: Report, capsys) -> None:
    show_files(report.as_json())
    assert capsys.readouterr().out.splitlines() == [
        f"used      {LONG}  2.000 s as wanted",
        f"warning   {LONG}  clipped: " + "so much " * 30,
        f"warning   {LONG}  silent",
        "ignored   __MACOSX/  macOS metadata",
        "skipped   damaged.wav  not media",
        "skipped   short.wav  too short: it lasts 1.87 s",
    ]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_a_table_with_nothing_cut_off(report: Report, width: int) -> None:
    out = io.StringIO()
    show_files(report.as_json(), Console(file=out, force_terminal=True, color_system=None, width=width))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in out.getvalue()
    assert "skipped" in out.getvalue()
    # Names and words may be folded, but all of them is there.
    assert out.getvalue().count("[") == LONG.count("[")
    assert out.getvalue().count("so") == 30

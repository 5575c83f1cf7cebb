"""Report: every file gets one status, and none is forgotten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sonolora.data.dataset_files import Files
from sonolora.data.report import Report

FILES = Files(Path("/"), ("a.txt", "a.wav", "b.wav", "c.wav"), {".DS_Store": "macOS metadata"})


def full_report() -> Report:
    report = Report()
    report.skipped("c.wav", "3.2 s, shorter than audio_duration_seconds (5 s)")
    report.measured("c.wav", seconds=3.2)
    report.warn("a.wav", "mono")
    report.measured("a.wav", seconds=7.5)
    report.fitted("a.wav", "trimmed to 5 s")
    report.warn("a.wav", "clips at 3 places")
    report.used("b.wav")
    report.used("a.txt", "caption of a.wav")
    for file, why in FILES.ignored.items():
        report.ignored(file, why)
    return report


def test_json() -> None:
    report = json.loads(json.dumps(full_report().as_json()))
    assert report["summary"] == {"used": 2, "fitted": 1, "skipped": 1, "ignored": 1, "warnings": 2}
    assert [entry["file"] for entry in report["files"]] == sorted([*FILES.names, *FILES.ignored])
    assert report["files"][2] == {
        "file": "a.wav",
        "status": "fitted",
        "detail": "trimmed to 5 s",
        "warnings": ["mono", "clips at 3 places"],
        "facts": {"seconds": 7.5},
    }


def test_warnings_of_the_dataset_count_and_stand_first() -> None:
    report = full_report()
    report.warn_of_dataset("only 3 clips")
    assert report.as_json()["warnings"] == ["only 3 clips"]
    assert report.as_json()["summary"]["warnings"] == 3
    assert full_report().as_json()["warnings"] == []


def test_what_is_skipped_or_ignored_has_no_warnings() -> None:
    report = full_report()
    report.warn("c.wav", "no caption")
    report.warn(".DS_Store", "odd")
    assert report.as_json() == full_report().as_json()


def test_complete_report_passes() -> None:
    full_report().check_complete(FILES)


def test_forgotten_files_are_found() -> None:
    report = Report()
    report.used("a.wav")
    report.warn("elsewhere.wav", "odd")
    with pytest.raises(AssertionError, match=r"no status for \.DS_Store, a\.txt, b\.wav, c\.wav, elsewhere\.wav"):
        report.check_complete(FILES)


def test_second_status_is_refused() -> None:
    report = Report()
    report.used("a.wav")
    with pytest.raises(ValueError, match=r"a\.wav is already used, now it is skipped"):
        report.skipped("a.wav", "too short")

"""Warnings of one kind are one finding, with the files it is about and between which numbers it lies."""

from __future__ import annotations

from sonolora.data.findings import Finding, findings
from sonolora.data.report import Report


def report() -> Report:
    report = Report()
    for number, name in enumerate(("a.wav", "b.wav", "take 10.wav")):
        report.used(name)
        report.warn(name, f"loses {0.3 + number / 2:.1f} s to trimming at -{number}.5 dB")
    report.warn("b.wav", "the same sound as a.wav: it counts double")
    report.warn("take 10.wav", "the same sound as b.wav: it counts double")
    report.warn("a.wav", "only one channel")
    report.warn_of_dataset("only 3 clips")
    report.skipped("c.wav", "too short", too_short=True)
    return report


def test_numbers_and_names_do_not_make_two_findings_of_one() -> None:
    assert findings(report().as_json()) == [
        Finding("only 3 clips", ()),
        Finding("loses 0.3 to 1.3 s to trimming at -2.5 to -0.5 dB", ("a.wav", "b.wav", "take 10.wav")),
        Finding("the same sound as a.wav, b.wav: it counts double", ("b.wav", "take 10.wav")),
        Finding("only one channel", ("a.wav",)),
    ]


def test_a_report_without_warnings_has_none() -> None:
    assert findings(Report().as_json()) == []

"""The report on a dataset in a terminal: a summary, what to fix, and on request every file.

In: the report, and what would be trained. Out: text on standard output, never truncated; whole lines where the output
goes to a file or a pipe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sonolora.core.errors import first_few
from sonolora.data.findings import Finding, findings
from sonolora.modes.request import AudioRequest, TrainRequest

_STYLES = {"used": "green", "fitted": "blue", "skipped": "red", "ignored": "dim"}
_MAX_NAMES = 6
_MIN_SECONDS, _MIN_FRAMES = 0.5, 9  # of a training clip


def show_summary(
    report: Mapping[str, Any],
    clips: int,
    request: TrainRequest,
    *,
    verbose: bool = False,
    console: Console | None = None,
) -> None:
    """Print what would be trained, then what to fix; with `verbose` every file. `report`: see `Report.as_json`."""
    console = console or Console()
    found = findings(report)
    _line(console, Text(summary_line(report, clips, request), "bold"))
    for text in fitting_length(report, request):
        _line(console, Text(text))
    for finding in found:
        _line(console, _shown(finding))
    for status in ("skipped", "ignored"):
        for detail, files in _by_detail(report, status):
            names = first_few(files, _MAX_NAMES)
            _line(console, Text(f"{status}: ", _STYLES[status]).append(f"{names}: {detail}", "default"))
    if verbose:
        show_files(report, console)


def summary_line(report: Mapping[str, Any], clips: int, request: TrainRequest) -> str:
    """Such as `18 clips of 2 s, 36 s in all; 1 too short; 3 to fix first`."""
    seconds = request.clip_seconds
    parts = [f"{_count(clips, 'clip')} of {seconds:g} s, {_length(clips * seconds)} in all"]
    short = len(report["too_short"])
    others = sum(entry["status"] == "skipped" for entry in report["files"]) - short
    parts += [f"{short} too short"] if short else []
    parts += [f"{_count(others, 'other file')} skipped"] if others else []
    fix = sum(bool(entry["warnings"]) for entry in report["files"])
    if clips:
        parts.append(f"{fix} to look at first" if fix else "nothing to fix")
    else:
        parts.append("nothing to train on")
    return "; ".join(parts)


def fitting_length(report: Mapping[str, Any], request: TrainRequest) -> Iterator[str]:
    """The option with which no clip would be too short, where some are."""
    if not report["too_short"]:
        return
    if isinstance(request, AudioRequest):
        lengths = [entry["facts"]["seconds"] for entry in report["files"] if "seconds" in entry["facts"]]
        value: float = math.floor(10 * min(lengths) + 1e-6) / 10
        option, least = "--seconds", _MIN_SECONDS
    else:
        frames = [int(entry["facts"]["frames"]) for entry in report["files"] if "frames" in entry["facts"]]
        value, option, least = (min(frames) - 1) // 8 * 8 + 1, "--number-of-frames", _MIN_FRAMES
    if value >= least:
        yield f"No clip would be too short with {option} {value:g}."


def show_files(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print every file with its status, how or why, and its warnings."""
    console = console or Console()
    if console.is_terminal:
        console.print(_table(report))
        return
    for entry in report["files"]:
        console.out(f"{entry['status']:<8}  {entry['file']}" + (f"  {entry['detail']}" if entry["detail"] else ""))
        for text in entry["warnings"]:
            console.out(f"{'warning':<8}  {entry['file']}  {text}")


def _shown(finding: Finding) -> Text:
    text = Text("! ", "bold yellow")
    if not finding.files:
        return text.append(finding.text, "yellow")
    names = first_few(finding.files, _MAX_NAMES)
    count = f"{len(finding.files)} files: " if len(finding.files) > 1 else ""
    return text.append(f"{count}{names}: ", "bold").append(finding.text, "yellow")


def _by_detail(report: Mapping[str, Any], status: str) -> list[tuple[str, list[str]]]:
    """Files of a status by the reason, of which those that are too short have one."""
    grouped: dict[str, list[str]] = {}
    for entry in report["files"]:
        if entry["status"] == status:
            reason = "too short" if entry["file"] in report["too_short"] else entry["detail"]
            grouped.setdefault(reason, []).append(entry["file"])
    return list(grouped.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _length(seconds: float) -> str:
    return f"{seconds:.4g} s" if seconds < 120 else f"{seconds / 60:.3g} min"


def _line(console: Console, text: Text) -> None:
    if console.is_terminal:
        console.print(text)
    else:
        console.out(text.plain)


def _table(report: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, expand=True)
    table.add_column("file", overflow="fold", ratio=1)
    table.add_column("status", no_wrap=True)
    table.add_column("detail and warnings", overflow="fold", ratio=3)
    for entry in report["files"]:
        # Text, and not str: a name in square brackets is no markup.
        detail = Text(entry["detail"])
        for text in entry["warnings"]:
            detail.append("\n" if detail else "").append("! ", "bold yellow").append(text, "yellow")
        table.add_row(Text(entry["file"]), Text(entry["status"], _STYLES[entry["status"]]), detail)
    return table

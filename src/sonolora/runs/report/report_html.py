"""The HTML of the report on a dataset, from `report_page.html`.

In: the report, and what was written of each clip. Out: text. Jinja2 escapes everything that people wrote.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from jinja2 import Environment, StrictUndefined, Template

from sonolora.data.findings import findings
from sonolora.data.report import Status
from sonolora.runs.report.run_view import RunView
from sonolora.runs.report.shown import ShownClip

_TEMPLATE = Path(__file__).with_name("report_page.html")
_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
_MAX_TICKS = 8

_COMPANIONS = (".txt", ".json")
_HEADS = {
    "seconds": "length, s",
    "sample_rate": "sample rate, Hz",
    "peak_dbfs": "peak, dBFS",
    "lufs": "loudness, LUFS",
    "bandwidth_hertz": "bandwidth, Hz",
    "silence": "silent share",
}
# What the names of clips and of files may have after the part that they share.
_SCENE = re.compile(r"_scene\d+$")
_ROLE = re.compile(r"_(start|end|mask)$")


def render_page(report: Mapping[str, Any], clips: Sequence[ShownClip], title: str, run: RunView | None = None) -> str:
    """The page. `report` is that of `Report.as_json`; `run`: the run that the data is of, once there is one."""
    entries: Sequence[Mapping[str, Any]] = report["files"]
    first_clips: dict[str, int] = {}
    for number, clip in enumerate(clips, start=1):
        first_clips.setdefault(_SCENE.sub("", clip.name), number)
    held_out = set(report.get("held_out", {}).get("clips", ()))
    owners = [_owner(entry["file"], first_clips) for entry in entries]
    warnings: defaultdict[int | None, list[tuple[str, str]]] = defaultdict(list)
    for owner, entry in zip(owners, entries, strict=True):
        warnings[owner] += [(entry["file"], text) for text in entry["warnings"]]
    return _template().render(
        title=title,
        run=run,
        findings=findings(report),
        titles=_HEADS,
        report=report,
        statuses=get_args(Status),
        figures=list(dict.fromkeys(name for entry in entries for name in entry["facts"])),
        rows=_rows(entries, owners, clips),
        held_out=held_out,
        own_warnings=lambda entry: [("", text) for text in entry["warnings"]],
        clips=clips,
        clip_warnings={
            number: warnings[first_clips[_SCENE.sub("", clip.name)]] for number, clip in enumerate(clips, start=1)
        },
        ticks=_ticks,
        percent=lambda seconds, sound: f"{100 * min(seconds, sound.seconds) / sound.seconds:.3f}%",
    )


@cache
def _template() -> Template:
    """Compiled once in a process; it takes longer than a page."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _rows(
    entries: Sequence[Mapping[str, Any]], owners: Sequence[int | None], clips: Sequence[ShownClip]
) -> list[tuple[Mapping[str, Any], int | None, str]]:
    """Files, their clips, and the captions of these: a caption's file needs no row of its own."""
    rows = []
    for entry, owner in zip(entries, owners, strict=True):
        is_companion = owner is not None and PurePosixPath(entry["file"]).suffix.lower() in _COMPANIONS
        if is_companion and entry["status"] == "used" and not entry["detail"] and not entry["warnings"]:
            continue
        rows.append((entry, owner, clips[owner - 1].caption if owner and not is_companion else ""))
    return rows


def _owner(file: str, first_clips: Mapping[str, int]) -> int | None:
    """The number of the first clip that is made from a file."""
    stem = PurePosixPath(file).stem
    return first_clips.get(stem) or first_clips.get(_ROLE.sub("", stem))


def _ticks(seconds: float) -> list[float]:
    """The seconds on the time axis, without the length itself."""
    step = next((step for step in _TICK_SECONDS if seconds / step <= _MAX_TICKS), _TICK_SECONDS[-1])
    return [step * index for index in range(int(seconds / step) + 1) if step * index < seconds - step / 2]

"""The HTML of the report on a dataset, from `report_page.html`.

In: the report, and what was written of each clip. Out: text. Jinja2 escapes everything that people wrote.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from jinja2 import Environment, StrictUndefined

from sonolora.core.frames import Span
from sonolora.data.report import Status

_TEMPLATE = Path(__file__).with_name("report_page.html")
_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
_MAX_TICKS = 8

# What the names of clips and of files may have after the part that they share.
_SCENE = re.compile(r"_scene\d+$")
_ROLE = re.compile(r"_(start|end|mask)$")


@dataclass(frozen=True)
class ShownSound:
    """A player and its spectrogram. `media` and `picture` are addresses relative to the page."""

    what: str
    media: str
    picture: str
    seconds: float
    highest_hertz: float


@dataclass(frozen=True)
class ShownClip:
    """What the page shows of a clip once its sounds and pictures are written."""

    name: str
    caption: str
    sounds: tuple[ShownSound, ...]  # the last is the one that is learned
    regenerate: tuple[Span, ...] | None


def render_page(report: Mapping[str, Any], clips: Sequence[ShownClip], title: str) -> str:
    """The page. `report` is that of `Report.as_json`."""
    entries: Sequence[Mapping[str, Any]] = report["files"]
    first_clips: dict[str, int] = {}
    for number, clip in enumerate(clips, start=1):
        first_clips.setdefault(_SCENE.sub("", clip.name), number)
    owners = [_owner(entry["file"], first_clips) for entry in entries]
    warnings: defaultdict[int | None, list[tuple[str, str]]] = defaultdict(list)
    for owner, entry in zip(owners, entries, strict=True):
        warnings[owner] += [(entry["file"], text) for text in entry["warnings"]]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        report=report,
        statuses=get_args(Status),
        figures=list(dict.fromkeys(name for entry in entries for name in entry["facts"])),
        rows=list(zip(entries, owners, strict=True)),
        dataset_warnings=[("", text) for text in report["warnings"]],
        own_warnings=lambda entry: [("", text) for text in entry["warnings"]],
        clips=clips,
        clip_warnings={
            number: warnings[first_clips[_SCENE.sub("", clip.name)]] for number, clip in enumerate(clips, start=1)
        },
        ticks=_ticks,
        percent=lambda seconds, sound: f"{100 * min(seconds, sound.seconds) / sound.seconds:.3f}%",
    )


def _owner(file: str, first_clips: Mapping[str, int]) -> int | None:
    """The number of the first clip that is made from a file."""
    stem = PurePosixPath(file).stem
    return first_clips.get(stem) or first_clips.get(_ROLE.sub("", stem))


def _ticks(seconds: float) -> list[float]:
    """The seconds on the time axis, without the length itself."""
    step = next((step for step in _TICK_SECONDS if seconds / step <= _MAX_TICKS), _TICK_SECONDS[-1])
    return [step * index for index in range(int(seconds / step) + 1) if step * index < seconds - step / 2]

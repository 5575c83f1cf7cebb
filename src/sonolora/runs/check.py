"""`sonolora check`: everything up to training, without a network: what will happen to every file, and what is odd.

In: a mode, a request. Out: the report, as JSON and as a page that can be opened; and whether a run would start.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonolora.data.clips import Clip, load_clips
from sonolora.data.dataset import open_dataset
from sonolora.data.given import load_given
from sonolora.data.report import Report
from sonolora.errors import InputError
from sonolora.files import write_json
from sonolora.ltx.audio_codec import load_audio_codec
from sonolora.ltx.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.runs.progress import Progress
from sonolora.runs.settings import resolve_device


@dataclass(frozen=True)
class Checked:
    """`error` is what a run would be refused with; `clips` are those that it would train on, without their films."""

    report: dict[str, Any]
    clips: tuple[Clip, ...]
    error: InputError | None


def check(mode: Mode, request: TrainRequest, base: Base, folder: Path, progress: Progress) -> Checked:
    """Read and fit everything; write `report.json` into the folder."""
    codec = load_audio_codec(base.checkpoint, device=resolve_device("cpu"))
    report = Report()
    clips: list[Clip] = []
    error = None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for wanted in mode.previews(request):
                load_given(wanted, codec.sample_rate, codec.output_sample_rate, Path(scratch))
            progress.phase("fetching the data", None)
            files = open_dataset(request.training_data_url, Path(scratch))
            progress.phase("reading the clips", len(files.names))
            loaded = load_clips(mode, request, files, codec.sample_rate, report, progress.advance)
            clips.extend(_without_films(loaded))
        except InputError as fault:
            error = fault
    write_json(folder / "report.json", report.as_json())
    return Checked(report.as_json(), tuple(clips), error)


def _without_films(clips: Iterator[Clip]) -> Iterator[Clip]:
    for clip in clips:
        yield replace(clip, film=None)

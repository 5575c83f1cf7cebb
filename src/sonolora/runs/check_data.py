"""`sonolora check`: everything up to encoding: what happens to every file, and what is odd about the data.

In: a mode, a request. Out: the report as JSON and as a web page, and whether a run would start.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sonolora.core.atomic_files import make_folder
from sonolora.core.errors import InputError
from sonolora.core.progress import Progress
from sonolora.data.clips import Clip, load_clips
from sonolora.data.conditioning_inputs import load_conditioning_input
from sonolora.data.dataset import fetch_preview_inputs, open_dataset
from sonolora.data.report import Report
from sonolora.ltx.codec.codec_rates import codec_rates
from sonolora.ltx.text.text_encoder import load_tokenizer
from sonolora.ltx.weights.base import Base
from sonolora.modes.mode import Mode
from sonolora.modes.request import TrainRequest
from sonolora.runs.artifacts import RunArtifacts
from sonolora.runs.report.report_page import clips_for_page, write_report
from sonolora.runs.report.shown import ShownClip


@dataclass(frozen=True)
class Checked:
    """`error` is what a run would be refused with; `clips` are those that it would train on, without their frames."""

    report: dict[str, Any]
    clips: tuple[Clip, ...]
    error: InputError | None


def check(mode: Mode, request: TrainRequest, base: Base, folder: Path, progress: Progress) -> Checked:
    """Read and fit everything; write the report into the folder."""
    rates = codec_rates(base.checkpoint)
    report = Report()
    clips: list[Clip] = []
    shown: list[ShownClip] = []
    error = None
    make_folder(folder)
    artifacts = RunArtifacts(folder)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for spec in mode.previews(request):
                load_conditioning_input(spec, *rates, Path(scratch))
            progress.phase("fetching the data", None)
            files = open_dataset(request.training_data_url, Path(scratch))
            progress.phase("reading the clips", len(files.names))
            tokenizer = load_tokenizer(base.checkpoint, base.text_encoder)
            inputs = fetch_preview_inputs(mode.previews(request), Path(scratch))
            loaded = load_clips(mode, request, files, rates[0], tokenizer, report, progress.advance, inputs)
            clips = [replace(clip, frames=None) for clip in clips_for_page(artifacts, loaded, shown)]
        except InputError as fault:
            error = fault
    write_report(artifacts, report, shown, mode)
    return Checked(report.as_json(), tuple(clips), error)

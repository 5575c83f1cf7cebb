"""The report on a dataset as a web page, with every clip as it is trained to listen to and look at.

In: fitted clips, one at a time, and the finished report. Out, among a run's artifacts: an HTML page that needs no
network, and beside it a folder with the sounds, videos and spectrograms.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from sonolora.analysis.spectrogram_file import write_spectrogram
from sonolora.core.atomic_files import atomic_write, write_json
from sonolora.data.clips import Clip
from sonolora.data.report import Report
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.modes.mode import Mode
from sonolora.runs.artifacts import REPORT, REPORT_MEDIA, REPORT_MEDIA_INDEX, REPORT_PAGE, RunArtifacts
from sonolora.runs.report.report_html import render_page
from sonolora.runs.report.run_view import run_view
from sonolora.runs.report.shown import ShownClip, ShownSound

_SMALLER = 2  # videos are shown at half size


def clips_for_page(artifacts: RunArtifacts, clips: Iterable[Clip], shown: list[ShownClip]) -> Iterator[Clip]:
    """Pass the clips through; their sounds and pictures are put among the artifacts and added to `shown`."""
    for number, clip in enumerate(clips, start=1):
        shown.append(put_clip(artifacts, number, clip))
        yield clip


def put_clip(artifacts: RunArtifacts, number: int, clip: Clip) -> ShownClip:
    """Put the sounds and pictures of clip number `number`, from 1, where the page expects them."""
    sounds = [_put_sound(artifacts, f"{number:04d}", "sound as trained" if clip.reference is None else "target", clip)]
    if clip.reference is not None:
        reference = Clip(clip.name, clip.caption, clip.reference)
        sounds.insert(0, _put_sound(artifacts, f"{number:04d}-reference", "reference", reference))
    return ShownClip(clip.name, clip.caption, tuple(sounds), clip.regenerate)


def write_report(artifacts: RunArtifacts, report: Report, shown: Sequence[ShownClip], mode: Mode) -> None:
    """Put the report as JSON, and as a page with the clips that were put before."""
    data = report.as_json()
    artifacts.put_json(REPORT, data)
    artifacts.put(REPORT_MEDIA_INDEX, partial(write_json, data=[asdict(clip) for clip in shown]))
    put_page(artifacts, data, shown, f"Data for {mode.name}")


def put_page(artifacts: RunArtifacts, report: Mapping[str, Any], clips: Sequence[ShownClip], title: str) -> None:
    """Put the page. `report` is that of `Report.as_json`."""
    artifacts.put(REPORT_PAGE, partial(_write_html, html=render_page(report, clips, title)))


def update_page(artifacts: RunArtifacts) -> None:
    """Put the page again, with what the run has made since: previews, curves, the verdict.

    Reads everything from the artifacts, so that it works at any moment, and after a run was resumed.
    """
    try:
        report = json.loads(artifacts.path(REPORT).read_bytes())
        shown = [ShownClip.parse(saved) for saved in json.loads(artifacts.path(REPORT_MEDIA_INDEX).read_bytes())]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # a run of an earlier version has no such list
        return
    if (view := run_view(artifacts)) is not None:
        html = render_page(report, shown, f"{view.name}: {view.mode}", view)
        artifacts.put(REPORT_PAGE, partial(_write_html, html=html))


def _write_html(path: Path, html: str) -> None:
    with atomic_write(path) as temporary:
        # A file name that is not valid Unicode holds lone surrogates, which UTF-8 cannot encode.
        temporary.write_bytes(html.encode("utf-8", "backslashreplace"))


def _put_sound(artifacts: RunArtifacts, stem: str, what: str, clip: Clip) -> ShownSound:
    if clip.frames is None:
        media = f"{REPORT_MEDIA}/{stem}.wav"
        artifacts.put(media, partial(write_wav, waveform=clip.audio))
    else:
        media = f"{REPORT_MEDIA}/{stem}.mp4"
        small = clip.frames[:, ::_SMALLER, ::_SMALLER]
        artifacts.put(media, lambda path: write_video(path, small, clip.frame_rate, clip.audio))
    picture = f"{REPORT_MEDIA}/{stem}.png"
    artifacts.put(picture, partial(write_spectrogram, waveform=clip.audio))
    return ShownSound(what, media, picture, clip.audio.seconds, clip.audio.sample_rate / 2)

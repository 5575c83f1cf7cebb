"""The report on a dataset as a web page, with every clip as it is trained to listen to and look at.

In: fitted clips, one at a time, and the finished report. Out, among a run's artifacts: an HTML page that needs no
network, and beside it a folder with the sounds, videos and spectrograms.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image

from sonolora.analysis.spectrogram import DBFS, mel_dbfs
from sonolora.core.atomic_files import atomic_write
from sonolora.data.clips import Clip
from sonolora.data.report import Report
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.modes.mode import Mode
from sonolora.runs.artifacts import REPORT, REPORT_MEDIA, REPORT_PAGE, RunArtifacts
from sonolora.runs.report_html import ShownClip, ShownSound, render_page

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


def video_of(number: int) -> str:
    """The artifact with the video, and its sound, of clip number `number`; only where the clip has a picture."""
    return f"{REPORT_MEDIA}/{number:04d}.mp4"


def write_report(artifacts: RunArtifacts, report: Report, shown: Sequence[ShownClip], mode: Mode) -> None:
    """Put the report as JSON, and as a page with the clips that were put before."""
    data = report.as_json()
    artifacts.put_json(REPORT, data)
    put_page(artifacts, data, shown, f"Data for {mode.name}")


def put_page(artifacts: RunArtifacts, report: Mapping[str, Any], clips: Sequence[ShownClip], title: str) -> None:
    """Put the page. `report` is that of `Report.as_json`."""
    artifacts.put(REPORT_PAGE, partial(_write_html, html=render_page(report, clips, title)))


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
    artifacts.put(picture, partial(_write_spectrogram, waveform=clip.audio))
    return ShownSound(what, media, picture, clip.audio.seconds, clip.audio.sample_rate / 2)


def _write_spectrogram(path: Path, waveform: Waveform) -> None:
    """A PNG without margins: its width is the whole sound, and nothing else."""
    levels, _ = mel_dbfs(waveform)
    with atomic_write(path) as temporary:
        matplotlib.image.imsave(
            temporary,
            levels,
            format="png",
            origin="lower",
            cmap="magma",
            vmin=DBFS[0],
            vmax=DBFS[1],
            pil_kwargs={"compress_level": 1},  # noise does not get much smaller, whatever the level
        )

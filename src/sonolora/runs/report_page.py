"""The report on a dataset as a web page, with every clip as it is trained to listen to and look at.

In: fitted clips, one at a time, and the finished report. Out: an HTML file that needs no network, and beside it a
folder of the same name with the sounds, videos and spectrograms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import matplotlib.image

from sonolora.analysis.spectrogram import DBFS, mel_dbfs
from sonolora.core.atomic_files import atomic_write
from sonolora.data.clips import Clip
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.runs.report_html import ShownClip, ShownSound, render_page

_SMALLER = 2  # videos are shown at half size


def write_clip(page: Path, number: int, clip: Clip) -> ShownClip:
    """Write the sounds and pictures of clip number `number` for the page at `page`."""
    page.with_suffix("").mkdir(parents=True, exist_ok=True)
    sounds = [_write_sound(page, f"{number:04d}", "sound as trained" if clip.reference is None else "target", clip)]
    if clip.reference is not None:
        reference = Clip(clip.name, clip.caption, clip.reference)
        sounds.insert(0, _write_sound(page, f"{number:04d}-reference", "reference", reference))
    return ShownClip(clip.name, clip.caption, tuple(sounds), clip.regenerate)


def video_of(page: Path, number: int) -> Path:
    """The video, with its sound, that `write_clip` writes for clip number `number` if the clip has a picture."""
    return page.with_suffix("") / f"{number:04d}.mp4"


def write_page(page: Path, report: Mapping[str, Any], clips: Sequence[ShownClip], title: str) -> None:
    """Write the page. `report` is that of `Report.as_json`."""
    html = render_page(report, clips, title)
    with atomic_write(page) as temporary:
        # A file name that is not valid Unicode holds lone surrogates, which UTF-8 cannot encode.
        temporary.write_bytes(html.encode("utf-8", "backslashreplace"))


def _write_sound(page: Path, stem: str, what: str, clip: Clip) -> ShownSound:
    folder = page.with_suffix("")
    media = folder / f"{stem}.{'wav' if clip.frames is None else 'mp4'}"
    if clip.frames is None:
        write_wav(media, clip.audio)
    else:
        write_video(media, clip.frames[:, ::_SMALLER, ::_SMALLER], clip.frame_rate, clip.audio)
    picture = folder / f"{stem}.png"
    _write_spectrogram(picture, clip.audio)
    address = quote(folder.name)
    return ShownSound(
        what, f"{address}/{media.name}", f"{address}/{picture.name}", clip.audio.seconds, clip.audio.sample_rate / 2
    )


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
            pil_kwargs={"compress_level": 1},  # noise does not get much smaller, however long one tries
        )

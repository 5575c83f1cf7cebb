"""The report on a dataset as a page for the browser, with every clip to be heard and seen as it is trained.

In: fitted clips, one at a time, and the finished report. Out: an HTML file that needs no network, and beside it a
folder with the sounds, videos and spectrograms. What the page looks like is in `report_page.html`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any, get_args

import matplotlib.image

from sonolora.analysis.spectrogram import DBFS, mel_dbfs
from sonolora.core.atomic_files import atomic_write
from sonolora.core.frames import Span
from sonolora.data.clips import Clip
from sonolora.data.report import Report, Status
from sonolora.media.audio import Waveform
from sonolora.media.write_audio import write_wav
from sonolora.media.write_video import write_video
from sonolora.modes.mode import Mode
from sonolora.runs.artifacts import REPORT, REPORT_MEDIA, REPORT_PAGE, RunArtifacts

_TEMPLATE = Path(__file__).with_name("report_page.html")
_TICK_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10)
_MOST_TICKS = 8
_SMALLER = 2  # films are shown at half their size

# What the names of clips and of files may have after what they share.
_SCENE = re.compile(r"_scene\d+$")
_ROLE = re.compile(r"_(start|end|mask)$")


@dataclass(frozen=True)
class ShownSound:
    """A player and its picture. `media` and `picture` are addresses relative to the page."""

    what: str
    media: str
    picture: str
    seconds: float
    highest_hertz: float


@dataclass(frozen=True)
class ShownClip:
    """What remains to be said of a clip when its sounds and pictures are written."""

    name: str
    caption: str
    sounds: tuple[ShownSound, ...]
    regenerate: tuple[Span, ...] | None


def clips_for_page(artifacts: RunArtifacts, clips: Iterable[Clip], shown: list[ShownClip]) -> Iterator[Clip]:
    """The clips as they pass, with their sounds and pictures put among the artifacts and added to `shown`."""
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
    artifacts.put_json(REPORT, report.as_json())
    put_page(artifacts, report.as_json(), shown, f"Data for {mode.name}")


def put_page(artifacts: RunArtifacts, report: Mapping[str, Any], clips: Sequence[ShownClip], title: str) -> None:
    """Put the page. `report` is that of `Report.as_json`."""
    entries: Sequence[Mapping[str, Any]] = report["files"]
    figures = list(dict.fromkeys(name for entry in entries for name in entry["facts"]))
    heads = ["file", "verdict", "detail and warnings", *(name.replace("_", " ") for name in figures)]
    numbers: dict[str, int] = {}
    for number, clip in enumerate(clips, start=1):
        numbers.setdefault(_SCENE.sub("", clip.name), number)
    owners = [_owner(entry["file"], numbers) for entry in entries]
    warnings: defaultdict[int | None, list[tuple[str, str]]] = defaultdict(list)
    for owner, entry in zip(owners, entries, strict=True):
        warnings[owner] += [(entry["file"], text) for text in entry["warnings"]]
    html = Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        counts="".join(f"<div><dt>{what}</dt><dd>{count}</dd></div>" for what, count in report["summary"].items()),
        statuses="".join(
            f'<label><input type="checkbox" name="status" value="{status}" checked> {status}</label>'
            for status in get_args(Status)
        ),
        heads="".join(f'<th scope="col"><button type="button">{escape(head)}</button></th>' for head in heads),
        rows="".join(_row(entry, owner, figures) for entry, owner in zip(entries, owners, strict=True)),
        clips="".join(
            _card(clip, number, warnings[numbers[_SCENE.sub("", clip.name)]])
            for number, clip in enumerate(clips, start=1)
        ),
    )
    artifacts.put(REPORT_PAGE, partial(_write_html, html=html))


def _write_html(path: Path, html: str) -> None:
    with atomic_write(path) as temporary:
        # A file name that is not valid Unicode holds lone surrogates, which UTF-8 cannot encode.
        temporary.write_bytes(html.encode("utf-8", "backslashreplace"))


def _owner(file: str, numbers: Mapping[str, int]) -> int | None:
    """The number of the first clip that is made of a file."""
    stem = PurePosixPath(file).stem
    return numbers.get(stem) or numbers.get(_ROLE.sub("", stem))


def _put_sound(artifacts: RunArtifacts, stem: str, what: str, clip: Clip) -> ShownSound:
    if clip.film is None:
        media = f"{REPORT_MEDIA}/{stem}.wav"
        artifacts.put(media, partial(write_wav, waveform=clip.audio))
    else:
        media = f"{REPORT_MEDIA}/{stem}.mp4"
        small = clip.film[:, ::_SMALLER, ::_SMALLER]
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
            pil_kwargs={"compress_level": 1},  # noise does not get much smaller, however long one tries
        )


def _row(entry: Mapping[str, Any], clip: int | None, figures: Sequence[str]) -> str:
    name, status, detail = (escape(entry[field]) for field in ("file", "status", "detail"))
    shown = f'<a href="#clip-{clip}">{name}</a>' if clip else name
    return (
        f'<tr data-status="{status}"><th scope="row" data-value="{name}">{shown}</th>'
        f'<td class="verdict {status.replace(" ", "-")}" data-value="{status}">{status}</td>'
        f'<td class="detail" data-value="{len(entry["warnings"]) or ""}">{detail}'
        f"{_warnings([('', text) for text in entry['warnings']])}</td>"
        f"{''.join(_cell(entry['facts'].get(figure)) for figure in figures)}</tr>"
    )


def _cell(fact: float | str | None) -> str:
    if fact is None:
        return '<td data-value=""></td>'
    if isinstance(fact, str):
        return f'<td data-value="{escape(fact)}">{escape(fact)}</td>'
    return f'<td class="number" data-value="{fact}">{fact:,}</td>'


def _warnings(texts: Sequence[tuple[str, str]]) -> str:
    """A list of (file, text); the file may be empty."""
    if not texts:
        return ""
    items = (f"<li>{f'<b>{escape(file)}</b>: ' if file else ''}{escape(text)}</li>" for file, text in texts)
    return f'<ul class="warnings">{"".join(items)}</ul>'


def _card(clip: ShownClip, number: int, warnings: Sequence[tuple[str, str]]) -> str:
    caption = f'"caption">{escape(clip.caption)}' if clip.caption else '"caption none">trained without words'
    figures = "".join(_figure(clip, sound) for sound in clip.sounds)
    return (
        f'<article class="clip" id="clip-{number}"><h3 dir="auto">{escape(clip.name)}</h3>'
        f'<p dir="auto" class={caption}</p>{figures}{_warnings(warnings)}</article>'
    )


def _figure(clip: ShownClip, sound: ShownSound) -> str:
    label = escape(f"{sound.what} of {clip.name}")
    # A film shows its first frame; a sound shows nothing that the picture does not.
    tag, preload = ("video", "metadata") if sound.media.endswith(".mp4") else ("audio", "none")
    spans = clip.regenerate if clip.regenerate and sound is clip.sounds[-1] else ()
    marked = ", ".join(f"{start:g} to {end:g} s" for start, end in spans)
    caption = f'{sound.what}<span class="marked">regenerated: {marked}</span>' if marked else sound.what
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<{tag} controls preload="{preload}" src="{sound.media}" aria-label="{label}"></{tag}>'
        f'<div class="sound" data-seconds="{sound.seconds}"><img loading="lazy" src="{sound.picture}" alt="Spectrogram'
        f" of the {label}: {sound.seconds:.2f} s from left to right, 0 to {sound.highest_hertz:g} Hz from bottom to"
        f' top, on the mel scale">'
        f"{''.join(_span(span, sound.seconds) for span in spans)}"
        f'<span class="top">{sound.highest_hertz / 1000:g} kHz</span><span class="bottom">0</span>'
        f'<div class="now"></div></div><div class="ticks" aria-hidden="true">{_ticks(sound.seconds)}</div></figure>'
    )


def _span(span: Span, seconds: float) -> str:
    left, right = (100 * min(at, seconds) / seconds for at in span)
    return f'<div class="span" style="left:{left:.3f}%;width:{right - left:.3f}%"></div>'


def _ticks(seconds: float) -> str:
    step = next((step for step in _TICK_SECONDS if seconds / step <= _MOST_TICKS), _TICK_SECONDS[-1])
    # The last place is for the length itself.
    times = [step * index for index in range(int(seconds / step) + 1) if step * index < seconds - step / 2]
    places = "".join(f'<span style="left:{100 * time / seconds:.3f}%">{time:g} s</span>' for time in times)
    return f'{places}<span class="last" style="left:100%">{seconds:.4g} s</span>'

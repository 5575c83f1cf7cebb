"""The picture of a preview beside what it is compared with, and the film with its sound.

In: the artifacts of a run, a preview and its sound. Out: the preview's picture, and for v2a its film.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sonolora.analysis.compare import onset_times
from sonolora.analysis.pictures import FilmStrip, Row, draw_sounds
from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.film_sound import write_film
from sonolora.media.video import decode_frames, probe_video
from sonolora.runs.artifacts import Preview, RunArtifacts
from sonolora.runs.report.preview_sources import PreviewSource, sources_of

_FILM_FRAMES = 121
_FILM_SIZE = 192  # pixels of the longer side


def draw_preview(path: Path, artifacts: RunArtifacts, preview: Preview, sound: Waveform) -> None:
    """Write the picture: what is given, before, after and the real sound, one under the other."""
    source = sources_of(artifacts).get(preview.number, PreviewSource(preview.number))
    new = source.regenerate or ()
    rows: list[Row] = []
    measure = -1
    given = _sound(artifacts, source.given)
    real = _sound(artifacts, source.real) if source.real != source.given else None
    if given is not None:
        measure = 0 if new else -1
        rows.append(Row("original" if new else "reference", given, new))
    if preview.step and (before := _before(artifacts, preview)) is not None:
        rows.append(Row("before: the base", before, new))
    rows.append(Row(f"after {preview.step:,} steps" if preview.step else "the base", sound, new))
    if real is not None:
        rows.append(Row(f"real: {source.clip}", real))
        measure = len(rows) - 1
    draw_sounds(path, rows, preview.prompt, _strip(artifacts, source, real), measure)


def draw_strengths(path: Path, artifacts: RunArtifacts, preview: Preview, sounds: Mapping[str, Waveform]) -> None:
    """Write a picture of the base, then of the LoRA at each strength, then of the real sound."""
    source = sources_of(artifacts).get(preview.number, PreviewSource(preview.number))
    before, real = _before(artifacts, preview), _sound(artifacts, source.real)
    rows = [Row("the base", before, source.regenerate or ())] if before is not None else []
    rows += [Row(f"the LoRA at strength {one}", sound, source.regenerate or ()) for one, sound in sounds.items()]
    rows += [Row(f"real: {source.clip}", real)] if real is not None else []
    draw_sounds(path, rows, preview.prompt)


def put_film(artifacts: RunArtifacts, preview: Preview, sound: Waveform) -> None:
    """Put the film of a preview with its sound, if it was made for one."""
    source = sources_of(artifacts).get(preview.number)
    if source is not None and source.film is not None:
        artifacts.put(preview.film, partial(write_film, film=artifacts.path(source.film), sound=sound))


def _before(artifacts: RunArtifacts, preview: Preview) -> Waveform | None:
    like = preview.number, preview.distilled
    others = [one for one in artifacts.previews() if one.kind == "base" and (one.number, one.distilled) == like]
    return _sound(artifacts, others[0].sound) if others else None


def _sound(artifacts: RunArtifacts, name: str | None) -> Waveform | None:
    if name is None or name not in artifacts:
        return None
    try:
        return decode_audio(artifacts.path(name)).waveform
    except MediaError:  # a picture is not worth a run
        return None


def _strip(artifacts: RunArtifacts, source: PreviewSource, real: Waveform | None) -> FilmStrip | None:
    if source.film is None or source.film not in artifacts:
        return None
    path = artifacts.path(source.film)
    try:
        info = probe_video(path)
        small = _FILM_SIZE / max(info.width, info.height, _FILM_SIZE)
        width, height = (max(16, round(side * small) // 2 * 2) for side in (info.width, info.height))
        count = max(1, min(info.frames, _FILM_FRAMES))
        frames = decode_frames(path, frame_rate=info.fps, frames=count, width=width, height=height)
    except MediaError:
        return None
    return FilmStrip(frames, info.fps, tuple(onset_times(real)) if real is not None else ())

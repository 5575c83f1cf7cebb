"""What a preview or `generate` is given: the clip of which a part is kept, the reference, the film.

In: a `PreviewSpec`. Out: a `ConditioningInput`, whose clip has the class of a training clip and is encoded by the same
function. Addresses are URLs, data: URIs or paths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sonolora.core.download import Progress as DownloadProgress
from sonolora.core.errors import InputError, MediaError
from sonolora.core.frames import Span
from sonolora.data.clips import Clip
from sonolora.data.fetch import ANYWHERE, Sources, fetch
from sonolora.media.audio import Waveform, decode_audio, peak, peak_normalized, resample, to_stereo
from sonolora.media.video import decode_frames, probe_video
from sonolora.modes.preview_spec import MIN_SECONDS, FilmFormat, PreviewSpec

_EQUAL_SECONDS = 0.02  # by which a given clip may miss its length: encoder padding


@dataclass(frozen=True, eq=False)
class ConditioningInput:
    """`clip.audio` is silent where nothing is given.

    `kept` is the source at the output rate and its own level, in the place where the result has it; `gain` is what
    the source was multiplied with on the way into the model.
    """

    clip: Clip
    seconds: float
    kept: Waveform | None = None
    gain: float = 1.0


def load_conditioning_input(
    wanted: PreviewSpec,
    sample_rate: int,
    output_sample_rate: int,
    into: Path,
    sources: Sources = ANYWHERE,
    progress: DownloadProgress | None = None,
) -> ConditioningInput:
    """Fetch, of which `progress` is told, and fit.

    Raises `InputError` at the field of the address for what cannot be fetched, read or used.
    """

    def fetched(address: str) -> Path:
        return fetch(address, into, field=wanted.field, sources=sources, progress=progress)

    clip = Clip("preview", wanted.prompt, _silence(wanted.seconds, sample_rate), regenerate=wanted.regenerate)
    if wanted.video is not None and wanted.film is not None:
        return _with_film(clip, fetched(wanted.video), wanted.film, wanted, sample_rate)
    if wanted.reference is not None:
        sound = _stereo(fetched(wanted.reference), wanted)
        seconds = min(wanted.seconds, sound.seconds)
        reference = _placed(resample(sound, sample_rate), seconds, seconds, at_end=False)
        if wanted.normalize:
            reference = peak_normalized(reference)
        return ConditioningInput(replace(clip, audio=_silence(seconds, sample_rate), reference=reference), seconds)
    if wanted.source is not None:
        return _with_source(clip, fetched(wanted.source), wanted, sample_rate, output_sample_rate)
    return ConditioningInput(clip, wanted.seconds)


def _with_source(
    clip: Clip, path: Path, wanted: PreviewSpec, sample_rate: int, output_sample_rate: int
) -> ConditioningInput:
    sound = _stereo(path, wanted)
    seconds, used = wanted.seconds, wanted.given_seconds
    if used is None:
        seconds = used = min(wanted.seconds, sound.seconds)
    elif sound.seconds < used - _EQUAL_SECONDS:
        raise InputError.of(
            wanted.field,
            f"the clip lasts {sound.seconds:.2f} s and conditioning_seconds = {used:g} of it are needed: give a "
            "longer clip, or lower conditioning_seconds",
            "audio_duration_too_short",
            min_duration=used,
            provided_duration=round(sound.seconds, 3),
        )
    spans = tuple((start, min(end, seconds)) for start, end in wanted.regenerate or () if start < seconds)
    if not spans:
        raise InputError.of(
            wanted.field, f"the clip lasts {sound.seconds:.2f} s, and no range to regenerate lies inside it"
        )
    gain = peak(peak_normalized(sound)) / peak(sound) if wanted.normalize and peak(sound) > 0 else 1.0
    louder = replace(sound, samples=sound.samples * np.float32(gain))
    return ConditioningInput(
        replace(
            clip,
            audio=_placed(resample(louder, sample_rate), seconds, used, at_end=wanted.source_at_end),
            regenerate=spans,
        ),
        seconds,
        kept=_placed(resample(sound, output_sample_rate), seconds, used, at_end=wanted.source_at_end),
        gain=gain,
    )


def _with_film(clip: Clip, path: Path, film: FilmFormat, wanted: PreviewSpec, sample_rate: int) -> ConditioningInput:
    try:
        has = probe_video(path).seconds
        # Half a frame of tolerance: the last frame of a film is shown for a whole one.
        frames = (min(film.frames, int(has * film.frame_rate + 0.5)) - 1) // 8 * 8 + 1
        if frames < 9:
            raise MediaError(path, f"its {has:.2f} s are less than the 9 frames that are the least")
        pictures = decode_frames(path, frame_rate=film.frame_rate, frames=frames, width=film.width, height=film.height)
    except MediaError as error:
        raise InputError.of(wanted.field, str(error)) from error
    seconds = frames / film.frame_rate
    return ConditioningInput(
        replace(clip, audio=_silence(seconds, sample_rate), film=pictures, frame_rate=film.frame_rate), seconds
    )


def _stereo(path: Path, wanted: PreviewSpec) -> Waveform:
    try:
        sound = to_stereo(decode_audio(path).waveform)
    except MediaError as error:
        raise InputError.of(wanted.field, str(error)) from error
    if sound.seconds < MIN_SECONDS:
        raise InputError.of(
            wanted.field,
            f"the clip lasts {sound.seconds:.3f} s, and {MIN_SECONDS:g} s are the least: give a longer one",
            "audio_duration_too_short",
            min_duration=MIN_SECONDS,
            provided_duration=round(sound.seconds, 3),
        )
    return sound


def _placed(sound: Waveform, seconds: float, used: float, *, at_end: bool) -> Waveform:
    """`used` seconds of the sound, its beginning or its end, in a result of `seconds`; silence elsewhere."""
    wanted, count = round(seconds * sound.sample_rate), round(used * sound.sample_rate)
    samples = np.zeros((sound.channels, wanted), np.float32)
    part = sound.samples[:, -count:] if at_end else sound.samples[:, :count]
    part = part[:, -wanted:] if at_end else part[:, :wanted]
    if at_end:
        samples[:, wanted - part.shape[1] :] = part
    else:
        samples[:, : part.shape[1]] = part
    return replace(sound, samples=samples)


def _silence(seconds: float, sample_rate: int) -> Waveform:
    return Waveform(np.zeros((2, round(seconds * sample_rate)), np.float32), sample_rate)


def muted(sound: Waveform, spans: tuple[Span, ...]) -> Waveform:
    """The sound with silence in the spans: what of it is known when they are to be made anew."""
    samples = sound.samples.copy()
    for start, end in spans:
        samples[:, round(start * sound.sample_rate) : round(end * sound.sample_rate)] = 0
    return replace(sound, samples=samples)

"""What a preview or `generate` is conditioned on: the clip of which a part is kept, the reference, the video.

In: a `PreviewSpec`, or sounds that were read. Out: a `ConditioningInput`, whose clip has the class of a training clip
and is encoded by the same function. Addresses are URLs, data: URIs or paths.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonolora.core.download import Progress as DownloadProgress
from sonolora.core.errors import InputError, MediaError
from sonolora.core.frames import FRAMES_PER_LATENT, Span
from sonolora.data.clips import Clip
from sonolora.data.fetch import ANYWHERE, Sources, fetch
from sonolora.media.audio import Decoded, Waveform, decode_audio, peak, peak_normalized, resample, to_stereo
from sonolora.media.fit_audio import cut_or_padded
from sonolora.media.timeline import CLOCK
from sonolora.media.video import decode_frames, probe_video
from sonolora.modes.preview_spec import MIN_SECONDS, PreviewSpec

_EQUAL_SECONDS = 0.02  # a given clip may be this much shorter than needed: encoder padding


@dataclass(frozen=True, eq=False)
class ConditioningInput:
    """`clip.audio` is silent where nothing is given.

    `kept` is the source at the output sample rate and its own level, at its place in the result; `gain` is the factor
    that the source was multiplied with on the way into the model.
    """

    clip: Clip
    seconds: float
    kept: Waveform | None = None
    gain: float = 1.0


def load_conditioning_input(
    spec: PreviewSpec,
    sample_rate: int,
    output_sample_rate: int,
    into: Path,
    sources: Sources = ANYWHERE,
    progress: DownloadProgress | None = None,
) -> ConditioningInput:
    """Fetch, reporting to `progress`, and fit to the length of the preview.

    Raises `InputError` at the field of the address for what cannot be fetched, read or used.
    """

    def fetched(address: str) -> Path:
        return fetch(address, into, field=spec.field, sources=sources, progress=progress)

    clip = Clip("preview", spec.prompt, silence(spec.seconds, sample_rate), regenerate=spec.regenerate)
    if spec.video is not None and spec.video_format is not None:
        video = fetched(spec.video)
        wanted = spec.video_format
        seconds = min(wanted.frames / wanted.frame_rate, video_seconds(video, spec.field))
        clip = replace(clip, audio=silence(seconds, sample_rate))
        frames = read_frames(video, wanted.frame_rate, wanted.width, wanted.height, seconds, spec.field)
        return ConditioningInput(replace(clip, frames=frames, frame_rate=wanted.frame_rate), seconds)
    if spec.reference is not None:
        sound = to_stereo(read_sound(fetched(spec.reference), spec.field, spec.seconds).waveform)
        reference = fit_reference(sound, sample_rate, normalize=spec.normalize)
        clip = replace(clip, audio=silence(sound.seconds, sample_rate), reference=reference)
        return ConditioningInput(clip, sound.seconds)
    if spec.source is not None:
        return _with_source(clip, fetched(spec.source), spec, sample_rate, output_sample_rate)
    return ConditioningInput(clip, spec.seconds)


def _with_source(
    clip: Clip, path: Path, spec: PreviewSpec, sample_rate: int, output_sample_rate: int
) -> ConditioningInput:
    used = spec.seconds if spec.given_seconds is None else spec.given_seconds
    sound = to_stereo(read_sound(path, spec.field, used, at_end=spec.source_at_end).waveform)
    seconds = sound.seconds
    if spec.given_seconds is not None:
        check_long_enough(sound, spec.given_seconds, spec.field)
        seconds = spec.seconds
        sound = padded(sound, seconds, at_start=spec.source_at_end)
    spans = tuple((start, min(end, seconds)) for start, end in spec.regenerate or () if start < seconds)
    if not spans:
        raise InputError.of(spec.field, f"the clip lasts {seconds:.2f} s, and no range to regenerate lies inside it")
    given = keep_source(replace(clip, regenerate=spans), sound, sample_rate, normalize=spec.normalize)
    return replace(given, kept=_resampled(sound, output_sample_rate))


def keep_source(clip: Clip, sound: Waveform, sample_rate: int, *, normalize: bool) -> ConditioningInput:
    """A clip whose audio is `sound`, but for its regenerated spans.

    With `normalize` its level is that of training clips, measured on what is kept: the spans are not used.
    """
    kept = muted(sound, clip.regenerate or ())
    gain = peak(peak_normalized(kept)) / peak(kept) if normalize and peak(kept) > 0 else 1.0
    scaled = replace(sound, samples=sound.samples * np.float32(gain))
    return ConditioningInput(replace(clip, audio=_resampled(scaled, sample_rate)), sound.seconds, gain=gain)


def fit_reference(sound: Waveform, sample_rate: int, *, normalize: bool) -> Waveform:
    """A reference as the model is given it."""
    reference = _resampled(sound, sample_rate)
    return peak_normalized(reference) if normalize else reference


def check_long_enough(sound: Waveform, context_seconds: float, field: str) -> None:
    """Raise `InputError` for a clip with less than the seconds that an extension is given."""
    if sound.seconds < context_seconds - _EQUAL_SECONDS:
        raise InputError.of(
            field,
            f"the clip lasts {sound.seconds:.2f} s and conditioning_seconds = {context_seconds:g} of it are needed: "
            "give a longer clip, or lower conditioning_seconds",
            "audio_duration_too_short",
            min_duration=context_seconds,
            provided_duration=round(sound.seconds, 3),
        )


def video_seconds(path: Path, field: str) -> float:
    """Length of a video's picture. Raises `InputError` for what is no video, or shorter than `MIN_SECONDS`."""
    try:
        seconds = probe_video(path).seconds
        if seconds < MIN_SECONDS:
            raise MediaError(path, f"it lasts {seconds:.3f} s, and the minimum is {MIN_SECONDS:g} s: give a longer one")
    except MediaError as error:
        raise InputError.of(field, str(error)) from error
    return seconds


def read_frames(
    path: Path, frame_rate: float, width: int, height: int, seconds: float, field: str, start: float = 0.0
) -> NDArray[np.uint8]:
    """RGB frames (8 k + 1, height, width, 3) that cover `seconds` from `start` on; beyond the end the last repeats.

    `start` lies inside the video. Raises `InputError` for a video that cannot be decoded.
    """
    latents = math.ceil((round(seconds * frame_rate, 1) - 1) / FRAMES_PER_LATENT)
    count = max(latents, 1) * FRAMES_PER_LATENT + 1
    try:
        left = probe_video(path).seconds - start
        present = max(1, min(count, math.ceil((left - 2 * CLOCK) * frame_rate)))
        frames = decode_frames(path, frame_rate=frame_rate, frames=present, width=width, height=height, start=start)
    except MediaError as error:
        raise InputError.of(field, str(error)) from error
    return np.concatenate([frames, np.repeat(frames[-1:], count - present, axis=0)])


def read_sound(path: Path, field: str, seconds: float | None = None, *, at_end: bool = False) -> Decoded:
    """A sound, or at most so much of its beginning or end, at its own sample rate and channels.

    Raises `InputError` for what is no sound, or too short.
    """
    try:
        sound = decode_audio(path, seconds=seconds, at_end=at_end)
    except MediaError as error:
        raise InputError.of(field, str(error)) from error
    if sound.seconds < MIN_SECONDS:
        raise InputError.of(
            field,
            f"the clip lasts {sound.seconds:.3f} s, and the minimum is {MIN_SECONDS:g} s: give a longer one",
            "audio_duration_too_short",
            min_duration=MIN_SECONDS,
            provided_duration=round(sound.seconds, 3),
        )
    return sound


def padded(sound: Waveform, seconds: float, *, at_start: bool) -> Waveform:
    """Silence added up to a length of `seconds`."""
    count = round(seconds * sound.sample_rate) - sound.samples.shape[1]
    return replace(sound, samples=np.pad(sound.samples, ((0, 0), (count, 0) if at_start else (0, count))))


def _resampled(sound: Waveform, sample_rate: int) -> Waveform:
    """Exactly as long as before: one sample more would be a latent frame more."""
    return cut_or_padded(resample(sound, sample_rate), round(sound.seconds * sample_rate))


def silence(seconds: float, sample_rate: int) -> Waveform:
    """Stereo."""
    return Waveform(np.zeros((2, round(seconds * sample_rate)), np.float32), sample_rate)


def muted(sound: Waveform, spans: tuple[Span, ...]) -> Waveform:
    """The sound with silence in the spans: what of it is known when they are regenerated."""
    samples = sound.samples.copy()
    for start, end in spans:
        samples[:, round(start * sound.sample_rate) : round(end * sound.sample_rate)] = 0
    return replace(sound, samples=samples)

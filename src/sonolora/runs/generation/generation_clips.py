"""What `generate` gives the model: a request's files as clips, and the recording that results are pasted into.

In: a `GenerationSpec`. Out: a `GenerationInput`. The length of what is given decides the length of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sonolora.core.errors import InputError
from sonolora.core.frames import FRAME_SECONDS, Span, encoded_seconds, frame_count
from sonolora.core.progress import Progress
from sonolora.data.clips import Clip
from sonolora.data.conditioning_inputs import (
    ConditioningInput,
    check_long_enough,
    fit_reference,
    keep_source,
    read_frames,
    read_sound,
    silence,
    video_seconds,
)
from sonolora.data.fetch import ANYWHERE, Sources, fetch
from sonolora.media.audio import Decoded, Waveform, to_stereo
from sonolora.modes.generate_request import MAX_LONG_SECONDS, GenerationSpec
from sonolora.sampling.regions import Region, plan_inpainting
from sonolora.sampling.windows import window_starts

DEFAULT_SECONDS = 5.0  # of a sound from words, and of an extension with its context, where no LoRA says otherwise
FAR = 4.0  # times the trained length: beyond, half of what a LoRA learnt is lost (bench/other_lengths.py)
_OVERLAP = 0.5  # share of a window that it has in common with the next
_EQUAL_SECONDS = 0.02  # a range may exceed the clip by this much: encoder padding


@dataclass(frozen=True, eq=False)
class GenerationInput:
    """Either `windows`, (first latent frame, input) each, of one sound of `seconds`; or a `recording` with `regions`.

    `recording`: the source at its own sample rate and channels, with silence where it is extended. The first sample of
    its file `source` is sample `source_offset` of the recording.
    """

    seconds: float
    windows: tuple[tuple[int, ConditioningInput], ...] = ()
    recording: Waveform | None = None
    regions: tuple[Region, ...] = ()
    source: Path | None = None
    source_offset: int = 0


@dataclass(frozen=True, eq=False)
class RegionInput:
    """`first`: the region's first sample in the recording. `paste`: seconds of the region that go there."""

    given: ConditioningInput
    first: int
    paste: tuple[Span, ...]


@dataclass(frozen=True)
class ClipLength:
    """What the model can do at once, in seconds. `trained`: length of the LoRA's training clips, None if unknown."""

    trained: float | None
    longest: float  # that the base's positions are made for

    def warning(self, seconds: float) -> str | None:
        """What the user should know of a sound of `seconds` that is generated at once."""
        if self.trained is not None and seconds > FAR * self.trained:
            return (
                f"{seconds:.2f} s are {seconds / self.trained:.1f} times the length of the LoRA's training clips "
                f"({self.trained:g} s): expect to hear less of what it learnt than at up to {FAR * self.trained:g} s"
            )
        if seconds > self.longest:
            return f"{seconds:.2f} s are more than the {self.longest:g} s that the base knows: expect worse sound"
        return None

    @property
    def region(self) -> float:
        """Of what is inpainted at once, with its context."""
        return self.trained or self.longest

    @property
    def extension(self) -> float:
        """Of what is added at once, with its context: at full length it sounded better than in windows, as far as a
        LoRA holds (`bench/long_sounds.py`)."""
        return self.longest if self.trained is None else min(self.longest, FAR * self.trained)


def load_generation_input(
    spec: GenerationSpec,
    length: ClipLength,
    sample_rate: int,
    into: Path,
    progress: Progress,
    sources: Sources = ANYWHERE,
) -> GenerationInput:
    """Fetch and fit; `sample_rate` is the codec's. `progress` is told what is split, cut or damaged.

    Raises `InputError` at the request field for what cannot be fetched, read or used.
    """

    def fetched(address: str) -> Path:
        return fetch(address, into, field=spec.field, sources=sources)

    if spec.source is not None:
        return _recording(fetched(spec.source), spec, length, progress)
    clip = Clip("generated", spec.prompt, silence(0, sample_rate))
    if spec.reference is not None:
        decoded = _read(fetched(spec.reference), spec, spec.seconds or MAX_LONG_SECONDS, progress)
        if spec.seconds is None:
            _refuse_too_long(decoded.seconds, spec)
        sound = to_stereo(decoded.waveform)
        reference = fit_reference(sound, sample_rate, normalize=spec.normalize)
        clip = replace(clip, audio=silence(sound.seconds, sample_rate), reference=reference)
        return _windows(clip, sound.seconds, spec, length, progress, lambda part, start: part)  # noqa: ARG005
    if spec.video is not None:
        return _video(clip, fetched(spec.video), spec, length, progress)
    seconds = spec.seconds or length.trained or DEFAULT_SECONDS
    if warning := length.warning(seconds):
        progress.warning(warning)
    clip = replace(clip, audio=silence(seconds, sample_rate))
    return GenerationInput(seconds, ((0, ConditioningInput(clip, seconds)),))


def region_input(recording: Waveform, region: Region, spec: GenerationSpec, sample_rate: int) -> RegionInput:
    """A region as the model is given it."""
    rate = recording.sample_rate
    first, last = round(region.start * rate), round(region.end * rate)
    part = replace(recording, samples=recording.samples[:, first:last])

    def inside(spans: Sequence[Span]) -> tuple[Span, ...]:
        return tuple((max(start - first / rate, 0.0), min(end - first / rate, part.seconds)) for start, end in spans)

    clip = Clip("generated", spec.prompt, silence(0, sample_rate), regenerate=inside(region.regenerate))
    given = keep_source(clip, to_stereo(part), sample_rate, normalize=spec.normalize)
    return RegionInput(given, first, inside(region.paste))


def continued_windows(spec: GenerationSpec, seconds: float, length: ClipLength) -> tuple[list[int], int]:
    """First latent frames of the windows of a region of `seconds`, in order, and their number of frames.

    Each continues the one before: an extension with as much context as it is given, inpainting with half a window.
    """
    at_once = length.extension if spec.extend else length.region
    frames, window = frame_count(seconds), frame_count(at_once)
    if frames <= window + 1:  # of rounding
        return [0], frames
    context = spec.context_seconds or _OVERLAP * at_once
    overlap = min(round(context / FRAME_SECONDS), window // 2)
    starts = window_starts(frames, window, overlap)
    return (starts[::-1] if spec.extend == "before" else starts), window


def _recording(path: Path, spec: GenerationSpec, length: ClipLength, progress: Progress) -> GenerationInput:
    recording = _read(path, spec, None if spec.extend else spec.seconds, progress).waveform
    seconds = recording.seconds
    if spec.extend is None:
        if max(end for _, end in spec.regenerate) > seconds + _EQUAL_SECONDS:
            progress.warning(f"{spec.field} lasts {seconds:.2f} s: time_ranges beyond its end are cut or ignored")
        spans = [(start, min(end, seconds)) for start, end in spec.regenerate if start < seconds]
        if not spans:
            raise InputError.of("time_ranges", f"{spec.field} lasts {seconds:.2f} s, and no range lies inside it")
        regions = plan_inpainting(spans, seconds, length.region)
        if regions[0].end - regions[0].start < seconds:
            progress.message(
                f"{spec.field} lasts {seconds:.2f} s: its ranges are regenerated in {_count(regions)} of "
                f"{length.region:g} s or more, with what lies around them as context"
            )
        return GenerationInput(seconds, recording=recording, regions=tuple(regions), source=path)
    new, context = _new_seconds(seconds, spec, length), spec.context_seconds or 0.0
    check_long_enough(recording, context, spec.field)
    context, before, count = min(context, seconds), spec.extend == "before", round(new * recording.sample_rate)
    if context + new > length.extension + FRAME_SECONDS:
        progress.message(
            f"{new:.2f} s are added to {spec.field} in windows of {length.extension:g} s, each of which continues the "
            "one before"
        )
    padding = (count, 0) if before else (0, count)
    recording = replace(recording, samples=np.pad(recording.samples, ((0, 0), padding)))
    span = (0.0, new) if before else (seconds, seconds + new)
    start, end = (0.0, new + context) if before else (seconds - context, seconds + new)
    return GenerationInput(
        recording.seconds,
        recording=recording,
        regions=(Region(start, end, (span,), (span,)),),
        source=path,
        source_offset=count if before else 0,
    )


def _count(regions: Sequence[Region]) -> str:
    return "1 region" if len(regions) == 1 else f"{len(regions)} regions"


def _new_seconds(source_seconds: float, spec: GenerationSpec, length: ClipLength) -> float:
    """Of new sound in an extension."""
    context = spec.context_seconds or 0.0
    if spec.extend_seconds is not None:
        return spec.extend_seconds
    if spec.seconds is None:
        whole = length.trained or DEFAULT_SECONDS
        if whole - context < FRAME_SECONDS:
            raise InputError.of(
                "conditioning_seconds",
                f"{context:g} s of a training clip of {whole:g} s leave nothing to generate: lower it, or set "
                "extend_seconds",
            )
        return whole - context
    new = spec.seconds - source_seconds
    if new < FRAME_SECONDS:
        raise InputError.of(
            "seconds",
            f"{spec.field} lasts {source_seconds:.2f} s and all of it is in the result, so seconds must be at least "
            f"{source_seconds + FRAME_SECONDS:.2f}; found {spec.seconds:g}. Set extend_seconds to say how much is new, "
            "or give a shorter clip",
        )
    if new > MAX_LONG_SECONDS:
        raise InputError.of("seconds", f"at most {MAX_LONG_SECONDS:g} s of new sound can be generated, not {new:.2f}")
    return new


def _read(path: Path, spec: GenerationSpec, seconds: float | None, progress: Progress) -> Decoded:
    decoded = read_sound(path, spec.field, seconds)
    if decoded.warning is not None:
        progress.warning(f"{spec.field}: {decoded.warning}")
    return decoded


def _refuse_too_long(seconds: float, spec: GenerationSpec) -> None:
    if seconds > MAX_LONG_SECONDS:
        raise InputError.of(
            spec.field,
            f"it lasts {seconds:.1f} s, and at most {MAX_LONG_SECONDS:g} s can be generated at once: give a shorter "
            "file, or set seconds to use only its beginning",
        )


def _video(clip: Clip, path: Path, spec: GenerationSpec, length: ClipLength, progress: Progress) -> GenerationInput:
    seconds = video_seconds(path, spec.field)
    if spec.seconds is not None:
        seconds = min(seconds, spec.seconds)
    _refuse_too_long(seconds, spec)
    clip = replace(clip, audio=silence(seconds, clip.audio.sample_rate))

    def with_frames(part: Clip, start: float) -> Clip:
        frames = read_frames(path, spec.frame_rate, *spec.frame_size, part.audio.seconds, spec.field, start)
        return replace(part, frames=frames, frame_rate=spec.frame_rate)

    return _windows(clip, seconds, spec, length, progress, with_frames)


def _windows(
    clip: Clip,
    seconds: float,
    spec: GenerationSpec,
    length: ClipLength,
    progress: Progress,
    finish: Callable[[Clip, float], Clip],
) -> GenerationInput:
    """All of a clip; in windows where it is longer than the base knows. `finish` adds the video from a second on."""
    if warning := length.warning(min(seconds, length.longest)):
        progress.warning(f"{spec.field}: {warning}")
    frames, window = frame_count(seconds), frame_count(length.longest)
    starts = window_starts(frames, window, round(_OVERLAP * window))
    if len(starts) == 1:
        given = ConditioningInput(finish(clip, 0.0), seconds)
        return GenerationInput(seconds, ((0, given),))
    progress.message(
        f"{spec.field}: {seconds:.2f} s are more than the {length.longest:g} s that the base knows: generating in "
        f"{len(starts)} overlapping windows"
    )
    parts = [(start, _window(clip, start, window)) for start in starts]
    return GenerationInput(
        seconds,
        tuple(
            (start, ConditioningInput(finish(part, start * FRAME_SECONDS), part.audio.seconds)) for start, part in parts
        ),
    )


def _window(clip: Clip, start: int, frames: int) -> Clip:
    """The frames of a clip from a latent frame on, as a clip of its own."""
    first, count = (round(value * clip.audio.sample_rate) for value in (start * FRAME_SECONDS, encoded_seconds(frames)))

    def cut(sound: Waveform) -> Waveform:
        samples = sound.samples[:, first : first + count]
        return replace(sound, samples=np.pad(samples, ((0, 0), (0, count - samples.shape[1]))))

    return replace(clip, audio=cut(clip.audio), reference=None if clip.reference is None else cut(clip.reference))

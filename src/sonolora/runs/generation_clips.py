"""What `generate` gives the model: a request's files as clips of the length that the LoRA was trained on.

In: a `GenerationSpec`. Out: a `GenerationInput`: passages, each of which is sampled in one go, and for inpainting and
extension the recording that they are pasted into. The length of what is given decides the length of the result.
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
from sonolora.data.fetch import fetch
from sonolora.media.audio import Waveform, to_stereo
from sonolora.modes.generate_request import MAX_LONG_SECONDS, GenerationSpec
from sonolora.sampling.regions import merge_spans, plan_regions
from sonolora.sampling.windows import window_starts

DEFAULT_SECONDS = 5.0  # of a sound from words, and of an extension with what it is given, where no LoRA says otherwise
_OVERLAP = 0.5  # share of a window that it has in common with the next
_EQUAL_SECONDS = 0.02  # by which a range may exceed the clip: encoder padding


@dataclass(frozen=True, eq=False)
class Passage:
    """A stretch of sound that is sampled in one go: its windows, (first latent frame, input) each.

    `paste`: the seconds of it that go into the recording, whose sample `offset` is the passage's first.
    """

    windows: tuple[tuple[int, ConditioningInput], ...]
    seconds: float
    paste: tuple[Span, ...] = ()
    offset: int = 0


@dataclass(frozen=True, eq=False)
class GenerationInput:
    """`recording`: the source at its own sample rate and channels, with silence where it is extended.

    `source`: the source's file, whose first sample is sample `source_offset` of the recording.
    """

    passages: tuple[Passage, ...]
    recording: Waveform | None = None
    source: Path | None = None
    source_offset: int = 0


@dataclass(frozen=True)
class ClipLength:
    """What the model can do at once, in seconds. `trained`: length of the LoRA's training clips, None if unknown."""

    trained: float | None
    longest: float  # of the base

    @property
    def window(self) -> float:
        """Seconds of a window."""
        return self.trained or self.longest


def load_generation_input(
    spec: GenerationSpec, length: ClipLength, sample_rate: int, into: Path, progress: Progress
) -> GenerationInput:
    """Fetch and fit; `sample_rate` is the codec's. What is split, or not used, is told to `progress`.

    Raises `InputError` at the request field for what cannot be fetched, read or used.
    """

    def fetched(address: str) -> Path:
        return fetch(address, into, field=spec.field)

    clip = Clip("generated", spec.prompt, silence(0, sample_rate))
    if spec.source is not None:
        return _source_input(clip, fetched(spec.source), spec, length, sample_rate, progress)
    if spec.reference is not None:
        decoded = read_sound(fetched(spec.reference), spec.field, spec.seconds or MAX_LONG_SECONDS)
        if spec.seconds is None:
            _refuse_too_long(decoded.seconds, spec)
        sound = to_stereo(decoded.waveform)
        reference = fit_reference(sound, sample_rate, normalize=spec.normalize)
        clip = replace(clip, audio=silence(sound.seconds, sample_rate), reference=reference)
        return GenerationInput((_passage(ConditioningInput(clip, sound.seconds), length, progress, spec.field),))
    if spec.video is not None:
        return GenerationInput((_video_passage(clip, fetched(spec.video), spec, length, progress),))
    seconds = spec.seconds or length.trained or DEFAULT_SECONDS
    clip = replace(clip, audio=silence(seconds, sample_rate))
    return GenerationInput((Passage(((0, ConditioningInput(clip, seconds)),), seconds),))


def _source_input(
    clip: Clip, path: Path, spec: GenerationSpec, length: ClipLength, sample_rate: int, progress: Progress
) -> GenerationInput:
    recording = read_sound(path, spec.field, spec.seconds if spec.extend is None else None).waveform
    rate, source_offset = recording.sample_rate, 0
    if spec.extend is None:
        if max(end for _, end in spec.regenerate) > recording.seconds + _EQUAL_SECONDS:
            progress.warning(
                f"{spec.field} lasts {recording.seconds:.2f} s: time_ranges beyond its end are cut or ignored"
            )
        spans = [(start, min(end, recording.seconds)) for start, end in spec.regenerate if start < recording.seconds]
        if not spans:
            raise InputError.of(
                "time_ranges", f"{spec.field} lasts {recording.seconds:.2f} s, and no range lies inside it"
            )
        regions = [
            (region.start, region.end, region.paste, region.regenerate)
            for region in plan_regions(spans, recording.seconds, length.window)
        ]
        if len(regions) > 1 or regions[0][1] - regions[0][0] < recording.seconds:
            progress.message(
                f"{spec.field} lasts {recording.seconds:.2f} s: its ranges are regenerated in {len(regions)} "
                f"{'passage' if len(regions) == 1 else 'passages'} of up to "
                f"{max(end - start for start, end, *_ in regions):.2f} s, with what lies around them as context"
            )
    else:
        new = _new_seconds(recording, spec, length)
        context = spec.context_seconds or 0.0
        check_long_enough(recording, context, spec.field)
        context = min(context, recording.seconds)
        count, given = round(new * rate), recording.samples.shape[1]
        before = spec.extend == "before"
        source_offset = count if before else 0
        padding = (count, 0) if before else (0, count)
        recording = replace(recording, samples=np.pad(recording.samples, ((0, 0), padding)))
        span = (0.0, count / rate) if before else (given / rate, (given + count) / rate)
        start, end = (0.0, span[1] + context) if before else (span[0] - context, span[1])
        regions = [(start, end, (span,), (span,))]
    passages = []
    for start, end, paste, regenerate in regions:
        first, last = round(start * rate), round(end * rate)
        part = replace(recording, samples=recording.samples[:, first:last])

        def inside(spans: Sequence[Span], begin: float = first / rate, part: Waveform = part) -> tuple[Span, ...]:
            return tuple((max(a - begin, 0.0), min(b - begin, part.seconds)) for a, b in spans)

        own = replace(clip, regenerate=inside(regenerate))
        given_part = keep_source(own, to_stereo(part), sample_rate, normalize=spec.normalize)
        passages.append(
            replace(_passage(given_part, length, progress, spec.field), paste=inside(merge_spans(paste)), offset=first)
        )
    return GenerationInput(tuple(passages), recording, path, source_offset)


def _new_seconds(source: Waveform, spec: GenerationSpec, length: ClipLength) -> float:
    """Seconds of new sound of an extension."""
    context = spec.context_seconds or 0.0
    if spec.extend_seconds is not None:
        return spec.extend_seconds
    if spec.seconds is None:
        whole = length.trained or DEFAULT_SECONDS
        new = whole - context
        if new < FRAME_SECONDS:
            raise InputError.of(
                "conditioning_seconds",
                f"{context:g} s of a training clip of {whole:g} s leave nothing to generate: lower it, or set "
                "extend_seconds",
            )
        return new
    new = spec.seconds - source.seconds
    if new < FRAME_SECONDS:
        raise InputError.of(
            "seconds",
            f"{spec.field} lasts {source.seconds:.2f} s and all of it is in the result, so seconds must be at least "
            f"{source.seconds + FRAME_SECONDS:.2f}; found {spec.seconds:g}. Set extend_seconds to say how much is new, "
            "or give a shorter clip",
        )
    if new > MAX_LONG_SECONDS:
        raise InputError.of("seconds", f"at most {MAX_LONG_SECONDS:g} s of new sound can be generated, not {new:.2f}")
    return new


def _refuse_too_long(seconds: float, spec: GenerationSpec) -> None:
    if seconds > MAX_LONG_SECONDS:
        raise InputError.of(
            spec.field,
            f"it lasts {seconds:.1f} s, and at most {MAX_LONG_SECONDS:g} s can be generated at once: give a shorter "
            "file, or set seconds to use only its beginning",
        )


def _video_passage(clip: Clip, path: Path, spec: GenerationSpec, length: ClipLength, progress: Progress) -> Passage:
    seconds = video_seconds(path, spec.field)
    if spec.seconds is not None:
        seconds = min(seconds, spec.seconds)
    _refuse_too_long(seconds, spec)
    clip = replace(clip, audio=silence(seconds, clip.audio.sample_rate))

    def with_frames(part: Clip, start: float) -> Clip:
        frames = read_frames(path, spec.frame_rate, *spec.frame_size, part.audio.seconds, spec.field, start)
        return replace(part, frames=frames, frame_rate=spec.frame_rate)

    return _passage(ConditioningInput(clip, seconds), length, progress, spec.field, with_frames)


def _passage(
    given: ConditioningInput,
    length: ClipLength,
    progress: Progress,
    field: str,
    finish: Callable[[Clip, float], Clip] = lambda clip, start: clip,  # noqa: ARG005
) -> Passage:
    """What is given, in windows where it is longer than the training clips. `finish` adds a window's video."""
    seconds = given.clip.audio.seconds
    frames, window = frame_count(seconds), frame_count(length.window)
    starts = window_starts(frames, window, round(_OVERLAP * window))
    if len(starts) == 1:
        return Passage(((0, replace(given, clip=finish(given.clip, 0.0))),), given.seconds)
    progress.message(
        f"{field}: {seconds:.2f} s are generated in {len(starts)} overlapping windows of {length.window:.2f} s"
        + (", the length of the LoRA's training clips" if length.trained else "")
    )
    windows = [(start, _window(given, start, window)) for start in starts]
    return Passage(
        tuple((start, replace(one, clip=finish(one.clip, start * FRAME_SECONDS))) for start, one in windows),
        given.seconds,
    )


def _window(given: ConditioningInput, start: int, frames: int) -> ConditioningInput:
    """The clip from a latent frame on, as a clip of its own."""
    clip, begin, seconds = given.clip, start * FRAME_SECONDS, encoded_seconds(frames)
    first, count = (round(value * clip.audio.sample_rate) for value in (begin, seconds))

    def cut(sound: Waveform) -> Waveform:
        samples = sound.samples[:, first : first + count]
        return replace(sound, samples=np.pad(samples, ((0, 0), (0, count - samples.shape[1]))))

    regenerate = None
    if clip.regenerate is not None:
        regenerate = tuple(
            (max(0.0, a - begin), min(seconds, b - begin))
            for a, b in clip.regenerate
            if a < begin + seconds and b > begin
        )
    return replace(
        given,
        clip=replace(
            clip,
            audio=cut(clip.audio),
            reference=None if clip.reference is None else cut(clip.reference),
            regenerate=regenerate,
        ),
        seconds=seconds,
    )

"""Pastes kept audio back into a generated result, sample-exact.

In: the generated audio, the kept audio at its place, the regenerated spans. Out: the kept audio outside the spans,
unchanged; the generated audio inside them, with a short equal-power crossfade at each seam. The crossfade lies inside
the span and fades out the kept audio mirrored at the seam, because the span's old content must not be audible, and
because beyond the end of a given opening there is nothing to fade from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sonolora.core.frames import Span
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.fit_audio import cut_or_padded
from sonolora.sampling.level_correction import correct_levels

FADE_SECONDS = 0.01


def paste_kept(generated: Waveform, kept: Waveform, regenerate: Sequence[Span]) -> Waveform:
    """Both waveforms are (channels, samples) of the same length and sample rate, and so is the result."""
    sample_rate, length = generated.sample_rate, generated.samples.shape[1]
    spans = _merged([(round(start * sample_rate), min(round(end * sample_rate), length)) for start, end in regenerate])
    known = kept.samples.copy()
    for first, last in spans:
        known[:, first:last] = 0
    result = known.copy()
    for first, last in spans:
        result[:, first:last] = generated.samples[:, first:last]
        fade = min(round(FADE_SECONDS * sample_rate), (last - first) // 2)
        if first > 0:
            _crossfade(result[:, first : first + fade], known[:, max(0, first - fade) : first][:, ::-1])
        if last < length:
            tail = result[:, last - fade : last]
            _crossfade(tail[:, ::-1], known[:, last : last + fade])
    return Waveform(result, sample_rate, generated.speakers)


def paste_passage(
    recording: Waveform, generated: Waveform, offset: int, spans: Sequence[Span], *, correct: bool = False
) -> None:
    """Replace spans of a recording, in place, by those of a generated passage; no other sample changes.

    `recording`: (channels, samples); `generated`: stereo at any sample rate, from sample `offset` of the recording on;
    `spans`: seconds of the passage; `correct`: bring them to the level of what is beside them, see `level_correction`.
    """
    fitted = resample(_as_channels_of(recording, generated), recording.sample_rate)
    part = recording.samples[:, offset : offset + round(generated.seconds * recording.sample_rate)]
    fitted = cut_or_padded(fitted, part.shape[1])
    kept = replace(recording, samples=part)
    part[:] = paste_kept(correct_levels(fitted, kept, spans) if correct else fitted, kept, spans).samples


def _as_channels_of(recording: Waveform, generated: Waveform) -> Waveform:
    """Stereo in the channels of a recording, so that the recording's mix down to stereo gives the stereo again."""
    if recording.channels == generated.channels:
        return generated
    one_each = np.eye(recording.channels, dtype=np.float32)
    mix = to_stereo(replace(recording, samples=one_each)).samples  # (2, channels)
    samples = np.linalg.pinv(mix).astype(np.float32) @ generated.samples
    return Waveform(samples, generated.sample_rate, recording.speakers)


def _merged(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order, those that touch or overlap merged into one: there is no seam between them."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def _crossfade(incoming: NDArray[np.float32], outgoing: NDArray[np.float32]) -> None:
    """Fade `incoming` in and `outgoing` out from the seam on, in place in `incoming`; both (channels, samples)."""
    count = min(incoming.shape[1], outgoing.shape[1])
    phase = (np.arange(count, dtype=np.float32) + 0.5) / count * np.float32(np.pi / 2)
    incoming[:, :count] = incoming[:, :count] * np.sin(phase) + outgoing[:, :count] * np.cos(phase)

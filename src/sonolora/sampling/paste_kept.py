"""Putting kept sound back, sample for sample, into a generated result.

In: the generated sound, the kept sound in its place, the regenerated spans. Out: the kept sound outside the spans,
untouched; the generated sound inside them, with a short equal-power crossfade at each seam. The crossfade lies
inside the span, against the kept sound mirrored at the seam: what was in the span before must not be heard, and
beyond the end of a given opening there is nothing to fade from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sonolora.core.frames import Span
from sonolora.media.audio import Waveform

FADE_SECONDS = 0.01


def paste_kept(generated: Waveform, kept: Waveform, regenerate: Sequence[Span]) -> Waveform:
    """Both are (channels, samples) of one length and rate; so is the result."""
    rate, length = generated.sample_rate, generated.samples.shape[1]
    spans = _joined([(round(start * rate), min(round(end * rate), length)) for start, end in regenerate])
    known = kept.samples.copy()
    for first, last in spans:
        known[:, first:last] = 0
    result = known.copy()
    for first, last in spans:
        result[:, first:last] = generated.samples[:, first:last]
        fade = min(round(FADE_SECONDS * rate), (last - first) // 2)
        if first > 0:
            _cross(result[:, first : first + fade], known[:, max(0, first - fade) : first][:, ::-1])
        if last < length:
            seam = result[:, last - fade : last]
            _cross(seam[:, ::-1], known[:, last : last + fade])
    return Waveform(result, rate, generated.speakers)


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """In their order, those that touch or overlap as one: between them there is no seam."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return joined


def _cross(into: NDArray[np.float32], fading: NDArray[np.float32]) -> None:
    """Fade `into` in and `fading` out, from the seam on, in place."""
    count = min(into.shape[1], fading.shape[1])
    phase = (np.arange(count, dtype=np.float32) + 0.5) / count * np.float32(np.pi / 2)
    into[:, :count] = into[:, :count] * np.sin(phase) + fading[:, :count] * np.cos(phase)

"""Cutting a long recording into clips, at silence or at fixed lengths.

In: a sound and what is wanted. Out: spans of seconds to look at and change; then files, one a span.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonolora.core.errors import InputError
from sonolora.core.frames import Span
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_wav

MAX_SPANS = 2000
_HOP_SECONDS = 0.01
_FADE_SECONDS = 0.002  # against clicks where a cut is not silent
_LEAD_SECONDS = 0.02  # kept before a sound that follows silence


def by_length(seconds: float, length: float, minimum: float) -> list[Span]:
    """Spans of `length` one after the other; the last is as long as is left, if that is `minimum` or more."""
    starts = np.arange(0, seconds, length)
    spans = [(round(float(start), 3), round(min(float(start) + length, seconds), 3)) for start in starts]
    return [span for span in spans if span[1] - span[0] >= min(minimum, length) - 1e-3][:MAX_SPANS]


def by_silence(
    sound: Waveform, below_dbfs: float, pause: float, minimum: float, maximum: float | None = None
) -> list[Span]:
    """Spans between pauses: stretches of at least `pause` seconds that stay below a level.

    Spans shorter than `minimum` are skipped; those longer than `maximum` are cut into equal parts.
    """
    loud = _levels(sound) > below_dbfs
    edges = np.flatnonzero(np.diff(np.concatenate(([False], loud, [False])).astype(np.int8)))
    runs = [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    joined: list[tuple[int, int]] = []
    for start, end in runs:
        if joined and (start - joined[-1][1]) * _HOP_SECONDS < pause:
            joined[-1] = joined[-1][0], end
        else:
            joined.append((start, end))
    spans: list[Span] = []
    for first, last in joined:
        begin = max(0.0, first * _HOP_SECONDS - _LEAD_SECONDS)
        until = min(sound.seconds, last * _HOP_SECONDS + _LEAD_SECONDS)
        if until - begin < minimum:
            continue
        parts = 1 if maximum is None else int(np.ceil((until - begin) / maximum - 1e-9))
        bounds = np.linspace(begin, until, parts + 1)
        spans += [(round(float(a), 3), round(float(b), 3)) for a, b in pairwise(bounds)]
    return spans[:MAX_SPANS]


def cut(source: Path, spans: list[Span], into: Path, stem: str) -> list[Path]:
    """Write each span as a WAV at the source's rate. Raises `InputError` for a span that lies outside."""
    sound = decode_audio(source).waveform
    paths = []
    for number, (start, end) in enumerate(spans, start=1):
        first, last = round(start * sound.sample_rate), round(end * sound.sample_rate)
        last = min(last, sound.samples.shape[1])
        if not 0 <= first < last:
            raise InputError.of("spans", f"[{start:g}, {end:g}] lies outside the recording of {sound.seconds:.2f} s")
        path = into / f"{stem}_{number:03d}.wav"
        write_wav(path, replace(sound, samples=_faded(sound.samples[:, first:last], sound.sample_rate)))
        paths.append(path)
    return paths


def _levels(sound: Waveform) -> NDArray[np.float64]:
    """Peak level of each hop, in dBFS, over all channels."""
    hop = max(1, round(_HOP_SECONDS * sound.sample_rate))
    loudest = np.abs(sound.samples).max(axis=0)
    starts = np.arange(0, len(loudest), hop)
    levels: NDArray[np.float64] = 20 * np.log10(np.maximum(np.maximum.reduceat(loudest, starts), 1e-6))
    return levels


def _faded(samples: NDArray[np.float32], sample_rate: int) -> NDArray[np.float32]:
    count = min(round(_FADE_SECONDS * sample_rate), samples.shape[1] // 2)
    faded = samples.copy()
    if count:
        ramp = np.linspace(0, 1, count, dtype=np.float32)
        faded[:, :count] *= ramp
        faded[:, -count:] *= ramp[::-1]
    return faded

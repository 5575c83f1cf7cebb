"""Steady noise and mains hum behind a sound. In: a `Waveform`. Out: `Background`, figures without a judgement.

Both are measured where a recording shows them: noise in the quiet moments, as a floor to which the level returns; hum
as lines at the multiples of 50 or 60 Hz that stay while everything else changes. A sound that is itself noise or hum
(rain, a transformer) has no background in this sense.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sonolora.media.audio import Waveform

Floats = NDArray[np.floating]

_FRAME_SECONDS = 0.05
_LOUD_QUANTILE, _FLOOR_QUANTILE = 0.95, 0.1
_FLOOR_WIDTH_DB = 2.0  # frames this close to the floor belong to it
_FLOOR_SHARE = 0.3  # of all frames: a decay passes through every level, noise stays at one
_FLOOR_FRAMES = 4  # in a row at least: between the strokes of an engine the level is low for less
_TONAL_DB = 9.0  # a line that stands out by more makes the floor a tone, not noise
_NEIGHBOURS = 8  # bins on either side that a line is compared with
_RANGE_DB = 40.0  # below the strongest bin: fainter ones say nothing about the kind of floor

_HUM_WINDOW_SECONDS = 0.5
_MAINS_HERTZ = (50, 60)
_HARMONICS = 8
_MIN_HARMONICS = 4
_LINE_DB = 12.0  # by which a line stands out of its neighbourhood
_STEADY_DB = 4.0  # between the quartiles of its level over time


@dataclass(frozen=True)
class Background:
    """`noise_db`: level of the noise floor, `hum_db`: of all harmonics of `hum_hertz`, 50 or 60; both relative to the
    louder moments of the sound. None: not found."""

    noise_db: float | None = None
    hum_db: float | None = None
    hum_hertz: int | None = None


def background(waveform: Waveform) -> Background:
    """Measure the background of a sound. Less than a second, or silence, has none."""
    frame = round(_FRAME_SECONDS * waveform.sample_rate)
    count = waveform.samples.shape[1] // frame
    if count * _FRAME_SECONDS < 1:
        return Background()
    frames = waveform.samples[:, : count * frame].reshape(waveform.channels, count, frame)
    power = np.square(frames).mean(axis=(0, 2), dtype=np.float64)  # (count,)
    loud = float(np.quantile(power, _LOUD_QUANTILE))
    if loud <= 0:
        return Background()
    hum_db, hum_hertz = _hum(waveform, loud)
    return Background(_noise(frames, power, loud), hum_db, hum_hertz)


def _noise(frames: NDArray[np.float32], power: Floats, loud: float) -> float | None:
    """Level of the noise floor in dB relative to `loud`; `frames` (channels, count, samples), `power` (count,)."""
    floor = float(np.quantile(power, _FLOOR_QUANTILE))
    if floor <= 0:
        return None
    near = np.abs(10 * np.log10(np.maximum(power, 1e-20) / floor)) <= _FLOOR_WIDTH_DB
    if near.mean() < _FLOOR_SHARE or _longest_run(near) < _FLOOR_FRAMES:
        return None
    quiet = frames[:, near] * np.hanning(frames.shape[2]).astype(np.float32)
    spectrum = np.square(np.abs(np.fft.rfft(quiet))).mean(axis=(0, 1))  # (bins,)
    around = np.lib.stride_tricks.sliding_window_view(np.pad(spectrum, _NEIGHBOURS, "edge"), 2 * _NEIGHBOURS + 1)
    strong = spectrum > spectrum.max() * 10 ** (-_RANGE_DB / 10)
    prominence = spectrum[strong] / np.maximum(np.median(around[strong], axis=1), 1e-20)
    return 10 * float(np.log10(floor / loud)) if prominence.max() < 10 ** (_TONAL_DB / 10) else None


def _longest_run(flags: NDArray[np.bool_]) -> int:
    """Of true values in a row."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _hum(waveform: Waveform, loud: float) -> tuple[float | None, int | None]:
    """Level in dB relative to `loud` and frequency of mains hum; (None, None) where there is none."""
    size = round(_HUM_WINDOW_SECONDS * waveform.sample_rate)
    if waveform.samples.shape[1] < 2 * size:
        return None, None
    window = np.hanning(size)
    windows = np.lib.stride_tricks.sliding_window_view(waveform.samples.mean(axis=0), size)[:: size // 2]
    powers = 2 * np.square(np.abs(np.fft.rfft(windows * window)) / window.sum())  # (windows, bins); of a sine: its own
    low, high = np.quantile(powers, (0.25, 0.75), axis=0)
    for hertz in _MAINS_HERTZ:
        lines = {}
        for harmonic in range(1, _HARMONICS + 1):
            middle = round(harmonic * hertz * _HUM_WINDOW_SECONDS)
            if middle + 12 >= len(low):
                break
            line = middle - 1 + int(low[middle - 1 : middle + 2].argmax())
            beside = np.concatenate([low[middle - 12 : middle - 3], low[middle + 4 : middle + 13]])
            stands_out = low[line] > 10 ** (_LINE_DB / 10) * np.median(beside) and low[line] > 0
            if stands_out and high[line] < 10 ** (_STEADY_DB / 10) * low[line]:
                lines[harmonic] = float(low[line])
        if len(lines) >= _MIN_HARMONICS and len(lines.keys() & {1, 2, 3}) >= 2:
            return 10 * float(np.log10(sum(lines.values()) / loud)), hertz
    return None, None

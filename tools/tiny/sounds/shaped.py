"""Noise with a spectrum, still or changing in time, and filters that change in time. All of shape (N,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sounds.kind import RATE, Rng, Samples

Spectrum = NDArray[np.floating[Any]] | NDArray[np.complexfloating[Any, Any]]
HOP = 512  # samples between the frames of what changes in time: 10.7 ms
_FRAME = 2 * HOP
_ROUND = 4096  # lengths for which the FFT is quick


def coloured(rng: Rng, count: int, gain: Callable[[Samples], Samples]) -> Samples:
    """Noise of RMS 1 whose spectrum follows `gain`, a function of hertz."""
    size = -(-count // _ROUND) * _ROUND
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    spectrum = rng.standard_normal((len(hertz), 2)).view(np.complex128)[:, 0] * gain(hertz)
    spectrum[0] = 0
    samples = np.fft.irfft(spectrum)[:count]
    return np.asarray(samples / np.sqrt(np.mean(np.square(samples)) + 1e-30))


def filtered(samples: Samples, response: Callable[[Samples], Spectrum]) -> Samples:
    """`samples` through a still filter, a function of hertz; what rings beyond the end is cut off."""
    size = -(-(len(samples) + RATE // 8) // _ROUND) * _ROUND
    spectrum = np.fft.rfft(samples, size) * response(np.fft.rfftfreq(size, 1 / RATE))
    return np.fft.irfft(spectrum, size)[: len(samples)]


def frame_times(count: int) -> Samples:
    """(frames, 1) seconds of the frame centres that `evolving` and `resonate` need for `count` samples."""
    return (np.arange(-(-count // HOP) + 1) * (HOP / RATE))[:, None]


def at_frames(curve: Samples, times: Samples) -> Samples:
    """The values of a curve of one number a sample at the seconds `times`."""
    return curve[np.minimum((times * RATE).astype(np.int64), len(curve) - 1)]


def evolving(rng: Rng, count: int, gain: Callable[[Samples, Samples], Samples]) -> Samples:
    """Noise whose spectrum follows `gain` of (seconds (frames, 1), hertz (1, bins)); 1 is noise of RMS 1."""
    times = frame_times(count)
    hertz = np.fft.rfftfreq(_FRAME, 1 / RATE)[None]
    spectra = rng.standard_normal((len(times), hertz.shape[1], 2)).view(np.complex128)[..., 0]
    frames = np.fft.irfft(spectra * gain(times, hertz)) * np.sqrt(_FRAME / 2)
    # Independent frames add in power: windows whose squares add up to one.
    return _overlapped(frames * np.sqrt(np.hanning(_FRAME + 1)[:-1]), count)


def resonate(samples: Samples, response: Spectrum) -> Samples:
    """`samples` through a filter that changes in time: `response` is (frames, _FRAME + 1) over hertz up to Nyquist."""
    padded = np.pad(samples, (HOP, 2 * _FRAME))
    starts = np.arange(len(response))[:, None] * HOP
    frames = padded[starts + np.arange(_FRAME)] * np.hanning(_FRAME + 1)[:-1]
    return _overlapped(np.fft.irfft(np.fft.rfft(frames, 2 * _FRAME) * response), len(samples))


def resonate_hertz() -> Samples:
    """The frequencies at which `resonate` wants its response."""
    return np.fft.rfftfreq(2 * _FRAME, 1 / RATE)


def _overlapped(frames: Samples, count: int) -> Samples:
    """Frames whose first sample lies at -HOP, 0, HOP ... added up and cut to `count` samples."""
    parts = frames.shape[1] // HOP
    out = np.zeros((len(frames) + parts, HOP))
    for part in range(parts):
        out[part : part + len(frames)] += frames[:, part * HOP : (part + 1) * HOP]
    return out.ravel()[HOP : HOP + count]


def tilt(decibels_per_octave: float) -> Callable[[Samples], Samples]:
    """A spectrum that falls or rises evenly; flat below 20 Hz."""
    power = decibels_per_octave / 6.02
    return lambda hertz: np.asarray((np.maximum(hertz, 20.0) / 1000.0) ** power)


def band(hertz: Samples, centre: ArrayLike, octaves: ArrayLike) -> Samples:
    """A bell-shaped gain over log frequency, 1 at `centre`, 0.6 at half of `octaves` away from it."""
    distance = np.log2(np.maximum(hertz, 1.0) / centre) / (np.asarray(octaves) / 2)
    return np.asarray(np.exp(-0.5 * np.square(distance)))


def above(hertz: Samples, edge: ArrayLike, order: int = 2) -> Samples:
    """The gain of a high-pass filter."""
    return np.asarray(1 / np.sqrt(1 + (np.asarray(edge) / np.maximum(hertz, 1.0)) ** (2 * order)))


def below(hertz: Samples, edge: ArrayLike, order: int = 2) -> Samples:
    """The gain of a low-pass filter."""
    return np.asarray(1 / np.sqrt(1 + (hertz / np.asarray(edge)) ** (2 * order)))

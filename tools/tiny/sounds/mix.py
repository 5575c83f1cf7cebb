"""Putting sounds into stereo and into time. Mono is (N,), stereo (2, N)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from sounds.kind import Samples, samples_in

_ROUND = 4096  # lengths for which the FFT is quick


def both(mono: Samples) -> Samples:
    """The same on both sides."""
    return np.stack([mono, mono])


def pan(mono: Samples, position: float) -> Samples:
    """Equal-power panning: -1 is left, 0 the middle, 1 right."""
    angle = (position + 1) * math.pi / 4
    return np.stack([mono * math.cos(angle), mono * math.sin(angle)])


def add_at(track: Samples, sound: Samples, seconds: float) -> None:
    """Add a sound to a track of as many channels, beginning at `seconds`; what does not fit is cut off."""
    start = samples_in(seconds)
    room = max(0, track.shape[-1] - start)
    part = sound[..., :room]
    track[..., start : start + part.shape[-1]] += part


def sequence(sounds: Iterable[Samples], onsets: Iterable[float], seconds: float) -> Samples:
    """Mono sounds, each at its onset, in one mono track."""
    track = np.zeros(samples_in(seconds))
    for sound, onset in zip(sounds, onsets, strict=True):
        add_at(track, sound, onset)
    return track


def scatter(
    grains: Samples, sides: Samples, which: ArrayLike, starts: ArrayLike, gains: ArrayLike, count: int
) -> Samples:
    """(channels, count): thousands of short sounds, each a grain `which[i]` that begins at sample `starts[i]`.

    `grains`: (kinds, length); `sides`: (channels, kinds), how loud each kind of grain is in each channel.
    """
    size = -(-(count + grains.shape[1]) // _ROUND) * _ROUND
    places = np.asarray(which) * size + np.asarray(starts, dtype=np.int64)
    impulses = np.bincount(places, np.asarray(gains), len(grains) * size).reshape(len(grains), size)
    spectra = np.fft.rfft(impulses) * np.fft.rfft(grains, size)
    return np.fft.irfft(np.einsum("ck,kf->cf", sides, spectra), size)[:, :count]


def spread(kinds: int) -> Samples:
    """`sides` for `scatter` that spread the grains from left to right."""
    angles = np.linspace(0.1, 0.9, kinds) * math.pi / 2
    return np.stack([np.cos(angles), np.sin(angles)])


def onsets_every(interval: float, seconds: float, most: int | None = None) -> Samples:
    """Times 0, interval, ... that leave a little room before the end of the clip, at most `most` of them."""
    count = max(1, int((seconds - 0.08) / interval) + 1)
    return np.arange(count if most is None else min(count, most)) * interval

"""Building blocks of pitched sound: phase, harmonic waves, envelopes, wandering curves. All of shape (N,)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sounds.kind import RATE, Rng, Samples, samples_in

HIGHEST_HZ = 20_000.0
_TABLE = 8192
_MOST_HARMONICS = 512  # 16 table points for a period of the highest one, enough for straight interpolation


def cycles(hertz: ArrayLike, count: int) -> Samples:
    """Phase in periods of an oscillator whose frequency is `hertz`, a number or one for each sample."""
    return np.cumsum(np.broadcast_to(np.asarray(hertz, dtype=np.float64), count)) / RATE


def sine(hertz: ArrayLike, count: int) -> Samples:
    return np.asarray(np.sin(2 * np.pi * cycles(hertz, count)))


def harmonic_numbers(highest_pitch_hz: float) -> Samples:
    """1, 2, 3 ... as far as harmonics of this pitch can be heard."""
    return np.arange(1.0, max(1, min(_MOST_HARMONICS, int(HIGHEST_HZ / highest_pitch_hz))) + 1)


def wave(phase: Samples, amplitudes: Samples) -> Samples:
    """A sum of harmonics, the amplitude of the first one first, read from a table of one period."""
    spectrum = np.zeros(_TABLE // 2 + 1, dtype=np.complex128)
    spectrum[1 : len(amplitudes) + 1] = -0.5j * _TABLE * amplitudes
    table = np.fft.irfft(spectrum)
    table = np.append(table, table[0])
    position = (phase - np.floor(phase)) * _TABLE
    index = position.astype(np.int64)
    return table[index] + (position - index) * (table[index + 1] - table[index])


def swell(count: int, attack: float, release: float) -> Samples:
    """An envelope that rises over `attack` seconds, stays at 1 and falls to 0 over the last `release` seconds."""
    to_end = (count - np.arange(count)) / RATE
    from_start = np.arange(1, count + 1) / RATE
    rise = np.minimum(1.0, from_start / max(attack, 1e-4))
    return np.sin(np.pi / 2 * np.minimum(rise, np.minimum(1.0, to_end / max(release, 1e-4)))) ** 2


def decay(count: int, seconds: float) -> Samples:
    """An envelope that falls by the factor e in each `seconds`."""
    return np.asarray(np.exp(np.arange(count) * (-1 / (seconds * RATE))))


def wander(rng: Rng, count: int, per_second: float, low: float, high: float) -> Samples:
    """A curve through random values between `low` and `high`, `per_second` of them, smoothly joined."""
    points = rng.uniform(low, high, int(count / RATE * per_second) + 3)
    position = np.arange(count) * (per_second / RATE) + rng.random()
    index = position.astype(np.int64)
    share = position - index
    return np.asarray(points[index] + share * share * (3 - 2 * share) * (points[index + 1] - points[index]))


def glide(values: ArrayLike, at_seconds: ArrayLike, count: int) -> Samples:
    """A curve that is `values` at `at_seconds` and runs straight between them."""
    return np.asarray(np.interp(np.arange(count) / RATE, np.asarray(at_seconds), np.asarray(values)))


def vibrato(rng: Rng, count: int, cents: float) -> Samples:
    """Factor on a frequency: a wobble of 5 to 6.5 Hz that sets in after a moment."""
    depth = np.minimum(1.0, np.arange(count) / samples_in(0.4)) * cents / 1200
    return np.exp2(depth * sine(rng.uniform(5.0, 6.5), count))

"""Rooms: early reflections and a tail of decaying noise, different on the two sides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sounds.kind import RATE, Rng, Samples, samples_in, time_of
from sounds.shaped import below, coloured

_ROUND = 4096  # lengths for which the FFT is quick


@dataclass(frozen=True)
class Room:
    """`where` is how a caption names it; decay is the time in seconds in which sound falls by 60 dB."""

    where: str
    decay: tuple[float, float]
    first_reflection: tuple[float, float]  # seconds
    level: tuple[float, float]  # of all that is reflected, against the direct sound
    brightness_hz: float  # the tail loses what is above, first and most


ROOMS = (
    Room("in a small room", (0.2, 0.45), (0.001, 0.004), (0.25, 0.6), 5000),
    Room("in a tiled bathroom", (0.6, 1.1), (0.002, 0.005), (0.5, 1.0), 9000),
    Room("in a large hall", (1.4, 2.6), (0.012, 0.03), (0.4, 0.9), 4500),
    Room("in a church", (2.8, 4.5), (0.02, 0.05), (0.6, 1.2), 3500),
    Room("in a tunnel", (1.2, 2.2), (0.006, 0.012), (0.7, 1.4), 2500),
    Room("in a wooden studio", (0.25, 0.5), (0.003, 0.008), (0.2, 0.4), 6500),
)


def response(rng: Rng, room: Room) -> Samples:
    """(2, N) impulse response, the direct sound at sample 0 with amplitude 1."""
    seconds, first = rng.uniform(*room.decay), rng.uniform(*room.first_reflection)
    count = samples_in(seconds)
    fall = np.exp(-6.9 / seconds * time_of(count))
    fast = np.exp(-2.5 * 6.9 / seconds * time_of(count))
    sides = []
    for _ in range(2):
        low = coloured(rng, count, lambda hertz: below(hertz, room.brightness_hz / 3, 1))
        high = coloured(rng, count, lambda hertz: below(hertz, 2 * room.brightness_hz, 1))
        tail = (low * fall + high * fast) * (time_of(count) > 2 * first)
        times = first * np.cumprod(rng.uniform(1.15, 1.6, 7))
        times = times[times < seconds]
        tail *= 1 / np.sqrt(np.sum(np.square(tail)))
        tail[(times * RATE).astype(int)] += rng.choice((-1, 1), len(times)) * 0.35 * (first / times) ** 0.5
        sides.append(tail * rng.uniform(*room.level))
    wet = np.stack(sides)
    wet[:, 0] = 1.0
    return wet


def reverberate(samples: Samples, wet: Samples) -> Samples:
    """(2, N) samples in a room of `response` (2, M); the tail beyond N is cut off."""
    size = -(-(samples.shape[1] + wet.shape[1]) // _ROUND) * _ROUND
    return np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(wet, size), size)[:, : samples.shape[1]]

"""Instruments that hold a tone. In: a timbre, a pitch, seconds. Out: a mono note of about full scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sounds.kind import Rng, Samples, samples_in
from sounds.shaped import band, coloured
from sounds.waves import cycles, harmonic_numbers, swell, vibrato, wave


@dataclass(frozen=True)
class Timbre:
    """`strengths` gives the amplitudes of harmonics from their numbers and their hertz."""

    name: str
    strengths: Callable[[Samples, Samples], Samples]
    attack: float = 0.01  # seconds
    release: float = 0.05
    breath: float = 0.0  # share of blown air
    vibrato_cents: float = 0.0
    detune_cents: float = 0.0  # a second voice beside the first


def _odd(number: Samples) -> Samples:
    return number % 2


def _drawbars(number: Samples, _hertz: Samples) -> Samples:
    return np.isin(number, (1, 2, 3, 4, 6, 8)) / np.sqrt(number)


def _bowed(number: Samples, hertz: Samples) -> Samples:
    return (0.4 + band(hertz, 480, 1.2) + 0.9 * band(hertz, 2600, 1.6)) / number


def _brass(number: Samples, hertz: Samples) -> Samples:
    return (0.5 + 2.0 * band(hertz, 1300, 2.4)) / number**1.1


def _reed(number: Samples, hertz: Samples) -> Samples:
    return (_odd(number) + 0.12) * (1 + band(hertz, 1800, 1.5)) / number


TIMBRES = (
    Timbre("sine tone", lambda number, _: (number == 1) * 1.0),
    Timbre("triangle wave", lambda number, _: _odd(number) * np.sin(number * np.pi / 2) / number**2),
    Timbre("square wave", lambda number, _: _odd(number) / number, attack=0.003),
    Timbre("sawtooth wave", lambda number, _: 1 / number, attack=0.003),
    Timbre("organ", _drawbars, attack=0.02, release=0.12, detune_cents=3),
    Timbre("flute", lambda number, _: 0.32 ** (number - 1), 0.06, 0.12, breath=0.06, vibrato_cents=18),
    Timbre("clarinet", _reed, 0.03, 0.08, breath=0.01),
    Timbre("trumpet", _brass, 0.04, 0.08, vibrato_cents=8),
    Timbre("violin", _bowed, 0.08, 0.15, breath=0.015, vibrato_cents=25),
    Timbre("accordion", lambda number, _: number**-0.8, 0.04, 0.06, detune_cents=14),
    Timbre("synth pad", lambda number, _: number**-1.6, 0.35, 0.5, detune_cents=10),
)


def play(rng: Rng, timbre: Timbre, hertz: float, seconds: float) -> Samples:
    """One note, (N,)."""
    count = samples_in(seconds)
    number = harmonic_numbers(hertz)
    amplitudes = timbre.strengths(number, number * hertz)
    bend = vibrato(rng, count, timbre.vibrato_cents) if timbre.vibrato_cents else 1.0
    note = wave(cycles(hertz * bend, count) + rng.random(), amplitudes)
    if timbre.detune_cents:
        note += 0.8 * wave(cycles(hertz * 2 ** (timbre.detune_cents / 1200), count) + rng.random(), amplitudes)
    note /= np.abs(note).max() + 1e-12
    if timbre.breath:
        note += timbre.breath * coloured(rng, count, lambda at: band(at, 2 * hertz, 3) + 0.2 * band(at, 6000, 2))
    return note * swell(count, min(timbre.attack, seconds / 3), min(timbre.release, seconds / 3))

"""Held-out kinds of sound, never in the training of the base, for LoRAs to teach."""

from __future__ import annotations

import numpy as np

from sounds.kind import RATE, Facts, Kind, Rng, Samples, log_uniform, pick, samples_in, time_of
from sounds.mix import add_at, both, onsets_every, sequence
from sounds.modes import ring
from sounds.shaped import above, band, coloured, filtered
from sounds.waves import cycles, decay, glide, harmonic_numbers, sine, swell, wander, wave
from sounds.words import many, midi_hz, note_name, register, speed, times


def laser(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Frequency modulation with a falling carrier, gated into shots."""
    length = rng.uniform(0.12, 0.35)
    onsets = onsets_every(length + rng.uniform(0.05, 0.5), seconds, most=int(rng.integers(1, 9)))
    count = samples_in(length)
    fall = log_uniform(rng, 2500, 7000) * decay(count, length / rng.uniform(2.5, 4.0)) + 120
    ratio, depth = pick(rng, (0.5, 1.41, 2.0, 3.3)), rng.uniform(1.5, 6.0)
    modulator = depth * decay(count, length / 2) * sine(fall * ratio, count)
    shot = np.sin(2 * np.pi * cycles(fall, count) + modulator) * swell(count, 0.001, 0.03)
    facts: Facts = {"onsets": onsets.tolist(), "count": len(onsets), "shots": many(len(onsets), "laser shot")}
    return both(sequence([shot] * len(onsets), onsets, seconds)), facts | {"times": times(len(onsets))}


def creak(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Stick and slip: a door's panel is plucked by its hinge again and again, at a rate that follows its speed."""
    count = samples_in(seconds)
    length = min(seconds, rng.uniform(0.8, 3.0))
    low, high = log_uniform(rng, 18, 45), log_uniform(rng, 60, 190)
    rate = low + (high - low) * wander(rng, count, 2.5, 0.0, 1.0) * np.sin(np.pi * time_of(count) / seconds)
    slips = np.flatnonzero(np.diff(np.floor(cycles(rate, count))) > 0)
    slips = slips[slips < length * RATE]
    end = samples_in(length)
    slips = np.clip(slips + rng.normal(0, 0.06 * RATE / rate[slips]).astype(int), 0, end)
    force = rng.uniform(0.4, 1.0, len(slips)) * np.abs(np.sin(np.pi * slips / end)) ** 0.5
    pushes = np.bincount(slips, force, count)[:count]
    modes = log_uniform(rng, 350, 700) * np.array([1.0, 1.83, 2.9, 4.4, 6.7, 9.8])
    response = ring(modes, [0.012, 0.01, 0.008, 0.006, 0.004, 0.003], [1, 0.9, 0.8, 0.6, 0.4, 0.3], samples_in(0.1))
    size = count + len(response)
    squeal = np.fft.irfft(np.fft.rfft(pushes, size) * np.fft.rfft(response, size), size)[:count]
    return both(squeal), {"what": pick(rng, ("door", "floorboard", "gate")), "onsets": [0.0]}


def theremin(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """One voice that slides between notes and never lets go, with a wide vibrato."""
    count = samples_in(seconds)
    notes = max(2, int(seconds / rng.uniform(0.5, 1.0)))
    midi = 67 + np.cumsum(rng.integers(-7, 8, notes))
    midi = 55 + np.abs((midi - 55) % 56 - 28)
    corners = np.linspace(0, seconds, notes + 1)
    slide = rng.uniform(0.15, 0.4) * (corners[1] - corners[0])
    at = np.stack([corners[:-1] + slide, corners[1:]], axis=1).ravel()
    curve = glide(np.repeat(midi, 2), at, count) + 0.5 * sine(rng.uniform(5.5, 7), count)
    hertz = midi_hz(0) * np.exp2(curve / 12)
    samples = wave(cycles(hertz, count), np.array([1.0, 0.25, 0.12, 0.04])) * wander(rng, count, 3, 0.6, 1.0)
    facts: Facts = {
        "from_hz": float(hertz[0]),
        "to_hz": float(hertz[-1]),
        "register": register(float(np.median(hertz))),
    }
    return both(samples * swell(count, 0.1, 0.15)), facts


def crickets(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Each chirp is a few pulses of a wing near 4.5 kHz; a meadow has several singers."""
    singers = int(rng.integers(1, 6))
    track = np.zeros((2, samples_in(seconds)))
    for _ in range(singers):
        pulse_count = samples_in(rng.uniform(0.012, 0.018))
        carrier = rng.uniform(3800, 5200)
        pulse = wave(cycles(carrier, pulse_count), np.array([1.0, 0.08, 0.03])) * np.hanning(pulse_count)
        chirp = np.zeros(samples_in(0.15))
        for beat in range(int(rng.integers(3, 5))):
            add_at(chirp, pulse, beat * 1.5 * pulse_count / RATE)
        onsets = onsets_every(rng.uniform(0.28, 0.6), seconds) + rng.uniform(0, 0.2)
        side = rng.uniform(-0.9, 0.9)
        gains = np.array([[1 - side], [1 + side]]) * rng.uniform(0.3, 1.0) / 2
        track += gains * sequence([chirp] * len(onsets), onsets, seconds)
    return track, {
        "crickets": many(singers, "cricket"),
        "who": "a lone cricket" if singers == 1 else "a field of crickets",
    }


def chiptune(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """A pulse wave runs through a chord, held at few levels and a low rate like an old console's sound chip."""
    tempo, count = int(rng.integers(9, 16)) * 10, samples_in(seconds)
    root = midi_hz(int(rng.integers(55, 72)))
    quality, steps = pick(rng, (("major", (0, 4, 7, 12)), ("minor", (0, 3, 7, 12))))
    onsets = onsets_every(60 / tempo / 4, seconds)
    duty = pick(rng, (0.125, 0.25, 0.5))
    which = np.minimum((time_of(count) * tempo / 15).astype(int), len(onsets) - 1)
    hertz = root * np.exp2(np.resize(steps, len(onsets))[which] / 12)
    number = harmonic_numbers(2 * root)
    samples = wave(cycles(hertz, count), np.sin(np.pi * number * duty) / number)
    samples *= np.exp(-(time_of(count) * tempo / 15 % 1) * 1.5)
    held = pick(rng, (4, 6, 8))  # samples for which one value stays
    coarse = np.repeat(samples[::held], held)[:count]
    levels = 2.0 ** pick(rng, (2, 3))
    samples = np.round(coarse / np.abs(coarse).max() * levels) / levels
    facts: Facts = {"tempo_bpm": tempo, "speed": speed(tempo), "onsets": onsets.tolist(), "quality": quality}
    return both(samples), facts | {"pitch_hz": root, "note": note_name(root)}


def purr(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """A cat breathes in and out; each breath is chopped about 25 times a second."""
    count, rate = samples_in(seconds), rng.uniform(22, 30)
    breath = 0.5 + 0.5 * np.cos(2 * np.pi * (time_of(count) / rng.uniform(1.6, 2.6) + rng.random()))
    phase = cycles(rate * (1 + 0.08 * (breath - 0.5)), count)
    pulses = np.exp(-12 * (phase % 1))
    air = coloured(
        rng, count, lambda hertz: band(hertz, 240, 2.0) + 0.15 * band(hertz, 1800, 2.0) + 0.01 * above(hertz, 6000)
    )
    throat = filtered(pulses - pulses.mean(), lambda hertz: band(hertz, 110, 1.5))
    samples = (0.5 * air * pulses + throat) * (0.25 + 0.75 * breath)
    return both(samples), {"cat": pick(rng, ("a cat", "a kitten", "a large cat"))}


KINDS = (
    Kind(
        "laser",
        laser,
        ("a laser gun fires {times}", "{shots}", "a science fiction laser, {shots}", "a laser zaps {times}"),
    ),
    Kind(
        "creak", creak, ("a {what} creaks", "a creaking {what}", "an old {what} creaks slowly", "the creak of a {what}")
    ),
    Kind(
        "theremin",
        theremin,
        ("a theremin glides", "an eerie {register} theremin melody", "a theremin slides between notes with vibrato"),
    ),
    Kind(
        "crickets",
        crickets,
        ("{crickets} chirping at night", "{who} in a meadow", "chirping of {who}", "{who} at night"),
        sustained=True,
    ),
    Kind(
        "chiptune",
        chiptune,
        (
            "a chiptune {quality} arpeggio at {tempo_bpm} bpm",
            "an 8-bit chiptune arpeggio, {note} {quality}",
            "{speed} chiptune, video game music",
        ),
    ),
    Kind("purr", purr, ("{cat} purrs", "purring of {cat}", "{cat} purrs contentedly"), sustained=True),
)

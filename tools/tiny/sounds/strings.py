"""Plucked and hammered strings. A string is a row of nearly harmonic modes whose strengths follow from where it is
plucked and which die away the faster the higher they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sounds.kind import Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.mix import add_at, both, onsets_every, pan
from sounds.modes import ring
from sounds.shaped import above, band, coloured
from sounds.waves import decay, harmonic_numbers
from sounds.words import many, pitched, speed

_STRUM = (0, 7, 12, 16, 19, 24)
_MOST_MODES = 120


@dataclass(frozen=True)
class String:
    """`decay_seconds` is the time constant at 200 Hz, `softness` the octave-wise loss of the excitation."""

    name: str
    lowest_midi: int
    highest_midi: int
    decay_seconds: float
    softness: float
    stiffness: float = 1e-5
    noise: float = 0.05  # of finger, plectrum or hammer
    doubled_cents: float = 0.0  # a second string beside the first


INSTRUMENTS = (
    String("acoustic guitar", 40, 76, 1.0, 1.1, noise=0.08),
    String("electric bass", 28, 52, 1.3, 1.6, noise=0.05),
    String("harp", 36, 88, 1.6, 1.5),
    String("banjo", 48, 79, 0.25, 0.7, noise=0.12),
    String("harpsichord", 41, 84, 0.9, 0.45, noise=0.1, doubled_cents=2),
    String("sitar", 45, 72, 1.8, 0.3, stiffness=5e-5, doubled_cents=6),
    String("ukulele", 60, 81, 0.4, 1.3, noise=0.08),
)
PIANO = String("piano", 28, 96, 1.5, 1.35, stiffness=3e-4, noise=0.04, doubled_cents=1.5)


def stroke(rng: Rng, string: String, hertz: float, seconds: float) -> Samples:
    """One note, mono, as long as it is heard but not longer than `seconds`."""
    count = samples_in(seconds)
    number = harmonic_numbers(hertz)[:_MOST_MODES]
    modes_hz = number * hertz * np.sqrt(1 + string.stiffness * number**2)
    strengths = np.sin(np.pi * number * rng.uniform(0.09, 0.35)) / number**string.softness
    decays = string.decay_seconds / ((hertz / 200) ** 0.5 * (1 + (modes_hz / 2500) ** 1.3))
    note = ring(modes_hz, decays, strengths, count)
    if string.doubled_cents:
        twin = ring(modes_hz * 2 ** (string.doubled_cents / 1200), decays * 1.4, 0.7 * strengths, count)
        longer, shorter = (twin, note) if len(twin) > len(note) else (note, twin)
        add_at(longer, shorter, 0.0)
        note = longer
    note /= np.abs(note).max() + 1e-12
    touch = coloured(rng, min(count, samples_in(0.04)), lambda at: band(at, 2500, 4) + 0.5 * above(at, 5000))
    add_at(note, string.noise * touch * decay(len(touch), 0.006), 0.0)
    return note


def pluck(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    string = pick(rng, INSTRUMENTS)
    facts = pitched(rng, string.lowest_midi, string.highest_midi) | {"instrument": string.name}
    track = np.zeros((2, samples_in(seconds)))
    onsets = onsets_every(log_uniform(rng, 0.3, 1.6), seconds, most=int(rng.integers(1, 7)))
    place = rng.uniform(-0.2, 0.2)
    for onset in onsets:
        note = stroke(rng, string, facts["pitch_hz"], seconds - onset) * rng.uniform(0.6, 1.0)
        add_at(track, pan(note, place), onset)
    facts |= {"onsets": onsets.tolist(), "count": len(onsets), "plucks": many(len(onsets), "pluck")}
    return track, facts


def strum(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    string = pick(rng, (INSTRUMENTS[0], INSTRUMENTS[6], INSTRUMENTS[3]))
    facts = pitched(rng, 43, 55) | {"instrument": string.name}
    minor = bool(rng.integers(2))
    tempo = int(rng.integers(5, 15)) * 10
    onsets = onsets_every(60 / tempo, seconds)
    track = np.zeros((2, samples_in(seconds)))
    for beat, onset in enumerate(onsets):
        steps = [step - (minor and step == 16) for step in _STRUM][:: -1 if beat % 2 else 1]
        for voice, step in enumerate(steps):
            begin = onset + voice * rng.uniform(0.008, 0.016)
            length = min(60 / tempo, seconds - begin)
            if length > 0:
                note = stroke(rng, string, facts["pitch_hz"] * 2 ** (step / 12), length)
                add_at(track, pan(note * rng.uniform(0.6, 1.0), 0.1 * voice - 0.25), begin)
    facts |= {"tempo_bpm": tempo, "speed": speed(tempo), "onsets": onsets.tolist()}
    return track, facts | {"quality": "minor" if minor else "major"}


def piano(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    facts = pitched(rng, PIANO.lowest_midi, PIANO.highest_midi)
    steps = pick(rng, ((0,), (0,), (0, 4, 7), (0, 3, 7), (0, 12)))
    onsets = onsets_every(log_uniform(rng, 0.35, 2.0), seconds, most=int(rng.integers(1, 6)))
    track = np.zeros((2, samples_in(seconds)))
    for onset in onsets:
        for step in steps:
            note = stroke(rng, PIANO, facts["pitch_hz"] * 2 ** (step / 12), seconds - onset)
            add_at(track, pan(note * rng.uniform(0.6, 1.0), (facts["pitch_hz"] > 300) * 0.3 - 0.15), onset)
    what = {(0,): "note", (0, 4, 7): "major chord", (0, 3, 7): "minor chord", (0, 12): "octave"}[steps]
    facts |= {"onsets": onsets.tolist(), "count": len(onsets), "what": what, "strokes": many(len(onsets), what)}
    return both(track.mean(axis=0)) * 0.5 + track, facts


KINDS = (
    Kind(
        "pluck",
        pluck,
        (
            "a plucked {instrument} string, {note}",
            "a {register} {instrument} note is plucked",
            "{plucks} of a {instrument} string",
            "{plucks} on a {register} {instrument}, {note}",
            "a {instrument} string plucked at {pitch_hz:.0f} hertz",
        ),
    ),
    Kind(
        "strum",
        strum,
        (
            "a {instrument} strums a {quality} chord at {tempo_bpm} bpm",
            "{speed} {instrument} strumming, {quality}",
            "someone strums a {note} {quality} chord on a {instrument}",
        ),
    ),
    Kind(
        "piano",
        piano,
        (
            "a piano plays {note}",
            "a {register} piano {what}",
            "{strokes} on a piano, {register} {note}",
            "a piano {what} on {note}, ringing out",
        ),
    ),
)

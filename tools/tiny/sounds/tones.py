"""Pitched sounds that are held or glide: tones, chords, melodies, beeps, sweeps, sirens, whistles, birds."""

from __future__ import annotations

import numpy as np

from sounds.kind import RATE, Facts, Kind, Rng, Samples, log_uniform, pick, samples_in, time_of
from sounds.mix import add_at, both, onsets_every, pan, sequence
from sounds.shaped import at_frames, band, evolving
from sounds.timbres import TIMBRES, play
from sounds.waves import cycles, glide, harmonic_numbers, sine, swell, wander, wave
from sounds.words import many, midi_hz, pitched, register, speed, times

_CHORDS = {
    "major": (0, 4, 7),
    "minor": (0, 3, 7),
    "diminished": (0, 3, 6),
    "augmented": (0, 4, 8),
    "dominant seventh": (0, 4, 7, 10),
    "major seventh": (0, 4, 7, 11),
    "suspended": (0, 5, 7),
    "power": (0, 7, 12),
}
_SCALES = {
    "a rising major scale": (0, 2, 4, 5, 7, 9, 11, 12),
    "a falling major scale": (12, 11, 9, 7, 5, 4, 2, 0),
    "a rising minor scale": (0, 2, 3, 5, 7, 8, 10, 12),
    "a falling minor scale": (12, 10, 8, 7, 5, 3, 2, 0),
    "a rising chromatic scale": tuple(range(13)),
    "a major arpeggio": (0, 4, 7, 12, 7, 4),
    "a minor arpeggio": (0, 3, 7, 12, 7, 3),
    "a trill": (0, 2),
}


def tone(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    timbre = pick(rng, TIMBRES)
    facts = pitched(rng, 33, 91) | {"timbre": timbre.name}
    held = seconds * pick(rng, (1.0, 1.0, rng.uniform(0.3, 0.9)))
    note = np.zeros(samples_in(seconds))
    add_at(note, play(rng, timbre, facts["pitch_hz"], held), 0.0)
    return both(note), facts


def chord(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    timbre, quality = pick(rng, TIMBRES), pick(rng, tuple(_CHORDS))
    facts = pitched(rng, 43, 67) | {"timbre": timbre.name, "quality": quality}
    track = np.zeros((2, samples_in(seconds)))
    roll = pick(rng, (0.0, 0.0, 0.08))
    for voice, step in enumerate(_CHORDS[quality]):
        begin = voice * roll
        note = play(rng, timbre, facts["pitch_hz"] * midi_hz(69 + step) / 440, seconds - begin)
        add_at(track, pan(note, rng.uniform(-0.3, 0.3)), begin)
    facts["how"] = "rolled" if roll else ""
    return track, facts


def melody(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    timbre, scale = pick(rng, TIMBRES[:-1]), pick(rng, tuple(_SCALES))
    facts = pitched(rng, 45, 76)
    beats_per_minute = int(rng.integers(6, 18)) * 10
    interval = 60 / beats_per_minute / (4 if scale == "a trill" else 2)
    onsets = onsets_every(interval, seconds)
    steps = np.resize(_SCALES[scale], len(onsets))
    hertz = [facts["pitch_hz"] * 2 ** (int(step) / 12) for step in steps]
    length = interval * rng.uniform(0.6, 1.0)
    track = sequence((play(rng, timbre, pitch, length) for pitch in hertz), onsets, seconds)
    tempo = {"tempo_bpm": beats_per_minute, "speed": speed(beats_per_minute), "onsets": onsets.tolist()}
    return both(track), facts | tempo | {"timbre": timbre.name, "scale": scale, "note_hz": hertz}


def beep(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    facts = pitched(rng, 69, 100)
    interval = log_uniform(rng, 0.15, 1.0)
    onsets = onsets_every(interval, seconds, most=int(rng.integers(1, 13)))
    count = samples_in(min(interval * rng.uniform(0.3, 0.7), 0.4))
    amplitudes = 1 / harmonic_numbers(facts["pitch_hz"]) ** rng.uniform(1.0, 4.0)
    one = wave(cycles(facts["pitch_hz"], count), amplitudes) * swell(count, 0.003, 0.005)
    facts |= {"onsets": onsets.tolist(), "count": len(onsets), "beeps": many(len(onsets), "beep")}
    facts["times"] = times(len(onsets))
    return both(sequence([one] * len(onsets), onsets, seconds)), facts


def sweep(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    low, high = log_uniform(rng, 60, 400), log_uniform(rng, 1500, 15_000)
    rising = bool(rng.integers(2))
    begin, end = (low, high) if rising else (high, low)
    count = samples_in(seconds)
    share: Samples = np.linspace(0.0, 1.0, count)
    hertz = begin * (end / begin) ** share if rng.integers(2) else begin + (end - begin) * share
    timbre = pick(rng, ("sine", "sawtooth", "noise"))
    if timbre == "noise":
        samples = evolving(rng, count, lambda at, bins: band(bins, at_frames(hertz, at), 0.5)) * hertz**-0.5
    else:
        amplitudes = 1 / harmonic_numbers(high) ** (1.0 if timbre == "sawtooth" else 20.0)
        samples = wave(cycles(hertz, count), amplitudes)
    words = {"direction": "rising" if rising else "falling", "up": "up" if rising else "down", "timbre": timbre}
    words |= {"begin": register(begin) or "middle", "end": register(end) or "middle"}
    return both(samples * swell(count, 0.01, 0.05)), {"from_hz": begin, "to_hz": end} | words


def siren(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count, style = samples_in(seconds), pick(rng, ("wailing", "yelping", "two-tone"))
    period = rng.uniform(*{"wailing": (2.5, 5.0), "yelping": (0.25, 0.45), "two-tone": (0.9, 1.3)}[style])
    turn = time_of(count) / period + rng.random()
    if style == "two-tone":
        hertz = np.where(turn % 1 < 0.5, 1.0, 1.33) * rng.uniform(400, 700)
    else:
        hertz = rng.uniform(450, 650) * 2 ** (rng.uniform(0.8, 1.4) * (0.5 - 0.5 * np.cos(2 * np.pi * turn)))
    amplitudes = harmonic_numbers(float(hertz.max())) ** -rng.uniform(0.8, 1.6)
    return both(wave(cycles(hertz, count), amplitudes)), {"style": style}


def whistle(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    contour = pick(rng, ("rising", "falling", "wavering", "steady"))
    hertz = np.full(count, log_uniform(rng, 700, 2200))
    if contour == "wavering":
        hertz *= np.exp2(wander(rng, count, 2.5, -0.4, 0.4))
    elif contour != "steady":
        span = rng.uniform(0.5, 1.0) * (1 if contour == "rising" else -1)
        hertz *= np.exp2(span * glide((-0.5, -0.3, 0.5, 0.5), (0, 0.2 * seconds, 0.8 * seconds, seconds), count))
    hertz *= np.exp2(wander(rng, count, 12, -0.01, 0.01))
    tone_part = wave(cycles(hertz, count), np.array([1.0, 0.03, 0.02]))
    breath = evolving(rng, count, lambda at, bins: band(bins, at_frames(hertz, at), 0.6) + 0.1 * band(bins, 7000, 2))
    samples = (tone_part + rng.uniform(0.05, 0.25) * breath) * wander(rng, count, 4, 0.7, 1.0)
    facts: Facts = {"contour": contour, "from_hz": float(hertz[0]), "to_hz": float(hertz[-1])}
    if contour == "steady":
        facts |= {"pitch_hz": float(np.median(hertz))}
    return both(samples * swell(count, 0.05, 0.1)), facts | {"register": register(float(np.median(hertz)))}


def bird(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """One bird that repeats its call: a few fast glides."""
    base, calls = log_uniform(rng, 2200, 5500), []
    for _ in range(int(rng.integers(1, 5))):
        count = samples_in(rng.uniform(0.04, 0.16))
        curve = np.exp2(glide(rng.uniform(-0.5, 0.5, 4), np.linspace(0, count / RATE, 4), count))
        warble = 1 + pick(rng, (0.0, 0.06)) * sine(rng.uniform(25, 60), count)
        calls.append(wave(cycles(base * curve * warble, count), np.array([1.0, 0.12])) * swell(count, 0.01, 0.02))
    gap = rng.uniform(0.03, 0.09)
    lengths = np.array([len(call) / RATE + gap for call in calls])
    call = sequence(calls, np.cumsum(lengths) - lengths, float(lengths.sum()))
    onsets = onsets_every(float(lengths.sum()) + rng.uniform(0.15, 0.9), seconds, most=int(rng.integers(1, 9)))
    onsets += rng.uniform(0, 0.05, len(onsets))
    facts = {"onsets": onsets.tolist(), "count": len(onsets), "times": times(len(onsets))}
    track = sequence([call * rng.uniform(0.7, 1) for _ in onsets], onsets, seconds)
    return both(track), facts | {"register": register(base)}


KINDS = (
    Kind(
        "tone",
        tone,
        (
            "a {register} {timbre} playing {note}",
            "a {timbre}, the note {note}",
            "a steady {register} tone from a {timbre}",
            "a single {register} note on a {timbre}",
            "a held tone, {timbre}, {pitch_hz:.0f} hertz",
            "a {timbre} holds {note}",
        ),
    ),
    Kind(
        "chord",
        chord,
        (
            "a {note} {quality} chord on a {timbre}",
            "a {quality} chord, {timbre}",
            "a {timbre} plays a {how} {quality} chord on {note}",
            "a {register} {how} {quality} chord held by a {timbre}",
        ),
    ),
    Kind(
        "melody",
        melody,
        (
            "a {timbre} melody: {scale} at {tempo_bpm} bpm",
            "{scale} on a {timbre}, starting at {note}, a {speed} melody",
            "a {speed} melody, {scale}, played by a {register} {timbre}",
            "a melody on a {timbre}, {tempo_bpm} beats per minute",
        ),
    ),
    Kind(
        "beep",
        beep,
        (
            "{beeps}, {register} pitch",
            "an alarm gives {beeps}",
            "a {register} electronic beep {times}",
            "{beeps} at {pitch_hz:.0f} hertz",
        ),
    ),
    Kind(
        "sweep",
        sweep,
        (
            "a {timbre} sweep {direction} from {begin} to {end}",
            "a {direction} {timbre} sweep",
            "a frequency sweep going {up}, {timbre}",
            "a {timbre} sweep from {from_hz:.0f} to {to_hz:.0f} hertz",
        ),
    ),
    Kind(
        "siren",
        siren,
        ("a {style} siren", "a siren, {style}", "an emergency vehicle with a {style} siren", "a {style} alarm siren"),
        sustained=True,
    ),
    Kind(
        "whistle",
        whistle,
        (
            "someone whistles a {register} {contour} note",
            "a {contour} whistle",
            "a {register} {contour} human whistle",
            "a person gives a {contour} whistle",
        ),
    ),
    Kind(
        "bird",
        bird,
        (
            "a bird chirps {times}",
            "a {register} bird call, {times}",
            "a small bird sings {times}",
            "chirping of a {register} bird",
        ),
    ),
)

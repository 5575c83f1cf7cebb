"""Drums: single hits, and patterns of a bar at a named tempo."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sounds.kind import RATE, Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.mix import add_at, onsets_every, pan
from sounds.modes import ring
from sounds.shaped import above, band, coloured
from sounds.waves import decay, sine
from sounds.words import many, speed, times

_NAMES = {
    "k": "kick drum",
    "s": "snare drum",
    "h": "closed hi-hat",
    "o": "open hi-hat",
    "t": "tom",
    "c": "crash cymbal",
    "p": "hand clap",
    "r": "rimshot",
    "b": "cowbell",
    "m": "shaker",
}
_PLACE = {"k": 0.0, "s": 0.05, "h": 0.3, "o": 0.3, "t": -0.25, "c": -0.4, "p": 0.0, "r": 0.1, "b": 0.35, "m": -0.35}
_PATTERNS = {  # sixteenth notes of one bar (a waltz has twelve), a drum each line
    "rock": ("k:x-------x-x-----", "s:----x-------x---", "h:x-x-x-x-x-x-x-x-"),
    "four on the floor": ("k:x---x---x---x---", "p:----x-------x---", "o:--x---x---x---x-"),
    "breakbeat": ("k:x-x-------xx----", "s:----x--x-x--x--x", "h:x-x-x-x-x-x-x-x-"),
    "hip hop": ("k:x-----x---x-----", "s:----x-------x---", "h:x-xxx-x-x-x-xxx-"),
    "waltz": ("k:x-----------", "s:----x---x---", "h:x---x---x---"),
    "bossa nova": ("k:x--xx--xx--xx--x", "r:x--x--x---x--x--", "m:xxxxxxxxxxxxxxxx"),
    "tom": ("k:x-------x-------", "t:--x-x-xx--x-x-xx"),
    "techno": ("k:x---x---x---x---", "h:--x---x---x---x-", "p:----x-------x---", "b:---x--x----x--x-"),
}


def _noise(rng: Rng, seconds: float, tau: float, gain: Callable[[Samples], Samples]) -> Samples:
    count = samples_in(seconds)
    return coloured(rng, count, gain) * decay(count, tau)


def _kick(rng: Rng) -> Samples:
    count = samples_in(0.5)
    low = rng.uniform(42, 62)
    drop = low * (1 + rng.uniform(1.5, 4.0) * decay(count, rng.uniform(0.015, 0.04)))
    body = sine(drop, count) * decay(count, rng.uniform(0.06, 0.16))
    add_at(body, 0.3 * _noise(rng, 0.02, 0.003, lambda at: band(at, 3000, 3)), 0.0)
    return body


def _snare(rng: Rng) -> Samples:
    pitch = rng.uniform(160, 230)
    wires = 0.35 * _noise(rng, 0.4, rng.uniform(0.05, 0.1), lambda at: above(at, 1500) + 0.4 * band(at, 800, 2))
    add_at(wires, ring(pitch * np.array([1, 1.6, 2.3]), [0.06, 0.04, 0.03], [0.6, 0.4, 0.2], len(wires)), 0.0)
    return wires


def _cymbal(rng: Rng, tau: float, edge_hz: float) -> Samples:
    """A dense cluster of inharmonic modes and hiss, the highest ones short-lived at first contact."""
    hertz = edge_hz * (1 + 3 * rng.random(60) ** 1.2)
    clang = ring(hertz, tau * rng.uniform(0.4, 1.0, 60), rng.uniform(0.02, 0.08, 60), samples_in(7 * tau))
    add_at(clang, 0.25 * _noise(rng, len(clang) / RATE, 0.7 * tau, lambda at: above(at, 1.5 * edge_hz)), 0.0)
    return clang


def _tom(rng: Rng) -> Samples:
    count, pitch = samples_in(0.7), rng.uniform(75, 160)
    bend = pitch * (1 + 0.4 * decay(count, 0.04))
    body = sine(bend, count) * decay(count, 0.14)
    add_at(body, ring(pitch * np.array([1.59, 2.14, 2.65]), 0.06, [0.3, 0.2, 0.1], count), 0.0)
    add_at(body, 0.12 * _noise(rng, 0.03, 0.004, lambda at: band(at, 2500, 3)), 0.0)
    return body


def _clap(rng: Rng) -> Samples:
    track = np.zeros(samples_in(0.35))
    centre = rng.uniform(1000, 1800)
    for onset in (0.0, 0.011, 0.021):
        add_at(track, 0.5 * _noise(rng, 0.02, 0.004, lambda at: band(at, centre, 1.6)), onset)
    add_at(track, 0.4 * _noise(rng, 0.3, 0.05, lambda at: band(at, centre, 1.8) + 0.15 * above(at, 5000)), 0.03)
    return track


def _rim(rng: Rng) -> Samples:
    pitch = rng.uniform(1500, 1900)
    click = ring(pitch * np.array([1, 1.4, 2.7]), 0.008, [0.7, 0.4, 0.3], samples_in(0.08))
    add_at(click, 0.3 * _noise(rng, 0.02, 0.002, lambda at: above(at, 4000)), 0.0)
    return click


def _cowbell(rng: Rng) -> Samples:
    pitch = rng.uniform(520, 600)
    return ring(pitch * np.array([1, 1.48, 2.1, 3.0, 4.1]), [0.12, 0.12, 0.05, 0.03, 0.02], [0.5, 0.5, 0.2, 0.2, 0.1],
                samples_in(1.0))  # fmt: skip


def _shaker(rng: Rng) -> Samples:
    count = samples_in(0.09)
    return 0.4 * coloured(rng, count, lambda at: above(at, 6000)) * np.hanning(count)


DRUMS: dict[str, Callable[[Rng], Samples]] = {
    "k": _kick,
    "s": _snare,
    "h": lambda rng: _cymbal(rng, rng.uniform(0.015, 0.04), 5000),
    "o": lambda rng: _cymbal(rng, rng.uniform(0.12, 0.25), 5000),
    "t": _tom,
    "c": lambda rng: _cymbal(rng, rng.uniform(0.35, 0.7), 2500),
    "p": _clap,
    "r": _rim,
    "b": _cowbell,
    "m": _shaker,
}


def drum(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    key = pick(rng, tuple(_NAMES))
    hit = DRUMS[key](rng)
    onsets = onsets_every(log_uniform(rng, 0.25, 1.2), seconds, most=int(rng.integers(1, 7)))
    track = np.zeros((2, samples_in(seconds)))
    for onset in onsets:
        add_at(track, pan(hit * rng.uniform(0.6, 1.0), 0.0), onset)
    facts: Facts = {"drum": _NAMES[key], "onsets": onsets.tolist(), "count": len(onsets)}
    return track, facts | {"times": times(len(onsets)), "hits": many(len(onsets), "hit")}


def drum_pattern(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    style = pick(rng, tuple(_PATTERNS))
    tempo = int(rng.integers(7, 18)) * 10
    sixteenth = 15 / tempo
    onsets = onsets_every(sixteenth, seconds)
    track = np.zeros((2, samples_in(seconds)))
    heard = set()
    for line in _PATTERNS[style]:
        key, _, steps = line.partition(":")
        hit = DRUMS[key](rng)
        level = rng.uniform(0.5, 1.0) * (0.5 if key in "homb" else 1.0)
        for step, onset in enumerate(onsets):
            if steps[step % len(steps)] == "x":
                add_at(track, pan(hit * level * rng.uniform(0.85, 1.0), _PLACE[key]), onset)
                heard.add(float(onset))
    facts: Facts = {"tempo_bpm": tempo, "speed": speed(tempo), "style": style, "onsets": sorted(heard)}
    return track, facts | {"drums": " and ".join(_NAMES[line[0]] for line in _PATTERNS[style][:2])}


KINDS = (
    Kind(
        "drum",
        drum,
        (
            "a {drum} is hit {times}",
            "{hits} on a {drum}",
            "a {drum} sample, {times}",
            "a drum kit's {drum}, played {times}",
        ),
    ),
    Kind(
        "drum pattern",
        drum_pattern,
        (
            "a {style} drum pattern at {tempo_bpm} bpm",
            "a {speed} {style} drum beat",
            "drums play a {style} beat, {tempo_bpm} beats per minute",
            "a drum loop with {drums}, {tempo_bpm} bpm",
        ),
    ),
)

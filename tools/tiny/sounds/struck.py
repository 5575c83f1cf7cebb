"""Things that are hit: bells, bars, doors, bouncing balls, breaking glass, ticking clocks."""

from __future__ import annotations

import numpy as np

from sounds.kind import Facts, Kind, Rng, Samples, log_uniform, pick, samples_in
from sounds.materials import MATERIALS, Material, make_body, strike
from sounds.mix import add_at, both, onsets_every, pan, sequence
from sounds.modes import ring
from sounds.shaped import above, coloured
from sounds.waves import decay
from sounds.words import many, pitched, speed, times

# Modes as (ratio, strength, time constant in seconds). The named pitch is that of ratio 1.
_BELLS = {
    "church bell": ((0.5, 0.7, 4.0), (1.0, 1.0, 2.2), (1.19, 0.8, 1.6), (1.5, 0.5, 1.2), (2.0, 0.9, 1.1),
                    (2.51, 0.4, 0.7), (2.67, 0.4, 0.6), (3.01, 0.35, 0.5), (4.17, 0.3, 0.35), (5.43, 0.2, 0.25),
                    (6.8, 0.15, 0.15), (8.3, 0.1, 0.12)),
    "hand bell": ((1.0, 1.0, 1.6), (2.0, 0.15, 0.9), (3.0, 0.5, 0.6), (5.6, 0.25, 0.3), (8.9, 0.15, 0.15)),
    "glass bell": ((1.0, 1.0, 1.3), (2.32, 0.6, 0.8), (4.25, 0.4, 0.5), (6.63, 0.3, 0.3), (9.38, 0.2, 0.2)),
    "singing bowl": ((1.0, 1.0, 3.5), (1.004, 0.8, 3.3), (2.71, 0.6, 2.2), (2.716, 0.5, 2.2), (5.0, 0.3, 1.1),
                     (7.9, 0.2, 0.6)),
    "gong": ((1.0, 1.0, 3.0), (1.13, 0.5, 2.5), (1.52, 0.8, 2.4), (2.02, 0.7, 2.0), (2.31, 0.6, 1.9),
             (2.92, 0.6, 1.6), (3.44, 0.5, 1.5), (4.17, 0.5, 1.3), (5.06, 0.4, 1.1), (6.3, 0.4, 0.9),
             (7.7, 0.3, 0.7), (9.6, 0.3, 0.5), (12.3, 0.2, 0.4)),
}  # fmt: skip
_BELL_NOTES = {
    "church bell": (50, 69),
    "hand bell": (67, 91),
    "glass bell": (72, 98),
    "singing bowl": (50, 74),
    "gong": (33, 50),
}
_BARS = {
    "xylophone": ((1.0, 1.0, 0.16), (3.0, 0.5, 0.06), (6.1, 0.25, 0.03), (10.2, 0.15, 0.02)),
    "marimba": ((1.0, 1.0, 0.4), (3.93, 0.3, 0.08), (9.4, 0.08, 0.03)),
    "vibraphone": ((1.0, 1.0, 1.8), (4.0, 0.25, 0.5), (10.1, 0.1, 0.15)),
    "glockenspiel": ((1.0, 1.0, 1.0), (2.756, 0.5, 0.5), (5.404, 0.3, 0.25), (8.9, 0.15, 0.1)),
    "music box": ((1.0, 1.0, 0.7), (6.27, 0.25, 0.12), (17.5, 0.06, 0.04)),
}
_BAR_NOTES = {
    "xylophone": (65, 96),
    "marimba": (45, 84),
    "vibraphone": (53, 89),
    "glockenspiel": (79, 103),
    "music box": (72, 96),
}
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)
_DOORS = {
    "a wooden door": ("wooden", 1.6),
    "a wooden table": ("wooden", 1.0),
    "a metal door": ("metal", 3.2),
    "a window pane": ("glass", 2.6),
    "a cardboard box": ("cardboard", 1.0),
    "a stone": ("stone", 1.0),
    "a plastic lid": ("plastic", 1.2),
}
_BOUNCERS = {  # the ball's material, its size, how much of its speed a bounce leaves
    "a rubber ball": ("rubber", 0.8, 0.78),
    "a wooden ball": ("wooden", 0.7, 0.62),
    "a glass marble": ("glass", 0.6, 0.72),
    "a steel ball": ("metal", 0.7, 0.7),
    "a plastic cup": ("plastic", 1.0, 0.6),
}


def _struck(hertz: float, modes: tuple[tuple[float, float, float], ...], seconds: float, length: float) -> Samples:
    ratios, strengths, decays = np.array(modes).T
    return ring(hertz * ratios, decays * length, strengths / strengths.sum(), samples_in(seconds))


def bell(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    name = pick(rng, tuple(_BELLS))
    facts = pitched(rng, *_BELL_NOTES[name]) | {"bell": name}
    onsets = onsets_every(log_uniform(rng, 0.5, 2.5), seconds, most=int(rng.integers(1, 6)))
    length = rng.uniform(0.6, 1.2)
    tap = coloured(rng, samples_in(0.01), lambda at: above(at, 3000)) * decay(samples_in(0.01), 0.001)
    track = np.zeros(samples_in(seconds))
    for onset in onsets:
        strength = rng.uniform(0.6, 1.0)
        add_at(track, strength * _struck(facts["pitch_hz"], _BELLS[name], seconds, length), onset)
        add_at(track, 0.05 * strength * tap, onset)
    facts |= {"onsets": onsets.tolist(), "count": len(onsets), "times": times(len(onsets))}
    return both(track), facts | {"strokes": many(len(onsets), "stroke")}


def mallet(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    name = pick(rng, tuple(_BARS))
    facts = pitched(rng, *_BAR_NOTES[name]) | {"instrument": name}
    tempo = int(rng.integers(6, 17)) * 10
    onsets = onsets_every(60 / tempo / pick(rng, (1, 2)), seconds)
    tune = rng.choice(_PENTATONIC, len(onsets)) * (rng.random() < 0.75)
    track = np.zeros((2, samples_in(seconds)))
    for step, onset in zip(tune, onsets, strict=True):
        note = _struck(facts["pitch_hz"] * 2 ** (step / 12), _BARS[name], seconds - onset, 1.0)
        add_at(track, pan(note * rng.uniform(0.6, 1.0), step / 16 - 0.5), onset)
    facts |= {"tempo_bpm": tempo, "speed": speed(tempo), "onsets": onsets.tolist()}
    return track, facts | {"what": "melody" if tune.any() else "repeated note"}


def knock(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    what = pick(rng, tuple(_DOORS))
    material, size = _DOORS[what]
    body = make_body(rng, MATERIALS[material], size * rng.uniform(0.8, 1.25))
    onsets = onsets_every(log_uniform(rng, 0.12, 0.6), seconds, most=int(rng.integers(1, 9)))
    onsets += np.abs(rng.normal(0, 0.008, len(onsets)))
    track = sequence((strike(rng, body, rng.uniform(0.6, 1.0), seconds) for _ in onsets), onsets, seconds)
    facts: Facts = {"onsets": onsets.tolist(), "count": len(onsets), "times": times(len(onsets)), "what": what}
    facts |= {"knocks": many(len(onsets), "knock"), "material": material, "hits": many(len(onsets), "hit")}
    return both(track), facts


def bounce(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    what = pick(rng, tuple(_BOUNCERS))
    material, size, restitution = _BOUNCERS[what]
    body = make_body(rng, MATERIALS[material], size * rng.uniform(0.8, 1.25))
    interval, strength, onset, onsets, strengths = rng.uniform(0.4, 0.8), 1.0, 0.0, [], []
    while onset < seconds - 0.05 and strength > 0.03:
        onsets.append(onset)
        strengths.append(strength)
        onset, interval, strength = onset + interval, interval * restitution, strength * restitution
    track = sequence((strike(rng, body, blow, seconds) for blow in strengths), onsets, seconds)
    return both(track), {"onsets": onsets, "what": what, "material": material}


def shatter(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Glass or crockery breaks: one crash, then shards that land."""
    material = pick(rng, ("glass", "ceramic"))
    what = {"glass": pick(rng, ("glass", "a window", "a bottle")), "ceramic": pick(rng, ("a plate", "a vase"))}[
        material
    ]
    track = np.zeros((2, samples_in(seconds)))
    crash = coloured(rng, samples_in(0.5), lambda at: above(at, 2500)) * decay(samples_in(0.5), 0.04)
    add_at(track, both(0.25 * crash), 0.0)
    shards = int(rng.integers(25, 70))
    landings = np.minimum(rng.exponential(0.22, shards), seconds * 0.9) * (np.arange(shards) > 5)
    for landing in landings:
        shard = make_body(rng, MATERIALS[material], log_uniform(rng, 0.25, 0.9))
        blow = strike(rng, shard, rng.uniform(0.1, 0.5) * np.exp(-landing), 0.6)
        add_at(track, pan(blow, rng.uniform(-0.8, 0.8)), float(landing))
    return track, {"onsets": [0.0], "what": what, "material": material}


def clock(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    per_minute = pick(rng, (60, 120, 150, 240))
    base = MATERIALS[pick(rng, ("wooden", "plastic", "metal"))]
    case = Material(base.name, base.ratios, base.base_hz * 2.2, 0.012, 0.3, 0.5, 5000)
    bodies = [make_body(rng, case, 1.0), make_body(rng, case, rng.uniform(1.1, 1.4))]
    onsets = onsets_every(60 / per_minute, seconds)
    track = sequence((strike(rng, bodies[at % 2], 0.8, 0.3) for at in range(len(onsets))), onsets, seconds)
    facts: Facts = {"tempo_bpm": per_minute, "speed": speed(per_minute), "onsets": onsets.tolist()}
    return both(track), facts


KINDS = (
    Kind(
        "bell",
        bell,
        (
            "a {bell} rings {times}, {note}",
            "a {register} {bell} is struck {times}",
            "{strokes} on a {bell}",
            "a {register} {bell} ringing, {note}",
            "a {bell} tolls at {pitch_hz:.0f} hertz",
        ),
    ),
    Kind(
        "mallet",
        mallet,
        (
            "a {instrument} plays a {speed} {what} at {tempo_bpm} bpm",
            "a {what} on a {instrument}, {tempo_bpm} beats per minute",
            "a {register} {instrument}, {speed} {what}",
            "mallets on a {instrument}",
        ),
    ),
    Kind(
        "knock",
        knock,
        (
            "someone knocks on {what} {times}",
            "{knocks} on {what}",
            "a {material} surface is knocked {times}",
            "knocking on {what}",
            "{knocks}, {material} sound",
        ),
    ),
    Kind(
        "bounce",
        bounce,
        (
            "{what} bounces on the floor, faster and faster",
            "{what} is dropped and bounces",
            "a bouncing {material} object comes to rest",
            "bouncing of {what}, the bounces get shorter",
        ),
    ),
    Kind(
        "shatter",
        shatter,
        (
            "{what} shatters",
            "{what} breaks and shatters on the floor",
            "shattering {material}",
            "{what} shatters loudly",
        ),
    ),
    Kind(
        "clock",
        clock,
        (
            "a clock ticks",
            "a {speed} clock ticks, {tempo_bpm} ticks per minute",
            "the ticking of a clock at {tempo_bpm} bpm",
            "a ticking clock, tick tock",
        ),
    ),
)

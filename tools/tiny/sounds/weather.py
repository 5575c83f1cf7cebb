"""Sounds without pitch, mostly of nature: noise, wind, rain, surf, fire, thunder, water, applause, air."""

from __future__ import annotations

import numpy as np

from sounds.kind import RATE, Facts, Kind, Rng, Samples, log_uniform, pick, samples_in, time_of
from sounds.materials import MATERIALS, make_body, strike
from sounds.mix import add_at, both, onsets_every, pan, scatter, spread
from sounds.shaped import above, at_frames, band, below, coloured, evolving, tilt
from sounds.waves import decay, sine, swell, wander
from sounds.words import many, register, times

_COLOURS = {"white": 0.0, "pink": -3.0, "brown": -6.0, "blue": 3.0}
_ROOFS = {  # where rain falls: the drops' material, their size, their share beside the hiss
    "leaves": ("cardboard", 0.12, 0.5),
    "a tin roof": ("metal", 0.6, 1.2),
    "a window": ("glass", 1.2, 0.8),
    "a tent": ("rubber", 0.25, 1.2),
    "the street": ("stone", 0.5, 0.4),
}


def noise(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    colour = pick(rng, tuple(_COLOURS))
    count = samples_in(seconds)
    left, right = (coloured(rng, count, tilt(_COLOURS[colour])) for _ in range(2))
    return np.stack([left, pick(rng, (left, right))]), {"colour": colour}


def wind(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    howling = bool(rng.integers(2))
    centre = log_uniform(rng, 250, 700) * np.exp2(wander(rng, count, 1.2, -0.7, 0.7))
    gusts = wander(rng, count, 1.5, 0.15, 1.0)
    width = rng.uniform(0.12, 0.3) if howling else rng.uniform(1.0, 2.0)

    def gain(at: Samples, hertz: Samples) -> Samples:
        body = 0.25 * band(hertz, 150, 2.5) + (2.0 if howling else 1.0) * band(hertz, at_frames(centre, at), width)
        return np.asarray(at_frames(gusts, at) * (body + 0.03 * above(hertz, 3000, 1)))

    sides = np.stack([evolving(rng, count, gain), evolving(rng, count, gain)])
    return sides, {"how": "howling" if howling else pick(rng, ("gusty", "steady", "soft"))}


def rain(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count, where = samples_in(seconds), pick(rng, tuple(_ROOFS))
    material, size, share = _ROOFS[where]
    per_second = log_uniform(rng, 25, 900)
    drops = np.zeros((16, samples_in(0.12)))
    for drop in drops:
        body = make_body(rng, MATERIALS[material], size * log_uniform(rng, 0.5, 1.6))
        add_at(drop, strike(rng, body, 1.0, 0.12), 0.0)
    hiss_level = 0.02 * per_second**0.4
    hiss = [coloured(rng, count, lambda at: above(at, 900, 1) * below(at, 12_000, 1)) for _ in range(2)]
    falls = rng.poisson(2 * per_second * seconds)
    starts, gains = rng.integers(0, count, falls), 0.2 * share * rng.exponential(1.0, falls) ** 1.5
    patter = scatter(drops, spread(16), rng.integers(0, 16, falls), starts, gains, count)
    strength = "light" if per_second < 80 else "heavy" if per_second > 350 else ""
    return patter + hiss_level * np.stack(hiss), {"where": where, "strength": strength}


def surf(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Waves: each swells, breaks brightly and runs out in fizz."""
    count = samples_in(seconds)
    period = rng.uniform(3.5, 7.0)
    turn = (time_of(count) / period + rng.random()) % 1
    ebb = np.maximum(0, turn - 0.45) / 0.55
    height = np.where(turn < 0.45, (turn / 0.45) ** 2.5, np.exp(-2.5 * ebb) * (1 - ebb))
    openness = np.where(turn < 0.45, turn / 0.45, 1 - ebb**2)

    def gain(at: Samples, hertz: Samples) -> Samples:
        edge = 300 * 2 ** (5.0 * at_frames(openness, at))
        return (0.08 + at_frames(height, at)) * below(hertz, edge, 1) * tilt(-2.5)(hertz) * above(hertz, 60, 1)

    calm = bool(rng.integers(2))
    return np.stack([evolving(rng, count, gain), evolving(rng, count, gain)]) * (0.5 if calm else 1.0), {
        "mood": "calm" if calm else "rough"
    }


def fire(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    per_second = log_uniform(rng, 8, 60)
    length = samples_in(0.02)
    snaps = np.stack([
        coloured(rng, length, lambda at: band(at, log_uniform(rng, 1500, 7000), 1.5))
        * decay(length, log_uniform(rng, 0.0005, 0.003))
        for _ in range(12)
    ])  # fmt: skip
    born = rng.poisson(2 * per_second * seconds)
    starts, gains = rng.integers(0, count, born), 0.12 * np.minimum(rng.pareto(1.6, born), 8)
    crackle = scatter(snaps, spread(12), rng.integers(0, 12, born), starts, gains, count)
    roar = [coloured(rng, count, lambda at: band(at, 140, 2.5) + 0.02 * above(at, 1500, 1)) for _ in range(2)]
    samples = crackle + 0.1 * np.stack(roar) * wander(rng, count, 6, 0.5, 1.0)
    return samples, {"where": pick(rng, ("a fireplace", "a campfire", "a stove"))}


def thunder(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count, near = samples_in(seconds), bool(rng.integers(2))
    begin = rng.uniform(0.0, 0.3 * seconds)
    since = time_of(count) - begin
    roll = wander(rng, count, 5, 0.1, 1.0) ** 1.5
    loudness = np.where(since < 0, 0.0, np.exp(-np.maximum(since, 0) / (0.3 * seconds))) * np.minimum(
        1.0, np.maximum(since, 0) / (0.005 if near else 0.5)
    )

    def gain(at: Samples, hertz: Samples) -> Samples:
        past = np.maximum(at - begin, 0)
        edge = np.where(near, 120 + 5000 * np.exp(-past / 0.25), 160.0)
        return below(hertz, edge, 2) * above(hertz, 25, 1) * tilt(-3)(hertz) * 0.3

    sides = [evolving(rng, count, gain) * loudness * roll for _ in range(2)]
    return np.stack(sides), {"distance": "close" if near else "distant", "onsets": [begin]}


def drips(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Single drops into water: a click, then the note of the bubble that closes."""
    count = samples_in(seconds)
    onsets = onsets_every(log_uniform(rng, 0.2, 1.2), seconds, most=int(rng.integers(1, 13)))
    onsets += rng.uniform(0, 0.05, len(onsets))
    base = log_uniform(rng, 500, 1800)
    track = np.zeros((2, count))
    for onset in onsets:
        add_at(track, pan(drip(rng, base * 2 ** rng.uniform(-0.2, 0.2)), rng.uniform(-0.3, 0.3)), onset)
    facts: Facts = {"onsets": onsets.tolist(), "count": len(onsets), "drops": many(len(onsets), "drop")}
    return track, facts | {"register": register(base), "times": times(len(onsets))}


def drip(rng: Rng, hertz: float) -> Samples:
    """One drop, mono."""
    length = samples_in(0.25)
    rise = hertz * np.exp2(rng.uniform(0.2, 0.8) * np.arange(length) / length)
    bubble = sine(rise, length) * decay(length, rng.uniform(0.012, 0.035))
    drop = np.zeros(length + samples_in(0.02))
    splash = coloured(rng, samples_in(0.02), lambda at: band(at, 5000, 2.5)) * decay(samples_in(0.02), 0.002)
    add_at(drop, 0.3 * splash, 0.0)
    add_at(drop, 0.8 * bubble, rng.uniform(0.002, 0.012))
    return drop


def stream(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Running water: hundreds of bubbles a second over soft noise."""
    count = samples_in(seconds)
    centre, per_second = log_uniform(rng, 500, 1600), log_uniform(rng, 60, 400)
    bubbles = np.zeros((20, samples_in(0.1)))
    for bubble in bubbles:
        length = samples_in(0.1)
        hertz = centre * 2 ** rng.normal(0, 0.7) * np.exp2(rng.uniform(0, 0.5) * np.arange(length) / length)
        bubble += sine(hertz, length) * decay(length, rng.uniform(0.006, 0.02))
        bubble *= swell(length, 0.001, 0.01)
    born = rng.poisson(2 * per_second * seconds)
    starts, gains = rng.integers(0, count, born), 0.2 * rng.exponential(1.0, born) * rng.choice((-1, 1), born)
    gurgle = scatter(bubbles, spread(20)[:, rng.permutation(20)], rng.integers(0, 20, born), starts, gains, count)
    flow = [coloured(rng, count, lambda at: band(at, 900, 3) + 0.15 * above(at, 4000, 1)) for _ in range(2)]
    return gurgle + 0.06 * np.stack(flow), {"size": "small" if centre > 900 else "large"}


def applause(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count, people = samples_in(seconds), int(log_uniform(rng, 3, 120))
    length = samples_in(0.04)
    claps = np.stack([
        coloured(rng, length, lambda at: band(at, log_uniform(rng, 800, 2800), 1.3) + 0.1 * above(at, 5000))
        * decay(length, rng.uniform(0.003, 0.008))
        for _ in range(16)
    ])  # fmt: skip
    starts = []
    for _ in range(people):
        interval = rng.uniform(0.17, 0.32)
        own = (np.arange(int(seconds / interval) + 1) * interval + rng.uniform(0, interval)) * RATE
        own = np.abs(own + rng.normal(0, 0.015 * RATE, len(own)))
        starts.append(own[own < count])
    who = np.repeat(np.arange(people), [len(own) for own in starts])
    loudness = rng.uniform(0.1, 0.5, people)
    sides = scatter(claps, spread(16), who % 16, np.concatenate(starts), loudness[who], count)
    return sides, {"crowd": "a few people" if people < 10 else "a large crowd" if people > 50 else "an audience"}


def whoosh(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    """Something passes: noise whose colour and place sweep by."""
    count = samples_in(seconds)
    length = min(rng.uniform(0.3, 1.4), 0.8 * seconds)
    onsets = onsets_every(length + rng.uniform(0.1, 0.6), seconds, most=int(rng.integers(1, 5)))
    track = np.zeros((2, count))
    top = log_uniform(rng, 1200, 6000)
    to_right = pick(rng, (-1.0, 1.0))
    size = samples_in(length)
    arch = np.sin(np.pi * np.linspace(0, 1, size)) ** 2
    side = (to_right * np.linspace(-0.9, 0.9, size) + 1) * np.pi / 4
    path = arch * np.stack([np.cos(side), np.sin(side)])
    for onset in onsets:
        passing = evolving(rng, size, lambda at, hertz: band(hertz, top * (0.25 + 0.75 * at_frames(arch, at)), 1.6))
        add_at(track, passing * path, onset)
    facts: Facts = {"onsets": onsets.tolist(), "count": len(onsets), "times": times(len(onsets))}
    return track, facts | {"to": "to the right" if to_right > 0 else "to the left"}


def steam(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    count = samples_in(seconds)
    edge = log_uniform(rng, 2500, 7000)
    hiss = coloured(rng, count, lambda at: above(at, edge, 2) + 0.05)
    pressure = wander(rng, count, 8, 0.8, 1.0) * swell(count, 0.05, 0.3)
    return both(hiss * pressure), {"source": pick(rng, ("a steam valve", "a tyre", "a gas pipe", "a spray can"))}


KINDS = (
    Kind(
        "noise",
        noise,
        ("{colour} noise", "steady {colour} noise", "a burst of static, {colour} noise", "hissing {colour} noise"),
        sustained=True,
    ),
    Kind(
        "wind", wind, ("{how} wind", "the wind is {how}", "wind blows, {how}", "outdoors, {how} wind"), sustained=True
    ),
    Kind(
        "rain",
        rain,
        (
            "{strength} rain on {where}",
            "{strength} rain falls on {where}",
            "raindrops patter on {where}",
            "{strength} rain",
        ),
        sustained=True,
    ),
    Kind(
        "surf",
        surf,
        (
            "{mood} ocean waves",
            "waves roll onto a beach, {mood} sea",
            "{mood} surf at the shore",
            "waves of a {mood} sea",
        ),
        sustained=True,
    ),
    Kind(
        "fire",
        fire,
        ("{where} crackles", "crackling fire in {where}", "wood burning, fire crackles", "a fire pops and crackles"),
        sustained=True,
    ),
    Kind(
        "thunder",
        thunder,
        (
            "{distance} thunder",
            "thunder rolls, {distance}",
            "a {distance} clap of thunder",
            "thunder rumbles, {distance}",
        ),
    ),
    Kind(
        "drips",
        drips,
        (
            "{drops} of water fall",
            "water drips {times}",
            "{register} water drips",
            "{drops} of water fall into a puddle",
        ),
    ),
    Kind(
        "stream",
        stream,
        (
            "a {size} stream flows",
            "running water, a {size} stream",
            "water gurgles in a {size} stream",
            "running water",
        ),
        sustained=True,
    ),
    Kind(
        "applause",
        applause,
        ("{crowd} clapping", "applause from {crowd}", "clapping of {crowd}, applause", "applause, {crowd}"),
        sustained=True,
    ),
    Kind(
        "whoosh",
        whoosh,
        ("a whoosh {times}", "something whooshes past {to}", "a whoosh moving {to}", "an airy whoosh, {times}"),
    ),
    Kind(
        "steam",
        steam,
        ("{source} hisses", "hissing air from {source}", "a sharp hiss from {source}", "the hiss of {source}"),
    ),
)

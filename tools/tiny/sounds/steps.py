"""Footsteps. What a shoe does to the ground: the ground's grains, its body, heel and toe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sounds.kind import RATE, Facts, Kind, Rng, Samples, pick, samples_in
from sounds.materials import MATERIALS, Body, make_body, strike
from sounds.mix import add_at, both, onsets_every, scatter, sequence
from sounds.shaped import band, coloured
from sounds.waves import decay
from sounds.words import many, speed


@dataclass(frozen=True)
class Ground:
    """`grains` small things that move under a step, heard around `grain_hz`; `body` what the step makes sound."""

    name: str
    body: str
    size: float
    body_level: float
    grains: int = 0
    grain_hz: float = 3000.0
    grain_seconds: float = 0.002


GROUNDS = {
    ground.name: ground
    for ground in (
        Ground("gravel", "stone", 2.0, 0.25, grains=70, grain_hz=3500),
        Ground("wood", "wooden", 3.5, 1.0),
        Ground("metal", "metal", 4.0, 0.8),
        Ground("concrete", "stone", 1.5, 0.8, grains=6, grain_hz=2500),
        Ground("snow", "rubber", 1.0, 0.15, grains=160, grain_hz=1800, grain_seconds=0.004),
        Ground("dry leaves", "rubber", 1.0, 0.1, grains=60, grain_hz=6500, grain_seconds=0.0025),
    )
}


def footstep(rng: Rng, ground: Ground, body: Body, strength: float = 1.0) -> Samples:
    """One step, mono, that begins with the heel and goes on to the toe."""
    step = np.zeros(samples_in(0.5))
    toe_seconds = rng.uniform(0.07, 0.11)
    for onset, share in ((0.0, 1.0), (toe_seconds, rng.uniform(0.3, 0.6))):
        add_at(step, ground.body_level * share * strike(rng, body, 0.8 * share, 0.5), onset)
    if ground.grains:
        length = samples_in(8 * ground.grain_seconds)
        kinds = np.stack([
            coloured(rng, length, lambda at: band(at, ground.grain_hz * rng.uniform(0.6, 1.6), 1.2))
            * decay(length, ground.grain_seconds)
            for _ in range(6)
        ])  # fmt: skip
        starts = np.concatenate([[0, 0], rng.beta(1.2, 2.5, ground.grains) * (toe_seconds + 0.1) * RATE])
        gains = 0.25 * rng.exponential(1.0, len(starts))
        gains[:2] = 0.5  # the first contact is sudden
        step += scatter(kinds, np.ones((1, 6)), rng.integers(0, 6, len(starts)), starts, gains, len(step))[0]
    return strength * step


def footsteps(rng: Rng, seconds: float) -> tuple[Samples, Facts]:
    ground = GROUNDS[pick(rng, tuple(GROUNDS))]
    body = make_body(rng, MATERIALS[ground.body], ground.size * rng.uniform(0.8, 1.2))
    per_minute = int(rng.integers(8, 19)) * 10
    onsets = onsets_every(60 / per_minute, seconds)
    onsets[1:] += rng.normal(0, 0.008, len(onsets) - 1)
    track = sequence((footstep(rng, ground, body, rng.uniform(0.7, 1.0)) for _ in onsets), onsets, seconds)
    gait = "running" if per_minute > 145 else "walking"
    facts: Facts = {"tempo_bpm": per_minute, "speed": speed(per_minute), "gait": gait, "ground": ground.name}
    return both(track), facts | {"onsets": onsets.tolist(), "steps": many(len(onsets), "footstep")}


KINDS = (
    Kind(
        "footsteps",
        footsteps,
        (
            "footsteps on {ground}",
            "someone {gait} on {ground}, {speed} footsteps",
            "{steps} on {ground}",
            "{speed} footsteps on {ground}, {tempo_bpm} steps per minute",
            "footsteps of a person {gait} on {ground}",
        ),
    ),
)

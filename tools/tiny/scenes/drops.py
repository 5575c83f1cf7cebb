"""Drops fall from a tap into a puddle."""

from __future__ import annotations

import math

from sounds.kind import Rng, log_uniform
from sounds.weather import drip
from sounds.words import many

from scenes.canvas import BLACK, WHITE, Canvas, Colour, mixed
from scenes.scene import Event, FilmKind, Scene, wall_and_floor

_WATER_Y = 0.8
_GRAVITY = 4.5
_WATER: Colour = (0.25, 0.5, 0.8)


def drops(rng: Rng, seconds: float, width: float) -> Scene:
    tap_x, tap_y, radius = width * rng.uniform(0.25, 0.75), rng.uniform(0.15, 0.35), rng.uniform(0.025, 0.05)
    fall = math.sqrt(2 * (_WATER_Y - tap_y - radius) / _GRAVITY)
    interval = log_uniform(rng, 0.35, 1.3)
    splashes = [fall * rng.uniform(0.1, 1.0)]
    while (after := splashes[-1] + interval * rng.uniform(0.9, 1.1)) < seconds - 0.08:
        splashes.append(after)
    pitch = 1100 * 0.035 / radius  # a larger drop closes a larger bubble
    events = [Event(at, tap_x, drip(rng, pitch * 2 ** rng.uniform(-0.1, 0.1))) for at in splashes]
    room = wall_and_floor(rng, _WATER_Y - 0.08)

    def background(canvas: Canvas) -> None:
        room(canvas)
        canvas.ellipse(tap_x, _WATER_Y + 0.06, 0.62, 0.13, mixed(_WATER, BLACK, 0.35))
        canvas.box(tap_x, tap_y - 0.14, 0.06, 0.2, (0.6, 0.62, 0.66))
        canvas.box(tap_x, tap_y - 0.05, 0.1, 0.03, (0.45, 0.47, 0.5))

    def draw(canvas: Canvas, at: float) -> None:
        for splash in splashes:
            since = at - splash
            if 0 <= since < 0.9:
                for late in (0.0, 0.12):
                    reach = 0.03 + 0.55 * max(0.0, since - late)
                    alpha = 0.9 * math.exp(-since / 0.3)
                    canvas.ring(tap_x, _WATER_Y + 0.03, reach, 0.3 * reach, 0.02, mixed(_WATER, WHITE, 0.7), alpha)
            if 0 <= since < 0.2:
                for side in (-1, 1):
                    height = 0.9 * since - 4.5 * since**2
                    canvas.disc(tap_x + side * 0.5 * since, _WATER_Y - height, 0.4 * radius, mixed(_WATER, WHITE, 0.5))
            if -fall <= since < 0:
                y = tap_y + radius + 0.5 * _GRAVITY * (fall + since) ** 2
                canvas.ellipse(tap_x, y, radius, 1.25 * radius, mixed(_WATER, WHITE, 0.35))
                canvas.disc(tap_x - 0.3 * radius, y - 0.3 * radius, 0.3 * radius, WHITE)
            elif -fall - 0.3 <= since < -fall:
                grown = 1 + (since + fall) / 0.3
                canvas.ellipse(tap_x, tap_y + radius * grown - 0.02, radius * grown, 1.25 * radius * grown,
                               mixed(_WATER, WHITE, 0.35))  # fmt: skip

    facts = {"drops": many(len(splashes), "drop"), "size": "large" if radius > 0.038 else "small"}
    return Scene(facts, events, background, draw)


KIND = FilmKind(
    "drops",
    drops,
    (
        "{drops} of water fall from a tap into a puddle",
        "a tap drips {size} drops into a puddle",
        "water drops fall into a puddle, making ripples",
        "{size} drops drip from a tap",
    ),
)

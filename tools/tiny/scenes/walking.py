"""Somebody walks through the picture on ground that one hears."""

from __future__ import annotations

import math

import numpy as np
from sounds.kind import Rng, log_uniform, pick
from sounds.materials import MATERIALS, make_body
from sounds.steps import GROUNDS, footstep
from sounds.words import speed

from scenes.canvas import BLACK, WHITE, Canvas, Colour, mixed
from scenes.scene import LOOKS, Event, FilmKind, Scene, wall_and_floor

_GROUND = 0.82
_HIP = 0.36  # above the ground
_MARGIN = 0.1  # between the walker and the picture's edge
_COLOURS: dict[str, Colour] = {
    "gravel": (0.55, 0.52, 0.48),
    "wood": (0.55, 0.35, 0.17),
    "metal": (0.55, 0.58, 0.63),
    "snow": (0.93, 0.95, 0.98),
}


def walking(rng: Rng, seconds: float, width: float) -> Scene:
    name = pick(rng, tuple(_COLOURS))
    ground, per_minute = GROUNDS[name], log_uniform(rng, 75, 190)
    period, stride = 60 / per_minute, rng.uniform(0.2, 0.3)
    start = rng.uniform(0.0, 2.0) * (width - 2 * _MARGIN)
    first = rng.uniform(0.08, 0.9) * period
    landings = np.arange(first, seconds - 0.08, period)
    body = make_body(rng, MATERIALS[ground.body], ground.size)

    def foot_at(step: int) -> float:
        """How far along the way the foot is that lands as number `step`."""
        return start + stride * step

    def place(along: float) -> tuple[float, float]:
        """Where in the picture that is, and which way one walks there: at its edges the walker turns round."""
        reach = width - 2 * _MARGIN
        there = along % (2 * reach)
        return (_MARGIN + there, 1.0) if there <= reach else (_MARGIN + 2 * reach - there, -1.0)

    events = [
        Event(float(at), place(foot_at(step))[0], footstep(rng, ground, body, rng.uniform(0.75, 1.0)))
        for step, at in enumerate(landings)
    ]
    shirt, texture = pick(rng, LOOKS["rubber"]), rng.random((2, 90))
    room = wall_and_floor(rng, _GROUND)

    def background(canvas: Canvas) -> None:
        room(canvas)
        colour, depth = _COLOURS[name], 1 - _GROUND
        canvas.box(width / 2, _GROUND + depth / 2, width + 1, depth, colour)
        if name == "wood":
            for board in range(int(width / 0.2) + 1):
                canvas.box(0.2 * board + 0.1, _GROUND + depth / 2, 0.02, depth, mixed(colour, BLACK, 0.5))
        elif name == "metal":
            canvas.box(width / 2, _GROUND + 0.03, width + 1, 0.03, mixed(colour, WHITE, 0.7))
            for rivet in range(int(width / 0.15) + 1):
                canvas.disc(0.15 * rivet + 0.05, _GROUND + 0.11, 0.02, mixed(colour, BLACK, 0.5))
        elif name == "gravel":
            for x, y in texture.T:
                shade = mixed(colour, BLACK if x * 7 % 1 < 0.5 else WHITE, 0.45)
                canvas.disc(x * width, _GROUND + 0.02 + y * depth, 0.022, shade)

    def draw(canvas: Canvas, at: float) -> None:
        step = math.floor((at - first) / period)  # the foot that stands
        share = (at - first) / period - step
        swing = 0.5 - 0.5 * math.cos(math.pi * share)
        lifted = 0.09 * math.sin(math.pi * share)
        hip = foot_at(step) + stride * (share - 0.5)
        hip_x, way = place(hip)
        hip_y = _GROUND - _HIP + 0.02 * math.cos(2 * math.pi * share)
        stands = hip_x + way * (foot_at(step) - hip)
        moves = hip_x + way * (foot_at(step - 1) + 2 * stride * swing - hip)
        for foot, lift, dark in ((moves, lifted, 0.45), (stands, 0.0, 0.0)):
            knee_x, knee_y = (hip_x + foot) / 2 + way * (0.03 + 0.6 * lift), (hip_y + _GROUND - lift) / 2
            trousers, sole = mixed((0.2, 0.25, 0.45), BLACK, dark), _GROUND - 0.018 - lift
            canvas.stroke(hip_x, hip_y, knee_x, knee_y, 0.055, trousers)
            canvas.stroke(knee_x, knee_y, foot, sole - 0.012, 0.05, trousers)
            canvas.stroke(foot - way * 0.015, sole, foot + way * 0.06, sole, 0.036, BLACK)
        canvas.stroke(hip_x, hip_y, hip_x, hip_y - 0.2, 0.11, shirt)
        canvas.disc(hip_x + way * 0.01, hip_y - 0.33, 0.065, (0.85, 0.65, 0.5))
        since = share * period
        if 0 <= step < len(landings) and since < 0.1:
            for side in (-1, 1):
                canvas.disc(stands + side * (0.05 + 0.5 * since), _GROUND - 0.6 * since, 0.018, _COLOURS[name])

    facts = {"ground": name, "speed": speed(per_minute), "gait": "runs" if per_minute > 145 else "walks"}
    return Scene(facts, events, background, draw)


KIND = FilmKind(
    "walking",
    walking,
    (
        "a person {gait} on {ground}, footsteps",
        "someone {gait} across {ground}",
        "{speed} footsteps of a person on {ground}",
        "a person {gait} past",
    ),
)

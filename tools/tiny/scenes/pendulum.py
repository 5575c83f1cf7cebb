"""A ball on a string swings against something that rings."""

from __future__ import annotations

import math

from sounds.kind import Rng, pick
from sounds.materials import MATERIALS, make_body, strike

from scenes.canvas import Canvas
from scenes.scene import LOOKS, Event, FilmKind, Scene, ball, block, flash, wall_and_floor

_FLOOR = 0.9
_TARGETS = {"metal": "a metal bell", "glass": "a glass bowl", "wooden": "a wooden block"}


def pendulum(rng: Rng, seconds: float, width: float) -> Scene:
    """Hanging straight, the ball touches its target: each half swing ends in a blow and a smaller swing."""
    material, side = pick(rng, tuple(_TARGETS)), pick(rng, (-1.0, 1.0))
    length, radius, period = rng.uniform(0.45, 0.62), rng.uniform(0.06, 0.085), rng.uniform(0.7, 1.5)
    keeps, size = rng.uniform(0.72, 0.9), rng.uniform(0.16, 0.28)
    start, pivot = rng.uniform(0.6, 1.0), (width / 2 - side * 0.15, 0.05)
    colour, bob = pick(rng, LOOKS[material]), pick(rng, LOOKS["rubber"])
    blows = [period / 4]
    while (after := blows[-1] + period / 2) < seconds - 0.05 and start * keeps ** len(blows) > 0.06:
        blows.append(after)
    strengths = [min(1.0, start * keeps**swing * (1.0 / period) ** 0.5) for swing in range(len(blows))]

    body = make_body(rng, MATERIALS[material], size / 0.2)
    touch_x, touch_y = pivot[0] + side * radius, pivot[1] + length
    target_x = touch_x + side * size / 2
    events = [Event(at, touch_x, strike(rng, body, blow)) for at, blow in zip(blows, strengths, strict=True)]

    def draw(canvas: Canvas, at: float) -> None:
        done = sum(blow <= at for blow in blows)
        swing = start * keeps**done * abs(math.cos(2 * math.pi * at / period))
        angle = -side * (swing if done < len(blows) or at < blows[-1] + period / 2 else 0.0)
        since = at - blows[done - 1] if done else math.inf
        shake = 0.012 * math.sin(2 * math.pi * 11 * since) * math.exp(-since / 0.1) if done else 0.0
        canvas.box(target_x + shake, (touch_y + _FLOOR) / 2, 0.04, _FLOOR - touch_y, (0.25, 0.2, 0.18))
        if material == "wooden":
            block(canvas, target_x + shake, touch_y, size, size, material, colour)
        else:
            ball(canvas, target_x + shake, touch_y, size / 2, material, colour)
        x, y = pivot[0] + length * math.sin(angle), pivot[1] + length * math.cos(angle)
        canvas.stroke(*pivot, x, y, 0.018, (0.1, 0.1, 0.12))
        canvas.disc(*pivot, 0.025, (0.1, 0.1, 0.12))
        ball(canvas, x, y, radius, "rubber", bob)
        if done:
            flash(canvas, touch_x, touch_y, since, strengths[done - 1])

    facts = {"target": _TARGETS[material], "material": material}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


KIND = FilmKind(
    "pendulum",
    pendulum,
    (
        "a pendulum strikes {target}",
        "a pendulum swings against {target}",
        "a swinging ball on a string, a pendulum, hits {target} again and again",
        "a pendulum swings and knocks",
    ),
)

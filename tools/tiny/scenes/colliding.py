"""Two boxes slide on a floor, into each other and into walls."""

from __future__ import annotations

from dataclasses import dataclass

from sounds.kind import Rng, pick
from sounds.materials import MATERIALS, make_body, strike

from scenes.canvas import Canvas
from scenes.scene import LOOKS, Event, FilmKind, Scene, block, flash, shadow, wall_and_floor

_KEEPS = 0.75  # share of the speed that a collision leaves
_WEIGHT = {"wooden": 1.0, "metal": 2.5, "glass": 1.5, "stone": 2.0}
_SLOWEST = 0.06
_FLOOR = 0.8


@dataclass(frozen=True)
class _Stretch:
    """From `begin` on, the boxes are at `x` with speeds `v`; what met, where and how strongly, began it."""

    begin: float
    x: tuple[float, float]
    v: tuple[float, float]
    touch_x: float = 0.0
    strength: float = 0.0
    struck: tuple[int, ...] = ()

    def at(self, seconds: float) -> tuple[float, float]:
        t = seconds - self.begin
        return self.x[0] + self.v[0] * t, self.x[1] + self.v[1] * t


def _next(now: _Stretch, half: tuple[float, float], mass: tuple[float, float], width: float) -> _Stretch | None:
    """What follows the first contact of any two of left wall, first box, second box and right wall."""
    closing = now.v[0] - now.v[1]
    moments = []
    if closing > 1e-9:
        moments.append(((now.x[1] - half[1] - now.x[0] - half[0]) / closing, "boxes"))
    if now.v[0] < 0:
        moments.append(((half[0] - now.x[0]) / now.v[0], "left"))
    if now.v[1] > 0:
        moments.append(((width - half[1] - now.x[1]) / now.v[1], "right"))
    if not moments:
        return None
    t, who = min(moments)
    begin = now.begin + t
    (x0, x1), (v0, v1) = now.at(begin), now.v
    if who == "left":
        return _Stretch(begin, (half[0], x1), (-_KEEPS * v0, v1), 0.0, min(1.0, -v0), (0,))
    if who == "right":
        return _Stretch(begin, (x0, width - half[1]), (v0, -_KEEPS * v1), width, min(1.0, v1), (1,))
    common = (mass[0] * v0 + mass[1] * v1) / sum(mass)
    push = _KEEPS * closing / sum(mass)
    after = (common - push * mass[1], common + push * mass[0])
    return _Stretch(begin, (x0, x1), after, x0 + half[0], min(1.0, closing / 1.4), (0, 1))


def colliding(rng: Rng, seconds: float, width: float) -> Scene:
    materials = (pick(rng, tuple(_WEIGHT)), pick(rng, tuple(_WEIGHT)))
    sides = (rng.uniform(0.18, 0.32), rng.uniform(0.18, 0.32))
    half = (sides[0] / 2, sides[1] / 2)
    mass = (_WEIGHT[materials[0]] * sides[0] ** 2, _WEIGHT[materials[1]] * sides[1] ** 2)
    speeds = (rng.uniform(0.4, 1.0), pick(rng, (0.0, -rng.uniform(0.3, 1.0))))
    gaps = rng.uniform(0.04, 0.16, 2) * width
    now = _Stretch(0.0, (half[0] + float(gaps[0]), width - half[1] - float(gaps[1])), speeds)
    stretches = [now]
    while (after := _next(now, half, mass, width)) and after.begin < seconds - 0.05 and after.strength > _SLOWEST:
        stretches.append(now := after)

    colours = tuple(pick(rng, LOOKS[material]) for material in materials)
    bodies = [make_body(rng, MATERIALS[m], side / 0.2) for m, side in zip(materials, sides, strict=True)]
    events = [
        Event(stretch.begin, stretch.touch_x, strike(rng, bodies[which], stretch.strength))
        for stretch in stretches
        for which in stretch.struck
    ]

    def draw(canvas: Canvas, at: float) -> None:
        now = [stretch for stretch in stretches if stretch.begin <= at][-1]
        for x, side, material, colour in zip(now.at(at), sides, materials, colours, strict=True):
            shadow(canvas, x, _FLOOR, side / 2, 0.0)
            block(canvas, x, _FLOOR - side / 2, side, side, material, colour)
        if now.strength:
            flash(canvas, now.touch_x, _FLOOR - min(sides) / 2, at - now.begin, now.strength)

    one, other = materials
    facts = {"boxes": f"two {one} boxes" if one == other else f"a {one} box and a {other} box"}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


KIND = FilmKind(
    "colliding",
    colliding,
    (
        "{boxes} collide",
        "{boxes} slide and collide with each other",
        "{boxes} colliding between two walls",
        "two boxes collide",
    ),
)

"""Balls that fall and bounce between a floor and two walls."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sounds.kind import Rng, pick
from sounds.materials import MATERIALS, make_body, strike
from sounds.words import number

from scenes.canvas import Canvas, Colour
from scenes.scene import COLOUR_NAMES, LOOKS, Event, FilmKind, Scene, ball, flash, shadow, wall_and_floor

_BOUNCE = {"rubber": 0.86, "wooden": 0.62, "metal": 0.7, "glass": 0.74}  # share of its speed that a ball keeps
_FLOOR = 0.86
_GRAVITY = 4.5  # heights a second, each second
_SLOWEST = 0.25  # speed below which a ball has come to rest


@dataclass(frozen=True)
class _Flight:
    """From `begin` on, a ball is at `x`, `y` with the speeds `vx`, `vy`; `weight` is the blow it began with."""

    begin: float
    x: float
    y: float
    vx: float
    vy: float
    gravity: float
    hit: str = ""
    strength: float = 0.0

    def at(self, seconds: float) -> tuple[float, float]:
        t = seconds - self.begin
        return self.x + self.vx * t, self.y + self.vy * t + 0.5 * self.gravity * t * t


def _flights(flight: _Flight, radius: float, keeps: float, width: float, seconds: float) -> list[_Flight]:
    """All flights of one ball, from the one given until the end of the film."""
    flights = [flight]
    while True:
        edge = width - radius if flight.vx > 0 else radius
        to_wall = (edge - flight.x) / flight.vx if flight.vx else math.inf
        drop = _FLOOR - radius - flight.y
        fall = (
            (-flight.vy + math.sqrt(flight.vy**2 + 2 * flight.gravity * drop)) / _GRAVITY
            if flight.gravity
            else math.inf
        )
        t = min(to_wall, fall)
        begin = flight.begin + t
        if begin > seconds - 0.05:
            return flights
        (x, y), vy = flight.at(begin), flight.vy + flight.gravity * t
        if t == to_wall:
            strength = min(1.0, abs(flight.vx) / 2.2)
            flight = _Flight(begin, edge, y, -keeps * flight.vx, vy, flight.gravity, "wall", strength)
        elif keeps * vy > _SLOWEST:
            strength = min(1.0, vy / 2.6)
            flight = _Flight(begin, x, _FLOOR - radius, 0.97 * flight.vx, -keeps * vy, _GRAVITY, "floor", strength)
        else:
            flight = _Flight(begin, x, _FLOOR - radius, 0.0, 0.0, 0.0, "rest")
        flights.append(flight)
        if not flight.gravity:
            return flights


@dataclass(frozen=True)
class _Ball:
    material: str
    colour: Colour
    radius: float
    flights: list[_Flight]

    def draw(self, canvas: Canvas, seconds: float) -> None:
        now = [flight for flight in self.flights if flight.begin <= seconds][-1]
        x, y = now.at(seconds)
        since = seconds - now.begin
        soft = self.material == "rubber" and now.hit == "floor"
        squash = 0.35 * now.strength * max(0.0, 1 - since / 0.07) if soft else 0.0
        shadow(canvas, x, _FLOOR, self.radius, _FLOOR - self.radius - y)
        ball(canvas, x, y + self.radius * squash, self.radius, self.material, self.colour, squash)
        if now.strength:
            foot = (now.x, _FLOOR) if now.hit == "floor" else (now.x + math.copysign(self.radius, -now.vx), now.y)
            flash(canvas, *foot, since, now.strength)


def bouncing(rng: Rng, seconds: float, width: float) -> Scene:
    count = int(rng.choice((1, 1, 2)))
    balls, events = [], []
    for place in range(count):
        material = pick(rng, tuple(_BOUNCE))
        radius = rng.uniform(0.06, 0.12)
        x = width * (rng.uniform(0.15, 0.85) if count == 1 else 0.3 + 0.4 * place)
        start = _Flight(0.0, x, rng.uniform(0.1, 0.45), rng.uniform(-0.5, 0.5), rng.uniform(-0.8, 0.8), _GRAVITY)
        flights = _flights(start, radius, _BOUNCE[material], width, seconds)
        balls.append(_Ball(material, pick(rng, LOOKS[material]), radius, flights))
        body = make_body(rng, MATERIALS[material], radius / 0.09)
        events += [
            Event(flight.begin, flight.x, strike(rng, body, flight.strength)) for flight in flights if flight.strength
        ]

    def draw(canvas: Canvas, at: float) -> None:
        for each in balls:
            each.draw(canvas, at)

    first = balls[0]
    alike = all(each.material == first.material for each in balls)
    what = first.material if alike else f"{first.material} and a {balls[1].material}"
    colour = COLOUR_NAMES.get(first.colour, "") if count == 1 else ""
    noun = f"{number(count)} {what} balls" if alike and count > 1 else f"a {colour} {what} ball"
    facts = {"balls": noun, "bounce": "bounce" if count > 1 else "bounces", "material": what}
    facts |= {"plain": "a ball" if count == 1 else "two balls"}
    return Scene(facts, events, wall_and_floor(rng, _FLOOR), draw)


KIND = FilmKind(
    "bouncing",
    bouncing,
    (
        "{balls} {bounce} on the floor",
        "{balls} {bounce}",
        "{balls} {bounce} in a room",
        "{plain} {bounce}",
        "bouncing: {balls}",
    ),
)

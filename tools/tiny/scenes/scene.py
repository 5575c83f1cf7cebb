"""What a kind of film is, and what the kinds share: looks of materials, backgrounds, the sound of events.

A kind plans a scene from a generator, seconds and the picture's width (in heights): its facts for the captions, its
events, its sound, and a function that draws it at any moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sounds.kind import Facts, Rng, Samples, samples_in
from sounds.mix import add_at, pan

from scenes.canvas import BLACK, WHITE, Canvas, Colour, mixed

LOOKS: dict[str, tuple[Colour, ...]] = {
    "rubber": ((0.85, 0.12, 0.15), (0.1, 0.35, 0.85), (0.1, 0.6, 0.25), (0.95, 0.45, 0.1)),
    "wooden": ((0.55, 0.33, 0.14), (0.68, 0.45, 0.22), (0.42, 0.24, 0.1)),
    "metal": ((0.55, 0.57, 0.62), (0.42, 0.44, 0.5)),
    "glass": ((0.65, 0.9, 0.95), (0.75, 0.95, 0.8)),
    "stone": ((0.35, 0.35, 0.33), (0.45, 0.42, 0.38)),
}
COLOUR_NAMES: dict[Colour, str] = dict(zip(LOOKS["rubber"], ("red", "blue", "green", "orange"), strict=True))
_WALLS: tuple[Colour, ...] = (
    (0.80, 0.84, 0.88),
    (0.88, 0.85, 0.78),
    (0.30, 0.34, 0.42),
    (0.72, 0.80, 0.72),
    (0.9, 0.9, 0.9),
)
_FLOORS: tuple[Colour, ...] = ((0.45, 0.38, 0.32), (0.25, 0.27, 0.3), (0.6, 0.58, 0.52), (0.35, 0.42, 0.38))


@dataclass(frozen=True)
class Event:
    """Something sounds: `sound` is mono and begins at `seconds`, at the place `x` of the picture."""

    seconds: float
    x: float
    sound: Samples


@dataclass(frozen=True)
class Scene:
    facts: Facts
    events: Sequence[Event]
    background: Callable[[Canvas], None]
    draw: Callable[[Canvas, float], None]


@dataclass(frozen=True)
class FilmKind:
    """One kind of film. `captions` are format strings over the scene's facts."""

    name: str
    plan: Callable[[Rng, float, float], Scene]
    captions: tuple[str, ...]


def soundtrack(events: Sequence[Event], seconds: float, width: float) -> Samples:
    """(2, N) samples of the events, each from where it is seen."""
    track = np.zeros((2, samples_in(seconds)))
    for event in events:
        add_at(track, pan(event.sound, 0.85 * float(np.clip(2 * event.x / width - 1, -1, 1))), event.seconds)
    return track


def wall_and_floor(rng: Rng, floor_y: float) -> Callable[[Canvas], None]:
    """A plain room with a floor whose upper edge is at `floor_y`."""
    wall, floor = _WALLS[rng.integers(len(_WALLS))], _FLOORS[rng.integers(len(_FLOORS))]

    def paint(canvas: Canvas) -> None:
        rows = (np.arange(canvas.scale, dtype=np.float32) + 0.5) / canvas.scale
        canvas.pixels[:] = np.asarray(wall, np.float32) * (0.85 + 0.15 * rows)[:, None, None]
        depth = 1 - floor_y
        canvas.box(canvas.width / 2, floor_y + depth / 2, canvas.width + 1, depth, floor)
        canvas.box(canvas.width / 2, floor_y, canvas.width + 1, 0.015, mixed(floor, BLACK, 0.4))

    return paint


def shadow(canvas: Canvas, x: float, floor_y: float, radius: float, height: float) -> None:
    """The shadow of something `height` above the floor: the nearer, the darker."""
    canvas.ellipse(x, floor_y + 0.02, radius * (1 + height), 0.02, BLACK, alpha=0.45 / (1 + 5 * max(0.0, height)))


def ball(canvas: Canvas, x: float, y: float, radius: float, material: str, colour: Colour, squash: float = 0.0) -> None:
    """A ball that looks like its material; `squash` is the share of its height that a blow takes."""
    across, down = radius * (1 + 0.5 * squash), radius * (1 - squash)
    light_x, light_y = x - 0.35 * radius, y - 0.4 * radius
    if material == "glass":
        canvas.ellipse(x, y, across, down, colour, alpha=0.45)
        canvas.ring(x, y, 0.92 * across, 0.92 * down, 0.2 * radius, mixed(colour, WHITE, 0.5), alpha=0.9)
        canvas.disc(light_x, light_y, 0.25 * radius, WHITE)
        return
    canvas.ellipse(x, y, across, down, mixed(colour, BLACK, 0.35))
    canvas.ellipse(x - 0.08 * radius, y - 0.1 * radius, 0.86 * across, 0.86 * down, colour)
    if material == "metal":
        canvas.disc(light_x, light_y, 0.5 * radius, mixed(colour, WHITE, 0.5))
        canvas.disc(light_x, light_y, 0.25 * radius, WHITE)
    elif material == "wooden":
        canvas.ring(x, y, 0.55 * across, 0.55 * down, 0.14 * radius, mixed(colour, BLACK, 0.45), alpha=0.8)
        canvas.disc(x, y, 0.16 * radius, mixed(colour, BLACK, 0.45))
    else:
        canvas.disc(light_x, light_y, 0.22 * radius, mixed(colour, WHITE, 0.35))


def block(
    canvas: Canvas, x: float, y: float, width: float, height: float, material: str, colour: Colour, angle: float = 0.0
) -> None:
    """A box that looks like its material."""
    glass = material == "glass"
    canvas.box(x, y, width, height, mixed(colour, WHITE, 0.5) if glass else mixed(colour, BLACK, 0.45), angle)
    inner = 0.86 if glass else 0.9
    canvas.box(x, y, inner * width, inner * height, colour, angle, alpha=0.7 if glass else 1.0)
    across, down = np.cos(angle), np.sin(angle)
    if material == "wooden":
        for share in (-0.22, 0.08, 0.3):
            canvas.box(x - share * height * down, y + share * height * across, 0.84 * width, 0.05 * height,
                       mixed(colour, BLACK, 0.35), angle)  # fmt: skip
    elif material in ("metal", "glass"):
        for share, line in ((-0.2, 0.16), (0.05, 0.06)):
            canvas.box(x + share * width * across, y + share * width * down, line * width, 0.8 * height,
                       mixed(colour, WHITE, 0.75), angle)  # fmt: skip


def flash(canvas: Canvas, x: float, y: float, since: float, strength: float) -> None:
    """The mark of a contact, for a tenth of a second after it."""
    if 0 <= since < 0.1:
        fresh = 1 - since / 0.1
        canvas.ring(x, y, 0.03 + 0.5 * since, 0.015 + 0.25 * since, 0.018, WHITE, alpha=0.8 * fresh * strength**0.5)

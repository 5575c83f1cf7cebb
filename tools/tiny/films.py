"""An endless corpus of short videos whose picture determines their sound; each is a pure function of (seed, index).

In: a seed, an index, optionally a frame count and a size. Out: a `Film`: 24 frames per second, stereo sound at 48 kHz
of the same length, a caption and the times of the impacts. Every block of len(kinds) indices has each kind once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from corpus import in_a_room, sentence
from numpy.typing import NDArray
from scenes import KINDS
from scenes.canvas import Canvas
from scenes.scene import FilmKind, soundtrack
from sounds.kind import RATE, pick

from sonolora.media.audio import Waveform

FRAME_RATE = 24
SIZE = (64, 96)  # height and width in pixels, multiples of the 32 that one video latent covers
FRAME_COUNTS = tuple(range(49, 122, 8))  # 2 to 5 seconds; video latents need 8k + 1 frames

_ORDER, _FILM = 3, 4  # random streams, distinct from those of the sounds
_IN_A_ROOM = 0.3
_LEVELS_DBFS = (-15.0, -1.0)


@dataclass(frozen=True, eq=False)
class Film:
    """`frames`: (frames, height, width, 3) uint8, RGB; frame i shows the scene at i / 24 s.

    `impacts`: time in seconds (sorted) and horizontal position (0 left, 1 right) of each event that begins a sound. The
    frame nearest to an impact shows the moment of contact.
    """

    frames: NDArray[np.uint8]
    audio: Waveform
    caption: str
    kind: str
    impacts: tuple[tuple[float, float], ...]

    @property
    def events(self) -> tuple[float, ...]:
        """The times of the impacts without duplicates, in seconds."""
        return tuple(sorted({seconds for seconds, _ in self.impacts}))


def film(
    seed: int,
    index: int,
    frame_count: int | None = None,
    size: tuple[int, int] = SIZE,
    kinds: Mapping[str, FilmKind] = KINDS,
) -> Film:
    """Film number `index` (from 0) of the corpus `seed`; a random number of frames by default.

    Raises `ValueError` for a height or width that is not a multiple of 32, a portrait size, and a frame count that is
    not 8k + 1 or is shorter than two seconds.
    """
    if size[0] % 32 or size[1] % 32 or size[1] < size[0]:
        raise ValueError(f"height and width must be multiples of 32, and the width the larger, not {size}")
    if frame_count is not None and (frame_count % 8 != 1 or frame_count < FRAME_COUNTS[0]):
        raise ValueError(f"the number of frames must be 8k + 1 and at least {FRAME_COUNTS[0]}, not {frame_count}")
    block, turn = divmod(index, len(kinds))
    order = np.random.default_rng([_ORDER, seed, block]).permutation(len(kinds))
    kind = list(kinds.values())[order[turn]]
    rng = np.random.default_rng([_FILM, seed, index])

    drawn_count = pick(rng, FRAME_COUNTS)
    frame_count = frame_count or drawn_count
    seconds, width = frame_count / FRAME_RATE, size[1] / size[0]
    scene = kind.plan(rng, seconds, width)
    while not scene.events:
        scene = kind.plan(rng, seconds, width)
    impacts = sorted({(event.seconds, event.x / width) for event in scene.events})

    background = Canvas(np.zeros((*size, 3), dtype=np.float32))
    scene.background(background)
    frames = np.empty((frame_count, *size, 3), dtype=np.uint8)
    for frame, moment in zip(frames, _moments(frame_count, [seconds for seconds, _ in impacts]), strict=True):
        canvas = Canvas(background.pixels.copy())
        scene.draw(canvas, moment)
        frame[:] = np.rint(np.clip(canvas.pixels, 0, 1) * 255)

    samples, where = in_a_room(rng, soundtrack(scene.events, seconds, width), _IN_A_ROOM)
    samples *= 10 ** (rng.uniform(*_LEVELS_DBFS) / 20) / np.abs(samples).max()
    caption = sentence(pick(rng, kind.captions), scene.facts)
    if where and rng.random() < 0.7:
        caption = f"{caption}, {where}"
    return Film(frames, Waveform(samples.astype(np.float32), RATE), caption, kind.name, tuple(impacts))


def _moments(frame_count: int, events: Sequence[float]) -> list[float]:
    """The time that each frame shows: its own, or that of a contact nearest to it."""
    moments = [frame / FRAME_RATE for frame in range(frame_count)]
    for event in events:
        moments[round(event * FRAME_RATE)] = event
    return moments

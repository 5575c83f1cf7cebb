"""What a page shows of sounds and clips, once their files are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sonolora.core.frames import Span


@dataclass(frozen=True)
class ShownSound:
    """A player and its spectrogram. `media` and `picture` are addresses relative to the page."""

    what: str
    media: str
    picture: str
    seconds: float
    highest_hertz: float


@dataclass(frozen=True)
class ShownClip:
    """What the page shows of a clip once its sounds and pictures are written."""

    name: str
    caption: str
    sounds: tuple[ShownSound, ...]  # the last is the one that is learned
    regenerate: tuple[Span, ...] | None

    @classmethod
    def parse(cls, saved: Mapping[str, Any]) -> ShownClip:
        """From its fields as JSON has them."""
        spans = saved["regenerate"]
        return cls(
            saved["name"],
            saved["caption"],
            tuple(ShownSound(**sound) for sound in saved["sounds"]),
            None if spans is None else tuple((start, end) for start, end in spans),
        )

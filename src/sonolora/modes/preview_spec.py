"""What a preview or `generate` is asked for, whatever the mode."""

from __future__ import annotations

from dataclasses import dataclass

from sonolora.core.frames import Span

MIN_SECONDS = 0.1  # of a sound that is given or asked for: the codec's window must fit in


@dataclass(frozen=True)
class VideoFormat:
    """What a video is brought to: a count of frames (8 k + 1), frames a second, and pixels (multiples of 32)."""

    frames: int
    frame_rate: float
    width: int
    height: int


@dataclass(frozen=True)
class PreviewSpec:
    """What a preview or `generate` is asked for. The addresses are URLs or paths."""

    prompt: str
    negative_prompt: str
    seconds: float
    source: str | None = None  # the sound of which a part is kept
    reference: str | None = None  # the sound to transform
    video: str | None = None  # the film to watch
    video_format: VideoFormat | None = None  # how it is watched; a shorter film makes the result shorter
    regenerate: tuple[Span, ...] | None = None  # seconds of the result that are new; None: all of it
    given_seconds: float | None = None  # how much of the source is used; None: as much as fits
    source_at_end: bool = False  # whether the source's end is the result's end, and not the beginnings
    normalize: bool = True  # bring the given sounds to the level of normalised training clips
    field: str = ""  # the request field of the address, for errors

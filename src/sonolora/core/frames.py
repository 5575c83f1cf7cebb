"""Seconds and latent frames: the only place where one becomes the other.

Training, previews, `generate`, the checks of a request and the report all come here. The codec is causal: frame 0 is
one mel frame of 10 ms, every later frame four of them, so frame i covers the seconds from 0.04 i - 0.03 to
0.04 i + 0.01, and T frames decode to 0.04 T - 0.03 s. Source: positions and codec of the published model.

Spans are pairs (start, end) of seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MEL_SECONDS = 0.01
MELS_PER_FRAME = 4
FRAME_SECONDS = MEL_SECONDS * MELS_PER_FRAME

# Of the video codec: a video has 8 k + 1 frames, and height and width are multiples of 32.
FRAMES_PER_LATENT = 8
PIXELS_PER_LATENT = 32

Span = tuple[float, float]

# Where the reference of a2a lies on the time axis: both from 0 s as the publisher trains, or before 0 s as in ComfyUI.
REFERENCE_POSITIONS = OVERLAP, NEGATIVE = "overlap", "negative"

# Far below one sample: keeps a rounded product from spilling into another frame.
_MARGIN = 1e-6


def frame_count(seconds: float) -> int:
    """The fewest latent frames that decode to at least `seconds` of sound: 126 for 5 s."""
    return max(1, math.ceil((seconds - MEL_SECONDS) / FRAME_SECONDS - _MARGIN) + 1)


def encoded_seconds(frames: int) -> float:
    """The length of sound that encodes to exactly `frames`; up to 30 ms more than a length of `frame_count` frames."""
    return (frames - 1) * FRAME_SECONDS


def frame_bounds(frames: int) -> list[Span]:
    """The seconds that each of the first `frames` frames covers."""
    ends = [MEL_SECONDS + FRAME_SECONDS * frame for frame in range(frames)]
    return [(max(0.0, end - FRAME_SECONDS), end) for end in ends]


def reference_offset(frames: int, positions: str) -> float:
    """Seconds by which a reference of `frames` frames is moved.

    `NEGATIVE`: its last frame ends one frame before 0 s, as the published dubbing pipeline and ComfyUI's node for
    reference audio have it.
    """
    return 0.0 if positions == OVERLAP else -(frame_bounds(frames)[-1][1] + FRAME_SECONDS)


def kept_frames(regenerate: Sequence[Span], frames: int) -> list[bool]:
    """Which frames are kept: those that touch no regenerated span."""
    return [
        not any(end > first + _MARGIN and start < last - _MARGIN for first, last in regenerate)
        for start, end in frame_bounds(frames)
    ]


def complement(spans: Sequence[Span], seconds: float) -> list[Span]:
    """What of [0, seconds] lies in none of the spans, in order."""
    rest, at = [], 0.0
    for start, end in sorted(spans):
        if start > at:
            rest.append((at, min(start, seconds)))
        at = max(at, end)
    if at < seconds:
        rest.append((at, seconds))
    return [(start, end) for start, end in rest if end > start]

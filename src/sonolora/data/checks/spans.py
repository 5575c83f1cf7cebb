"""Whether what is regenerated, and what is kept, is enough to learn from. In: spans. Out: warnings."""

from __future__ import annotations

from collections.abc import Sequence

from sonolora.core.errors import first_few
from sonolora.core.frames import FRAME_SECONDS, Span, complement, frame_count, kept_frames

MAX_MARKED, MIN_MARKED = 0.8, 0.05  # beyond, a clip teaches generating from nothing, or hardly anything
SPAN_FRAMES = 4  # shorter spans are mostly edge
FEW_FRAMES = 2

_MAX_SHOWN = 3


def mask_warnings(spans: Sequence[Span], seconds: float) -> list[str]:
    """The spans of a mask in a clip of `seconds`."""
    warnings = []
    marked = 1 - sum(end - start for start, end in complement(spans, seconds)) / seconds
    if marked > MAX_MARKED:
        warnings.append(
            f"{marked:.0%} of it is regenerated, which leaves little to blend with. Mark less, or train longer clips."
        )
    if marked < MIN_MARKED:
        warnings.append(
            f"only {marked:.1%} of it is regenerated, and only that is learned. Mark more, or train shorter clips."
        )
    shortest = SPAN_FRAMES * FRAME_SECONDS
    short = [(start, end) for start, end in spans if end - start < shortest - 1e-6]
    if short:
        shown = first_few([f"{start:g}-{end:g} s" for start, end in short], _MAX_SHOWN)
        warnings.append(
            f"marks less than {SPAN_FRAMES} latent frames ({shortest:g} s) at a time, too little to learn from: "
            f"{shown}. Make such spans longer."
        )
    return warnings


def conditioning_warnings(regenerated: Sequence[Span], seconds: float) -> list[str]:
    """The span that every clip of `seconds` has in common, as an extension has; about `conditioning_seconds`."""
    frames = frame_count(seconds)
    kept = sum(kept_frames(regenerated, frames))
    given = seconds - sum(end - start for start, end in regenerated)
    warnings = []
    for count, what, remedy in (
        (frames - kept, "to generate", "Lower it"),
        (kept, "to continue from", "Raise it"),
    ):
        if count <= FEW_FRAMES:
            latent_frames = f"{count} latent frame{'' if count == 1 else 's'}"
            warnings.append(
                f"conditioning_seconds of {given:g} leave {latent_frames} of {FRAME_SECONDS:g} s {what} in clips of "
                f"{seconds:g} s: too little to learn from. {remedy}, or train longer clips."
            )
    return warnings

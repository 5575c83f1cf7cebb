"""Inpainting a recording that is longer than the training clips: which stretches of it the model works on.

In: the spans to regenerate, the lengths of the recording and of a training clip. Out: regions of the trained length
around the spans, with context on both sides. All in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sonolora.core.frames import FRAME_SECONDS, Span

CONTEXT = 0.125  # share of a training clip that is kept on either side of the spans, at least


@dataclass(frozen=True)
class Region:
    """`paste`: the spans that are replaced by what is generated here. `regenerate`: these, and what the region has of
    the spans that other regions replace: their old content is not to be used as context."""

    start: float
    end: float
    paste: tuple[Span, ...]
    regenerate: tuple[Span, ...]


def plan_regions(spans: Sequence[Span], seconds: float, trained_seconds: float) -> list[Region]:
    """Regions that replace all spans, which lie within `seconds`; spans close together share a region.

    A recording of the trained length or less is one region. A span that leaves no room for the context makes a region
    longer than the training clips.
    """
    merged = merge_spans(spans)
    if seconds <= trained_seconds + FRAME_SECONDS:
        return [Region(0.0, seconds, tuple(merged), tuple(merged))]
    room = trained_seconds * (1 - 2 * CONTEXT)
    groups: list[list[Span]] = []
    for span in merged:
        if groups and span[1] - groups[-1][0][0] <= room:
            groups[-1].append(span)
        else:
            groups.append([span])
    return [_around(tuple(group), merged, seconds, trained_seconds) for group in groups]


def _around(paste: tuple[Span, ...], spans: Sequence[Span], seconds: float, trained_seconds: float) -> Region:
    first, last = paste[0][0], paste[-1][1]
    length = min(seconds, max(trained_seconds, last - first + 2 * CONTEXT * trained_seconds))
    start = min(max(0.0, (first + last - length) / 2), seconds - length)
    end = start + length
    regenerate = tuple((max(a, start), min(b, end)) for a, b in spans if a < end and b > start)
    return Region(start, end, paste, regenerate)


def merge_spans(spans: Sequence[Span]) -> list[Span]:
    """In order; those that touch or overlap become one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged

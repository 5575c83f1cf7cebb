"""Where a recording is inpainted: regions of the length of the training clips around the spans.

In: the spans to regenerate, the lengths of the recording and of a training clip. Out: regions in the order in which
they are generated; each has the results of those before it as context. All in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sonolora.core.frames import FRAME_SECONDS, Span

CONTEXT = 0.125  # share of a training clip that is kept on either side of the spans of a region, at least


@dataclass(frozen=True)
class Region:
    """A stretch of the recording that the model is given.

    `paste`: the spans that the result replaces. `regenerate`: these, and what the region has of spans that later
    regions replace: their old content is no context.
    """

    start: float
    end: float
    paste: tuple[Span, ...]
    regenerate: tuple[Span, ...]


def plan_inpainting(spans: Sequence[Span], seconds: float, trained_seconds: float) -> list[Region]:
    """Regions that replace all spans, which lie within `seconds`, with context on both sides.

    Spans close together share a region. A recording of the trained length or less is one region; a span that leaves no
    room for the context makes a region longer than the training clips.
    """
    merged = _merged(spans)
    if seconds <= trained_seconds + FRAME_SECONDS:
        return [Region(0.0, seconds, tuple(merged), tuple(merged))]
    room = trained_seconds * (1 - 2 * CONTEXT)
    groups: list[list[Span]] = []
    for span in merged:
        if groups and span[1] - groups[-1][0][0] <= room:
            groups[-1].append(span)
        else:
            groups.append([span])
    regions = []
    for index, group in enumerate(groups):
        first, last = group[0][0], group[-1][1]
        length = min(seconds, max(trained_seconds, last - first + 2 * CONTEXT * trained_seconds))
        start = min(max(0.0, (first + last - length) / 2), seconds - length)
        end = start + length
        left = [span for later in groups[index:] for span in later]
        regenerate = tuple((max(a, start), min(b, end)) for a, b in left if a < end and b > start)
        regions.append(Region(start, end, tuple(group), regenerate))
    return regions


def _merged(spans: Sequence[Span]) -> list[Span]:
    """In order; those that touch or overlap become one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged

"""Where a video cuts. In: a path. Out: the scenes as spans of seconds."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from av.filter import Graph
from av.video.format import VideoFormat

from sonolora.media.container import open_media
from sonolora.media.timeline import shown_frames, video_stream

_SIZE = 160, 90  # pixels: enough to detect a cut, and few enough for noise to average out
_SHORTEST = 0.5  # seconds: a cut sooner after another, or before the end, does not count


def scene_spans(path: Path, threshold: float = 10.0) -> list[tuple[float, float]]:
    """Begin and end of each scene in seconds since the first frame; together they cover the whole video.

    A cut is a frame to which FFmpeg's `scdet` gives a score of `threshold` or more: how much more it differs from the
    previous frame than that one did from its own, on a scale of 0 to 100. Fades are not detected.

    MediaError: no video, or damaged.
    """
    graph = Graph()
    source = graph.add_buffer(width=_SIZE[0], height=_SIZE[1], format=VideoFormat("rgb24"), time_base=Fraction(1))
    graph.link_nodes(source, graph.add("scdet", f"t={threshold}"), graph.add("buffersink")).configure()
    edges, end = [0.0], 0.0
    with open_media(path) as media:
        for shown in shown_frames(media, video_stream(media)):
            graph.vpush(shown.frame.reformat(*_SIZE, "rgb24", interpolation="AREA"))
            is_cut = "lavfi.scd.time" in graph.vpull().metadata
            if is_cut and shown.begin - edges[-1] >= _SHORTEST:
                edges.append(shown.begin)
            end = shown.end
    if len(edges) > 1 and end - edges[-1] < _SHORTEST:
        edges.pop()
    return list(pairwise([*edges, end]))

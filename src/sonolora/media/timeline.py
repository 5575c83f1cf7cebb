"""When each frame of a video is shown. In: an open container. Out: frames with their seconds, in order of time.

Time zero, for picture and sound alike, is the moment at which the first frame is shown. Edit lists, encoder
delays and streams that start late are already in the timestamps that FFmpeg gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sonolora.core.errors import MediaError

CLOCK = 0.0015  # seconds: no timestamp is further off than this; Matroska counts whole milliseconds

_SEEK_LEAD = 1.0  # seconds: an index may go by the order of decoding, which runs ahead of what is shown


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """A frame and the seconds at which it appears and, by its nominal length, disappears."""

    begin: float
    end: float
    frame: VideoFrame


def picture_stream(path: Path, container: InputContainer) -> VideoStream:
    """The stream that players show. MediaError if there is none, or only the cover of a record."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise MediaError(path, "there is no moving picture in it")
    return stream


def time_zero(stream: VideoStream) -> float:
    """When the first frame is shown by the clock of the file, in seconds."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def is_avi(container: InputContainer) -> bool:
    """Whether the file knows only the order of decoding, so that the stamps to go by are `dts`."""
    return container.format.name == "avi"


def shown_frames(
    path: Path, container: InputContainer, stream: VideoStream, start: float = 0.0
) -> Iterator[ShownFrame]:
    """The frames in order of time, from one at or before `start` on, if there is any.

    The first is a key frame: what stands before it, after a cut without encoding anew, cannot be decoded.
    MediaError for damage.
    """
    stream.thread_type = "AUTO"
    tick = float(stream.time_base or 0)
    nominal = 1 / float(stream.average_rate or 24)
    # A decoder that puts frames in order gives the first one late; in AVI its `dts` is late by as much, which
    # only shows when decoding from the beginning.
    zero = None if is_avi(container) else time_zero(stream)
    if zero is not None and start > _SEEK_LEAD:
        with suppress(av.FFmpegError):  # a file without an index is decoded from its beginning
            container.seek(round((zero + start - _SEEK_LEAD) / tick), stream=stream)
    begun, end = False, 0.0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            begun = begun or packet.is_keyframe
            frames = packet.decode() if begun else []
        except av.FFmpegError as error:
            raise MediaError(path, f"damaged: its picture cannot be decoded at {end:.2f} s") from error
        for frame in frames:
            stamp = frame.dts if is_avi(container) else frame.pts
            if zero is None:
                zero = (stamp or 0) * tick
            begin = end if stamp is None else stamp * tick - zero  # the last ones of a decoder bear no `dts`
            if frame.is_corrupt:
                raise MediaError(path, f"damaged: its picture is broken at {begin:.2f} s")
            end = begin + (frame.duration * tick or nominal)
            yield ShownFrame(begin, end, frame)

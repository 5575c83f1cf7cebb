"""When each frame of a video is shown. In: an open file. Out: frames with their times, in presentation order.

Time zero, for picture and sound alike, is when the first frame is shown. Edit lists, encoder delays and streams that
start late are already in the timestamps that FFmpeg gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from sonolora.core.errors import MediaError
from sonolora.media.container import MAX_PIXELS, MediaFile

CLOCK = 0.0015  # seconds: no timestamp is off by more; Matroska counts whole milliseconds

_SEEK_LEAD = 1.0  # seconds: an index may be in decoding order, which runs ahead of presentation order


@dataclass(frozen=True, eq=False)
class ShownFrame:
    """A frame and the seconds at which it appears and, by its nominal duration, disappears."""

    begin: float
    end: float
    frame: VideoFrame


def video_stream(media: MediaFile) -> VideoStream:
    """The video stream that players select.

    MediaError if there is none, if it is only cover art, if its codec is unknown or its picture too large.
    """
    stream = media.container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        raise MediaError(media.path, "there is no moving picture in it")
    if stream.codec_context is None:
        raise MediaError(media.path, "its video codec is unknown: convert it to H.264")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise MediaError(
            media.path, f"a picture of {width} x {height} pixels is too large: scale it down to 8K or less"
        )
    return stream


def time_zero(stream: VideoStream) -> float:
    """When the first frame is shown by the clock of the file, in seconds."""
    return float((stream.start_time or 0) * (stream.time_base or 0))


def is_avi(container: InputContainer) -> bool:
    """Whether the file knows only the decoding order, so that the timestamps to go by are `dts`."""
    return container.format.name == "avi"


def shown_frames(media: MediaFile, stream: VideoStream, start: float = 0.0) -> Iterator[ShownFrame]:
    """The frames in presentation order, from one at or before `start` on, if there is any.

    The first is a key frame: what precedes it, after a cut without re-encoding, cannot be decoded.
    MediaError for damage.
    """
    stream.thread_type = "AUTO"
    tick = float(stream.time_base or 0)
    nominal = 1 / float(stream.average_rate or 24)
    # A decoder that reorders frames outputs the first one late; in AVI its `dts` is late by as much, which only shows
    # when decoding starts at the beginning.
    zero = None if is_avi(media.container) else time_zero(stream)
    if zero is not None and start > _SEEK_LEAD:
        with suppress(av.FFmpegError):  # a file without an index is decoded from its beginning
            media.container.seek(round((zero + start - _SEEK_LEAD) / tick), stream=stream)
    begun, end = False, 0.0
    packets = media.packets(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            begun = begun or packet.is_keyframe
            frames = stream.decode(packet) if begun else []
        except av.FFmpegError as error:
            raise MediaError(media.path, f"damaged: its picture cannot be decoded at {end:.2f} s") from error
        for frame in frames:
            stamp = frame.dts if is_avi(media.container) else frame.pts
            if zero is None:
                zero = (stamp or 0) * tick
            begin = end if stamp is None else stamp * tick - zero  # the last frames of a decoder have no `dts`
            if frame.is_corrupt:
                raise MediaError(media.path, f"damaged: its picture is broken at {begin:.2f} s")
            end = begin + (frame.duration * tick or nominal)
            yield ShownFrame(begin, end, frame)

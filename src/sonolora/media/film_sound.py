"""A film with another sound. In: a video file and a `Waveform`. Out: an .mp4 whose picture is that of the file.

The picture is copied packet by packet where .mp4 can hold it, else encoded again.
"""

from __future__ import annotations

import math
from pathlib import Path

import av
from av.video.stream import VideoStream

from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.video import decode_frames, probe_video
from sonolora.media.write_video import write_sound, write_video

_COPIED = ("h264", "hevc", "av1", "vp9", "mpeg4")  # codecs of .mp4 that players know
_RATE = 48_000


def write_film(path: Path, film: Path, sound: Waveform) -> None:
    """Write the film with this sound in place of its own, as long as the sound. Raises `MediaError` for no video."""
    info = probe_video(film)
    with av.open(f"file:{film}") as source:
        (picture,) = source.streams.video[:1]
        copied = picture.codec_context.name in _COPIED
    if not copied:
        frames = max(1, min(info.frames, math.ceil(sound.seconds * info.fps)))
        width, height = info.width // 2 * 2, info.height // 2 * 2
        pixels = decode_frames(film, frame_rate=info.fps, frames=frames, width=width, height=height)
        write_video(path, pixels, info.fps, sound)
        return
    with (
        atomic_write(path) as temporary,
        av.open(f"file:{film}") as source,
        av.open(f"file:{temporary}", "w", format="mp4") as container,
    ):
        given = source.streams.video[0]
        made = container.add_stream_from_template(given)
        assert isinstance(made, VideoStream)
        write_sound(container, "aac", to_stereo(resample(sound, _RATE)))
        for packet in source.demux(given):
            if packet.dts is None or packet.time_base is None:
                continue
            if packet.pts is not None and float(packet.pts * packet.time_base) > sound.seconds:
                continue
            packet.stream = made
            container.mux(packet)

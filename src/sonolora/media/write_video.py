"""Writing video. In: a path, frames and a `Waveform`. Out: the complete file, or `OutputError` and no file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.video import VIDEO_EXTENSIONS, customary_matrix
from sonolora.media.write_audio import REPEATABLE

# Video codec, its pixel format and options, audio codec. MP3, which is usual in AVI, would start late: AVI cannot
# declare encoder padding.
_CODECS: dict[str, tuple[str, str, dict[str, str], str]] = {
    ".mp4": ("libx264", "yuv420p", {"crf": "16"}, "aac"),
    ".mov": ("libx264", "yuv420p", {"crf": "16"}, "pcm_s16le"),
    ".avi": ("mpeg4", "yuv420p", {"flags": "+qscale", "global_quality": "236"}, "pcm_s16le"),
    ".mkv": ("ffv1", "bgr0", {}, "flac"),
}
_COMMON_RATE = 48_000


def write_video(path: Path, frames: NDArray[np.uint8], frame_rate: float, waveform: Waveform | None) -> None:
    """Write RGB frames (frames, height, width, 3) and their sound, None for a video without sound.

    The extension, one of VIDEO_EXTENSIONS, names the format: H.264 with AAC in `.mp4` and with PCM in `.mov`, MPEG-4
    with PCM in `.avi`, and the lossless FFV1 with FLAC in `.mkv`. Except in `.mkv`, width and height must be even.
    """
    suffix = path.suffix.lower()
    if suffix not in _CODECS:
        raise ValueError(f"{path.name}: the extension is none of {', '.join(VIDEO_EXTENSIONS)}")
    picture_codec, pixels, options, sound_codec = _CODECS[suffix]
    height, width = frames.shape[1:3]
    if pixels == "yuv420p" and (width % 2 or height % 2):
        raise ValueError(f"{path.name}: width and height must be even, not {width} x {height}")

    # MPEG-4 cannot name its colour matrix, so all files use the customary one.
    matrix = customary_matrix(height) if pixels == "yuv420p" else None
    rate = Fraction(frame_rate).limit_denominator(1001)
    with atomic_write(path) as temporary, av.open(f"file:{temporary}", "w", options=REPEATABLE) as container:
        picture = container.add_stream(picture_codec, rate, options, width=width, height=height, pix_fmt=pixels)
        assert isinstance(picture, VideoStream)
        if waveform is not None:
            write_sound(container, sound_codec, to_stereo(waveform))
        for index, pixels_of_frame in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(pixels_of_frame)
            frame = rgb.reformat(format=pixels, dst_colorspace=matrix)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))


def write_sound(container: OutputContainer, codec: str, stereo: Waveform) -> None:
    """Add a track with all of a stereo sound; every other stream must have been added before."""
    rates = av.Codec(codec, "w").audio_rates
    if rates and stereo.sample_rate not in rates:
        stereo = resample(stereo, _COMMON_RATE)
    stream = container.add_stream(codec, stereo.sample_rate, layout="stereo")
    assert isinstance(stream, AudioStream)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(stereo.samples.T).reshape(1, -1), "flt", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = stereo.sample_rate, 0, Fraction(1, stereo.sample_rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

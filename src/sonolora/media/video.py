"""The picture of a video as an array. In: a path, times and a size. Out: RGB frames; and the properties of a file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio_track import audio_streams
from sonolora.media.container import MediaFile, open_media
from sonolora.media.timeline import CLOCK, ShownFrame, is_avi, shown_frames, time_zero, video_stream

VIDEO_EXTENSIONS: tuple[str, ...] = (".mp4", ".mov", ".avi", ".mkv")
IMAGE_EXTENSIONS: tuple[str, ...] = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)

Resolution = Literal["low", "medium", "high"]
AspectRatio = Literal["16:9", "1:1", "9:16"]

_SIDES = {"low": (512, 288), "medium": (768, 448), "high": (960, 544)}  # of 16:9

_UNLABELLED = 2  # FFmpeg's number for an unspecified colour matrix
_HD_HEIGHT = 720  # pixels
_MISSING_SECONDS = 0.5  # by which the declared length may exceed the actual one


def frame_size(resolution: Resolution, aspect_ratio: AspectRatio) -> tuple[int, int]:
    """Width and height by the published table; both are multiples of the 32 pixels of a latent."""
    long, short = _SIDES[resolution]
    return {"16:9": (long, short), "1:1": (long, long), "9:16": (short, long)}[aspect_ratio]


def customary_matrix(height: int) -> Colorspace:
    """The colour matrix that players assume where a file names none."""
    return Colorspace.ITU709 if height >= _HD_HEIGHT else Colorspace.ITU601


@dataclass(frozen=True)
class VideoInfo:
    """Properties of a video. Seconds count from its first frame.

    `width`, `height`: as displayed, rotated as the file says and with square pixels. `frames`: counted.
    `fps`: their mean rate. `audio_seconds`: when the sound ends; None without an audio track or with an empty one.
    `warning`: what is missing, in words.
    """

    width: int
    height: int
    frames: int
    fps: float
    seconds: float
    variable_frame_rate: bool
    audio_seconds: float | None
    warning: str | None

    @property
    def has_audio(self) -> bool:
        return self.audio_seconds is not None


def probe_video(path: Path) -> VideoInfo:
    """Read every packet and decode the first frame.

    MediaError: see `open_media` and `video_stream`; nothing of the picture can be decoded.
    """
    begins: list[float] = []
    ends: list[float] = []
    sound_ends: list[float] = []
    first: VideoFrame | None = None
    with open_media(path) as media:
        container, picture, sound = media.container, video_stream(media), _sound_stream(media)
        zero, nominal = time_zero(picture), 1 / float(picture.average_rate or 24)
        with suppress(av.FFmpegError):  # the container may break off
            for packet in media.packets(picture, *([sound] if sound else [])):
                of_picture = packet.stream is picture
                stamp = packet.dts if of_picture and is_avi(container) else packet.pts
                if first is None and of_picture:
                    with suppress(av.FFmpegError):
                        first = next(iter(picture.decode(packet)), None)
                if stamp is None or packet.is_discard:
                    continue
                begin = float(stamp * packet.time_base) - zero
                length = float((packet.duration or 0) * packet.time_base)
                if of_picture:
                    begins.append(begin)
                    ends.append(begin + (length or nominal))
                else:
                    sound_ends.append(begin + length)
        if first is None or not ends:
            raise MediaError(path, "none of its picture can be decoded: it is damaged, empty or too large")
        width, height = _shown_size(first, picture)
        declared = (container.duration or 0) / av.time_base
        if is_avi(container):  # here FFmpeg takes the length from the packets
            declared = max(declared, picture.frames * nominal)

    seconds = max(ends)
    gaps = np.diff(np.sort(begins))
    uneven = np.count_nonzero(np.abs(gaps - np.median(gaps)) > 2 * CLOCK) if len(gaps) else 0
    actual = max(ends + sound_ends) - min(begins)
    warning = None
    if declared - actual > _MISSING_SECONDS:
        warning = f"damaged or cut short: its header says {declared:.2f} s, it has {actual:.2f} s"
    return VideoInfo(
        *((height, width) if first.rotation % 180 else (width, height)),
        frames=len(begins),
        fps=len(begins) / seconds,
        seconds=seconds,
        variable_frame_rate=bool(uneven > len(gaps) / 20),  # a single long frame does not make the rate variable
        audio_seconds=max(sound_ends, default=None),
        warning=warning,
    )


def decode_frames(
    path: Path,
    *,
    frame_rate: float,
    frames: int,
    width: int,
    height: int,
    start: float = 0.0,
    speed: float = 1.0,
    repeat_last: bool = False,
) -> NDArray[np.uint8]:
    """RGB frames (frames, height, width, 3), the i-th as shown at second start + i * speed / frame_rate.

    Scaled (bicubic) to fill the size at their aspect ratio, and cropped about the centre. High dynamic range is not
    tone-mapped. With `repeat_last`, the last frame is repeated for times after the end.

    MediaError: no video, damaged in the part that is read, or over before the last of these times.
    """
    times = start + np.arange(frames) * speed / frame_rate  # seconds
    result = np.empty((frames, height, width, 3), np.uint8)
    filled = 0
    with open_media(path) as media:
        stream = video_stream(media)
        previous: ShownFrame | None = None
        for shown in shown_frames(media, stream, start):
            until = int(np.searchsorted(times, shown.begin - CLOCK))
            if previous and until > filled:
                result[filled:until] = _scaled(previous.frame, stream, width, height)
                filled = until
            if filled == frames:
                return result
            previous = shown
        end = previous.end if previous else 0.0
        if previous is None or (times[-1] > end - CLOCK and not repeat_last):
            raise MediaError(path, f"its picture ends at {end:.2f} s, and is needed until {times[-1]:.2f} s")
        result[filled:] = _scaled(previous.frame, stream, width, height)
    return result


def _shown_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height in square pixels, before rotation."""
    return round(frame.width * (stream.sample_aspect_ratio or 1)), frame.height


def _sound_stream(media: MediaFile) -> AudioStream | None:
    """The audio stream that is decoded; one of an unknown codec if there is no other."""
    if not media.container.streams.audio:
        return None
    with suppress(MediaError):
        return audio_streams(media, default=True)[0]
    return media.container.streams.audio[0]


def _scaled(frame: VideoFrame, stream: VideoStream, width: int, height: int) -> NDArray[np.uint8]:
    """The frame rotated, scaled and cropped to (height, width, 3)."""
    turns = round(frame.rotation / 90)  # counterclockwise
    across, down = (height, width) if turns % 2 else (width, height)
    shown_width, shown_height = _shown_size(frame, stream)
    scale = max(across / shown_width, down / shown_height)
    unlabelled = frame.colorspace == _UNLABELLED and not frame.format.is_rgb
    scaled = frame.reformat(
        max(across, round(shown_width * scale)),
        max(down, round(shown_height * scale)),
        "rgb24",
        src_colorspace=customary_matrix(frame.height) if unlabelled else None,
        interpolation="BICUBIC",
    )
    pixels = scaled.to_ndarray()
    top, left = (pixels.shape[0] - down) // 2, (pixels.shape[1] - across) // 2
    return np.rot90(pixels[top : top + down, left : left + across], turns)

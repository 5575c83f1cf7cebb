"""The picture of a video as an array. In: a path, wanted times and a size. Out: RGB frames; and what a file holds."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.container import open_media
from sonolora.media.timeline import CLOCK, ShownFrame, is_avi, picture_stream, shown_frames, time_zero

VIDEO_EXTENSIONS: tuple[str, ...] = (".mp4", ".mov", ".avi", ".mkv")
IMAGE_EXTENSIONS: tuple[str, ...] = (
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)

Resolution = Literal["low", "medium", "high"]
AspectRatio = Literal["16:9", "1:1", "9:16"]

_SIDES = {"low": (512, 288), "medium": (768, 448), "high": (960, 544)}  # of 16:9

_UNLABELLED = 2  # FFmpeg's number for a colour matrix that nobody named
_HD_HEIGHT = 720  # pixels
_MISSING_SECONDS = 0.5  # what a declared length may exceed the found one by


def frame_size(resolution: Resolution, aspect_ratio: AspectRatio) -> tuple[int, int]:
    """Width and height by the published table; both divide by the 32 pixels of a latent."""
    long, short = _SIDES[resolution]
    return {"16:9": (long, short), "1:1": (long, long), "9:16": (short, long)}[aspect_ratio]


def customary_matrix(height: int) -> Colorspace:
    """The colour matrix of a picture that names none, as players take it."""
    return Colorspace.ITU709 if height >= _HD_HEIGHT else Colorspace.ITU601


@dataclass(frozen=True)
class VideoInfo:
    """What a video holds. Seconds count from its first frame.

    `width`, `height`: as shown, turned the way the file says and with square pixels. `frames`: counted.
    `fps`: their mean rate. `audio_seconds`: when the sound ends, None without an audio track or with an empty
    one. `warning`: what is missing, in words.
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

    MediaError: not media, no moving picture, or none of it can be decoded.
    """
    begins: list[float] = []
    ends: list[float] = []
    sound_ends: list[float] = []
    first: VideoFrame | None = None
    with open_media(path) as container:
        picture, sound = picture_stream(path, container), container.streams.best("audio")
        zero, nominal = time_zero(picture), 1 / float(picture.average_rate or 24)
        with suppress(av.FFmpegError):  # the container may break off
            for packet in container.demux(picture, *([sound] if sound else [])):
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
            raise MediaError(path, "none of its picture can be decoded: it is damaged or empty")
        width, height = _shown_size(first, picture)
        declared = (container.duration or 0) / av.time_base
        if is_avi(container):  # where FFmpeg takes the length from what it finds
            declared = max(declared, picture.frames * nominal)

    seconds = max(ends)
    gaps = np.diff(np.sort(begins))
    uneven = np.count_nonzero(np.abs(gaps - np.median(gaps)) > 2 * CLOCK) if len(gaps) else 0
    found = max(ends + sound_ends) - min(begins)
    warning = None
    if declared - found > _MISSING_SECONDS:
        warning = f"damaged or cut short: its header says {declared:.2f} s, {found:.2f} s are there"
    return VideoInfo(
        *((height, width) if first.rotation % 180 else (width, height)),
        frames=len(begins),
        fps=len(begins) / seconds,
        seconds=seconds,
        variable_frame_rate=bool(uneven > len(gaps) / 20),  # one frame held longer is no variable rate
        audio_seconds=max(sound_ends, default=None),
        warning=warning,
    )


def decode_frames(
    path: Path, *, frame_rate: float, frames: int, width: int, height: int, start: float = 0.0, speed: float = 1.0
) -> NDArray[np.uint8]:
    """RGB frames (frames, height, width, 3), the i-th as shown at second start + i * speed / frame_rate.

    Scaled (bicubic) to fill the size at their aspect ratio, and cropped about the centre. High dynamic range
    is not tone-mapped.

    MediaError: no video, damaged in the part that is read, or over before the last of these times.
    """
    wanted = start + np.arange(frames) * speed / frame_rate  # seconds
    result = np.empty((frames, height, width, 3), np.uint8)
    filled = 0
    with open_media(path) as container:
        stream = picture_stream(path, container)
        previous: ShownFrame | None = None
        for shown in shown_frames(path, container, stream, start):
            until = int(np.searchsorted(wanted, shown.begin - CLOCK))
            if previous and until > filled:
                result[filled:until] = _filling(previous.frame, stream, width, height)
                filled = until
            if filled == frames:
                return result
            previous = shown
        end = previous.end if previous else 0.0
        if previous is None or wanted[-1] > end - CLOCK:
            raise MediaError(path, f"its picture ends at {end:.2f} s, and is needed until {wanted[-1]:.2f} s")
        result[filled:] = _filling(previous.frame, stream, width, height)
    return result


def _shown_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    """Width and height in square pixels, before turning."""
    return round(frame.width * (stream.sample_aspect_ratio or 1)), frame.height


def _filling(frame: VideoFrame, stream: VideoStream, width: int, height: int) -> NDArray[np.uint8]:
    """The frame as (height, width, 3)."""
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

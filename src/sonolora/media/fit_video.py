"""Fitting a video to the frames that training needs. In: a path, a frame count and a frame rate. Out: frames and sound
of equal length, or the reason why the video is too short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.fit_audio import cut_or_padded, stretched
from sonolora.media.soundtrack import MAX_SECONDS, decode_soundtrack
from sonolora.media.video import decode_frames, probe_video

_SAME_RATE = 0.01  # of the frame rate: 23.976 counts as 24
_CLEAN_STRETCH = 2.0  # times faster or slower; beyond, short sounds smear and move by more than a frame


@dataclass(frozen=True, eq=False)
class FittedVideo:
    """`frames`: (frames, height, width, 3) uint8. `waveform`: stereo, round(frames / frame_rate * sample_rate) samples.

    `detail` and `warnings` are sentences for the report.
    """

    frames: NDArray[np.uint8]
    waveform: Waveform
    how: Literal["exact", "resampled", "trimmed", "retimed"]
    detail: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TooShort:
    """The video has `frames`, fewer than needed; `detail` is a sentence for the report."""

    frames: int
    detail: str


def fit_video(
    path: Path,
    *,
    number_of_frames: int,
    frame_rate: float,
    width: int,
    height: int,
    sample_rate: int,
    auto_scale: bool,
    start: float = 0.0,
    end: float | None = None,
) -> FittedVideo | TooShort:
    """Fit a video, or the scene from `start` to `end` seconds, to number_of_frames / frame_rate seconds.

    A video needs `number_of_frames` frames of its own, as the published page says. Its beginning is taken at its own
    speed; if its frame rate is so high that they last less than the target, it is slowed down to it, the sound at its
    pitch. With `auto_scale` all of a video is played faster or slower to the target, however many frames it has. A
    difference of less than half a frame is ignored.

    MediaError: see `decode_frames` and `decode_soundtrack`; no audio track; too long to be sped up.
    """
    info = probe_video(path)
    seconds = (info.seconds if end is None else end) - start
    target = number_of_frames / frame_rate
    surplus = seconds - target
    half_a_frame = 0.5 / frame_rate
    frames_present = info.frames if start == 0 and end is None else round(seconds * info.fps)
    actual = f"{seconds:.2f} s at {info.fps:.3g} fps"
    wanted = f"{target:.2f} s at {frame_rate:g} fps ({number_of_frames} frames)"

    how: Literal["exact", "resampled", "trimmed", "retimed"]
    speed = 1.0
    if frames_present < number_of_frames and not auto_scale:
        needed = f"it has {frames_present} frames, and {number_of_frames} are needed"
        return TooShort(frames_present, f"too short: {needed}; auto_scale_input would slow it down")
    if surplus < -half_a_frame or (auto_scale and surplus >= half_a_frame):
        speed = seconds / target
        how = "retimed"
        detail = f"{'sped up' if surplus > 0 else 'slowed down'} from {actual} to {wanted}, the sound at its pitch"
    elif surplus >= half_a_frame:
        how, detail = "trimmed", f"trimmed from {actual} to {wanted}"
    elif abs(info.fps / frame_rate - 1) > _SAME_RATE or info.variable_frame_rate:
        how, detail = "resampled", f"resampled from {actual} to {wanted}"
    else:
        how, detail = "exact", f"{actual}, as needed"

    if speed * target > max(target, MAX_SECONDS):
        reason = f"its {seconds:.0f} s would be played {speed:.0f} times faster: cut it, or turn auto_scale_input off"
        raise MediaError(path, reason)
    decoded = decode_soundtrack(path, start, speed * target)
    sound = resample(to_stereo(decoded.waveform), sample_rate)
    samples = round(target * sample_rate)
    sound = cut_or_padded(sound, samples) if speed == 1.0 else stretched(sound, samples)
    frames = decode_frames(
        path,
        frame_rate=frame_rate,
        frames=number_of_frames,
        width=width,
        height=height,
        start=start,
        speed=speed,
    )
    warnings = [text for text in (info.warning, decoded.warning) if text]
    if not 1 / _CLEAN_STRETCH <= speed <= _CLEAN_STRETCH:
        warnings.append(f"played at {speed:.2g} times its speed, which smears the sound")
    return FittedVideo(frames, sound, how, detail, tuple(warnings))

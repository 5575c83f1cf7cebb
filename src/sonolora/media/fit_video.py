"""Fitting a video to the frames that training wants. In: a path, a count and a rate. Out: frames and sound of equal
length, or the reason why the video is too short."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sonolora.media.audio import Waveform, resample, to_stereo
from sonolora.media.fit_audio import cut_or_padded, stretched
from sonolora.media.soundtrack import decode_soundtrack
from sonolora.media.video import decode_frames, probe_video

_SAME_RATE = 0.01  # of the frame rate: 23.976 counts as 24
_CLEAN_STRETCH = 2.0  # times faster or slower; beyond, short sounds smear and move by more than a frame


@dataclass(frozen=True, eq=False)
class FittedVideo:
    """`frames`: (frames, height, width, 3) uint8. `waveform`: stereo, round(frames / frame_rate * rate) samples.

    `detail` is a sentence for the report, `warnings` are others.
    """

    frames: NDArray[np.uint8]
    waveform: Waveform
    how: Literal["exact", "resampled", "trimmed", "retimed"]
    detail: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class TooShort:
    """The video has fewer frames than needed; `detail` is a sentence for the report."""

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

    A video needs `number_of_frames` frames of its own, as the page says. Its beginning is taken at its own speed; one
    of a higher frame rate that ends before is slowed down to the length, the sound at its pitch. With `auto_scale`
    all of a video is played faster or slower to that length, however many frames it has. A difference of less than
    half a frame is ignored.

    MediaError: see `decode_frames` and `decode_soundtrack`; a video without an audio track is one.
    """
    info = probe_video(path)
    seconds = (info.seconds if end is None else end) - start
    wanted = number_of_frames / frame_rate
    surplus = seconds - wanted
    half_a_frame = 0.5 / frame_rate
    has = f"{seconds:.2f} s at {info.fps:.3g} frames a second"
    wants = f"{wanted:.2f} s at {frame_rate:g} ({number_of_frames} frames)"

    frames_present = info.frames if start == 0 and end is None else round(seconds * info.fps)

    how: Literal["exact", "resampled", "trimmed", "retimed"]
    speed = 1.0
    if auto_scale and abs(surplus) >= half_a_frame:
        speed = seconds / wanted
        how = "retimed"
        detail = f"{'squeezed' if surplus > 0 else 'stretched'} from {has} to {wants}, the sound at its pitch"
    elif not auto_scale and frames_present < number_of_frames:
        detail = (
            f"too short: it has {frames_present} frames, and {number_of_frames} are needed; auto_scale_input would "
            "stretch it"
        )
        return TooShort(frames_present, detail)
    elif surplus < -half_a_frame:
        speed = seconds / wanted
        how = "retimed"
        detail = f"slowed down from {has} to {wants}, the sound at its pitch"
    elif surplus >= half_a_frame:
        how, detail = "trimmed", f"trimmed from {has} to {wants}"
    elif abs(info.fps / frame_rate - 1) > _SAME_RATE or info.variable_frame_rate:
        how, detail = "resampled", f"resampled from {has} to {wants}"
    else:
        how, detail = "exact", f"{has} as wanted"

    decoded = decode_soundtrack(path, start, speed * wanted)
    sound = resample(to_stereo(decoded.waveform), sample_rate)
    samples = round(wanted * sample_rate)
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
        warnings.append(f"played at {speed:.2g} times its speed: expect the sound to smear")
    return FittedVideo(frames, sound, how, detail, tuple(warnings))

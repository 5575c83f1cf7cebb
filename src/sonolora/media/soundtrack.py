"""The sound of a video on the timeline of its picture. In: a path and a span. Out: a waveform of that length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio import Decoded, Waveform
from sonolora.media.audio_track import open_audio
from sonolora.media.timeline import time_zero, video_stream

MAX_SECONDS = 600.0  # of sound that is held at once

_JITTER = 0.04  # seconds: where timestamps jump by less, it is rounding or jitter, and the samples stay joined
_SILENT_SECONDS = 0.1  # of a span may lack sound without a warning


def decode_soundtrack(path: Path, start: float, seconds: float) -> Decoded:
    """The sound of a span that begins `start` seconds after the first frame: round(seconds * sample_rate) samples.

    At its own sample rate and channels; every sample is at the time that the file gives it, with silence where there
    is none. The warning says how much of that there is, and how many packets are damaged.

    MediaError: no audio track, nothing in it that decodes, values that are not finite, a format that changes midway,
    a sample rate out of range, or more than `MAX_SECONDS`.
    """
    if seconds > MAX_SECONDS:
        raise MediaError(path, f"too long: {seconds:.0f} s of its sound; at most {MAX_SECONDS:.0f} s are read at once")
    samples: NDArray[np.float32] | None = None  # (channels, samples)
    position = filled = 0
    with open_audio(path, default=True) as track:
        origin = time_zero(video_stream(track.media)) + start
        for time, block in track.blocks():
            sample_rate = track.sample_rate
            if time is not None:
                stamp = round((time - origin) * sample_rate)
                if samples is None or abs(stamp - position) > _JITTER * sample_rate:
                    position = stamp
            if samples is None:
                samples = np.zeros((track.channels, round(seconds * sample_rate)), np.float32)
            low, high = max(position, 0), min(position + len(block), samples.shape[1])
            if low < high:
                samples[:, low:high] = block[low - position : high - position].T
                filled += high - low
            position += len(block)
            if position >= samples.shape[1]:
                break
    if samples is None:
        raise MediaError(path, f"none of its sound ({track.codec}) can be decoded: the audio track is empty or damaged")
    if not np.isfinite(samples).all():
        raise MediaError(path, "its sound holds samples that are not finite numbers")

    warnings = []
    if track.broken_packets:
        warnings.append(f"damaged: {track.broken_packets} packets of its sound could not be decoded")
    if samples.shape[1] - filled > _SILENT_SECONDS * track.sample_rate:
        sounding = filled / track.sample_rate
        warnings.append(f"{sounding:.2f} s of sound for {seconds:.2f} s of picture: the rest is silence")
    waveform = Waveform(samples, track.sample_rate, track.speakers)
    return Decoded(waveform, "; ".join(warnings) or None, seconds)

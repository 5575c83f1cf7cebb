"""The sound of a video on the timeline of its picture. In: a path and a span. Out: a waveform of that length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio import MAX_DECODED_BYTES, Decoded, Waveform, check_rate
from sonolora.media.container import open_media
from sonolora.media.timeline import picture_stream, time_zero

# Seconds. Where timestamps jump by less, it is rounding or jitter, and the samples stay joined.
_JITTER = 0.04
_SILENT_SECONDS = 0.1  # of a span may lack sound without a word


def decode_soundtrack(path: Path, start: float, seconds: float) -> Decoded:
    """The sound of a span that begins `start` seconds after the first frame: round(seconds * rate) samples.

    At its native rate and channels; every sample stands at the time that the file gives it, with silence where
    there is none. The warning says how much of that there is, and how many packets are damaged.

    MediaError: no audio track, nothing in it that decodes, values that are not finite, a format that changes midway,
    or a rate or length beyond those of `decode_audio`.
    """
    as_float = av.AudioResampler(format="flt")  # interleaved, for the reason given in `decode_audio`
    samples: NDArray[np.float32] | None = None  # (samples, channels)
    speakers: tuple[str, ...] = ()
    rate = position = placed = broken_packets = 0
    with open_media(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise MediaError(path, "there is no audio track in it")
        origin = time_zero(picture_stream(path, container)) + start
        for packet in container.demux(stream):
            if samples is not None and position >= len(samples):
                break
            try:
                frames = packet.decode()
            except av.FFmpegError:
                broken_packets += 1
                continue
            for frame in frames:
                found = frame.sample_rate, tuple(c.name for c in frame.layout.channels)
                if samples is not None and found != (rate, speakers):
                    raise MediaError(path, "the sample rate or channel layout of its sound changes midway")
                rate, speakers = found
                check_rate(path, rate)
                if frame.time is not None:
                    at = round((frame.time - origin) * rate)
                    if samples is None or abs(at - position) > _JITTER * rate:
                        position = at
                if samples is None:
                    if seconds * rate * len(speakers) * 4 > MAX_DECODED_BYTES:
                        raise MediaError(path, f"too long: {seconds:.0f} s of such sound are more than can be read")
                    samples = np.zeros((round(seconds * rate), len(speakers)), np.float32)
                blocks: list[NDArray[Any]] = [
                    f.to_ndarray().reshape(-1, len(speakers)) for f in as_float.resample(frame)
                ]
                block = np.concatenate(blocks)
                low, high = max(position, 0), min(position + len(block), len(samples))
                if low < high:
                    samples[low:high] = block[low - position : high - position]
                    placed += high - low
                position += len(block)
    if samples is None:
        raise MediaError(path, "none of its sound can be decoded: the audio track is empty or damaged")
    if not np.isfinite(samples).all():
        raise MediaError(path, "its sound holds samples that are not finite numbers")

    warnings = []
    if broken_packets:
        warnings.append(f"damaged: {broken_packets} packets of its sound could not be decoded")
    if len(samples) - placed > _SILENT_SECONDS * rate:
        warnings.append(f"{placed / rate:.2f} s of sound for {seconds:.2f} s of picture: the rest is silence")
    waveform = Waveform(np.ascontiguousarray(samples.T), rate, () if "NONE" in speakers else speakers)
    return Decoded(waveform, "; ".join(warnings) or None)

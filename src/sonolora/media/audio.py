"""Sound as an array: decode a file, mix down to stereo, resample, measure and normalise.

In: a path. Out: a `Waveform` at its native rate and channel count, and pure functions from one to the next.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.container import open_media

AUDIO_EXTENSIONS: tuple[str, ...] = (".wav", ".mp3", ".flac", ".ogg", ".aac", ".m4a")

SILENCE_DBFS = -80.0  # a peak below this is a clip of silence: normalising would only amplify its noise

SAMPLE_RATES = 1_000, 768_000  # Hz, the least and the greatest: what is beyond is a damaged or made-up header
MAX_DECODED_BYTES = 2 << 30  # of decoded samples: an hour and a half of stereo at 48 kHz

_ENCODER_PADDING = 2048  # samples of one HE-AAC frame
_MISSING_SECONDS = 0.05  # what a declared length may exceed the decoded one by: less than a FLAC frame
_STREAMED_BYTES = 0x7FFF0000  # programs that write WAV to a pipe declare this size or more

# How loud each loudspeaker is heard on the left and on the right; the sub-bass channel is left out.
_LEFT = {"FL": 1.0, "FC": 0.707, "BL": 0.707, "SL": 0.707}
_RIGHT = {"FR": 1.0, "FC": 0.707, "BR": 0.707, "SR": 0.707}
_USUAL_SPEAKERS = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


@dataclass(frozen=True, eq=False)
class Waveform:
    """Sampled sound. `samples`: (channels, samples) float32, nominally within [-1, 1]; `sample_rate`: hertz.

    `speakers` names the loudspeaker of each channel as FFmpeg does ("FL", "LFE"); empty where nobody said.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    speakers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32:
            shape, dtype = self.samples.shape, self.samples.dtype
            raise ValueError(f"a waveform is (channels, samples) of float32, not {shape} of {dtype}")

    @property
    def channels(self) -> int:
        return int(self.samples.shape[0])

    @property
    def seconds(self) -> float:
        return int(self.samples.shape[1]) / self.sample_rate


@dataclass(frozen=True)
class Decoded:
    """What a file held; `warning` says in words what of it could not be read, None if it is whole."""

    waveform: Waveform
    warning: str | None


def decode_audio(path: Path) -> Decoded:
    """Decode the first audio stream of a file, all of it, at its native rate and channels.

    Integer formats are scaled so that full scale is 1; float formats may go beyond.

    MediaError: not media, no audio stream, no samples, nothing that decodes, values that are not finite, a format that
    changes midway, a sample rate outside `SAMPLE_RATES`, or more than `MAX_DECODED_BYTES`. A file that breaks off or is
    damaged in places yields what could be decoded and a warning. Raw AAC, MP3 without a Xing header and Ogg declare no
    length: when they end between two packets, nobody can tell.
    """
    # Interleaved, because PyAV 18 crashes on planar frames of more than seven channels.
    as_float = av.AudioResampler(format="flt")
    blocks: list[NDArray[Any]] = []  # each (samples, channels)
    speakers: tuple[str, ...] = ()
    rate = broken_packets = size = 0
    with open_media(path) as container:
        if not container.streams.audio:
            raise MediaError(path, "there is no audio stream in it")
        stream = container.streams.audio[0]
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.FFmpegError:
                    broken_packets += 1
                    continue
                for frame in frames:
                    found = frame.sample_rate, tuple(c.name for c in frame.layout.channels)
                    if blocks and found != (rate, speakers):
                        raise MediaError(path, "its sample rate or channel layout changes midway")
                    rate, speakers = found
                    check_rate(path, rate)
                    blocks += [f.to_ndarray().reshape(-1, len(speakers)) for f in as_float.resample(frame)]
                    size += 4 * frame.samples * len(speakers)
                    if size > MAX_DECODED_BYTES:
                        minutes = MAX_DECODED_BYTES / (240 * rate * len(speakers))
                        raise MediaError(path, f"too long: no more than {minutes:.0f} minutes of such sound are read")
        except av.FFmpegError:  # the container itself breaks off
            broken_packets += 1

        if not blocks and broken_packets:
            raise MediaError(path, "none of its audio can be decoded: it is damaged")
        if not blocks:
            raise MediaError(path, "its audio stream holds no samples")
        samples: NDArray[np.float32] = np.ascontiguousarray(np.concatenate(blocks).T)
        decoded = samples.shape[1] / rate
        declared = _declared_seconds(path, container.format.name, stream, decoded)
        if container.format.name.startswith("mov") and declared:
            # AAC comes in whole frames; not every version of FFmpeg cuts the filling of the last one off.
            end = round(declared * rate)
            if samples.shape[1] - end < _ENCODER_PADDING:
                samples = samples[:, :end]
    if not np.isfinite(samples).all():
        raise MediaError(path, "it holds samples that are not finite numbers")

    warning = None
    if declared and declared - decoded > _MISSING_SECONDS:
        warning = f"damaged or cut short: its header says {declared:.2f} s, {decoded:.2f} s could be decoded"
    elif broken_packets:
        warning = f"damaged: {broken_packets} of its packets could not be decoded, {decoded:.2f} s could"
    return Decoded(Waveform(samples, rate, () if "NONE" in speakers else speakers), warning)


def check_rate(path: Path, rate: int) -> None:
    """Raise `MediaError` for a sample rate that no sound has."""
    least, greatest = SAMPLE_RATES
    if not least <= rate <= greatest:
        raise MediaError(path, f"its header says {rate} samples a second, and {least} to {greatest} are possible")


def _declared_seconds(path: Path, container: str, stream: AudioStream, decoded: float) -> float | None:
    """The length that the file itself claims, None if it claims none."""
    if container == "wav":
        return _declared_wav_seconds(path, decoded)
    # FFmpeg guesses the length of raw AAC and of MP3 without a Xing header (it then knows no encoder delay,
    # which shows as a start at 0) from the bit rate, which is not a claim.
    if container == "aac" or (container == "mp3" and not stream.start_time):
        return None
    if stream.duration is None or stream.time_base is None:
        return None
    return float(stream.duration * stream.time_base)


def _declared_wav_seconds(path: Path, decoded: float) -> float | None:
    """As above, from the header of the data chunk: FFmpeg goes by the size of the file instead."""
    with path.open("rb") as file:
        file.seek(12)  # "RIFF", size, "WAVE"
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                present = path.stat().st_size - file.tell()
                return decoded * size / present if size < _STREAMED_BYTES else None
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def to_stereo(waveform: Waveform) -> Waveform:
    """Two channels out of any number, never louder than the loudest input.

    Mono is doubled. 5.1 and 7.1 are mixed as the publisher's preprocessing does (the sides and the centre at
    -3 dB, divided by the sum of the weights: 2.414 and 3.121), and so is every layout of the same
    loudspeakers; six or eight channels without names count as 5.1 and 7.1. Of anything else both sides get
    the mean.
    """
    if waveform.channels == 2:
        return waveform
    speakers = waveform.speakers or _USUAL_SPEAKERS.get(waveform.channels, ("unknown",) * waveform.channels)
    if waveform.channels > 1 and {"FL", "FR"} <= set(speakers) <= _LEFT.keys() | _RIGHT.keys() | {"LFE"}:
        weights = np.array([[side.get(name, 0.0) for name in speakers] for side in (_LEFT, _RIGHT)])
    else:
        weights = np.ones((2, waveform.channels))
    weights /= weights.sum(axis=1, keepdims=True)  # (2, channels)
    samples = weights.astype(np.float32) @ waveform.samples
    return Waveform(samples, waveform.sample_rate, ("FL", "FR"))


def resample(waveform: Waveform, sample_rate: int) -> Waveform:
    """The same sound at another rate in hertz (soxr, high quality: aliases below -150 dB)."""
    if waveform.sample_rate == sample_rate:
        return waveform
    interleaved = soxr.resample(waveform.samples.T, waveform.sample_rate, sample_rate, quality="HQ")
    return replace(waveform, samples=np.ascontiguousarray(interleaved.T), sample_rate=sample_rate)


def peak(waveform: Waveform) -> float:
    """The greatest absolute sample value; 0 for no samples."""
    return float(np.abs(waveform.samples).max(initial=0.0))


def peak_normalized(waveform: Waveform, dbfs: float = -1.0) -> Waveform:
    """Scaled so that the peak lies at `dbfs` decibels of full scale; silence stays as it is."""
    loudest = peak(waveform)
    if loudest < 10 ** (SILENCE_DBFS / 20):
        return waveform
    return replace(waveform, samples=waveform.samples * np.float32(10 ** (dbfs / 20) / loudest))

"""Sound as an array: decode a file, mix down to stereo, resample, measure and normalise.

In: a path. Out: a `Waveform` at the file's own sample rate and channels, and pure functions from one to the next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soxr
from numpy.typing import NDArray

from sonolora.core.errors import MediaError
from sonolora.media.audio_track import AudioTrack, open_audio
from sonolora.media.pcm_headers import sample_bytes, wav_data_bytes

AUDIO_EXTENSIONS: tuple[str, ...] = (
    *(".wav", ".mp3", ".flac", ".ogg", ".aac", ".m4a"),
    *(".aif", ".aiff", ".aifc", ".caf"),
)

SILENCE_DBFS = -80.0  # a clip with a lower peak is silent: normalising it would only amplify noise

MAX_DECODED_BYTES = 2 << 30  # of decoded samples: an hour and a half of stereo at 48 kHz

_ENCODER_PADDING = 2048  # samples of one HE-AAC frame
_SEEK_LEAD = 3.0  # seconds decoded before the span: codecs depend on preceding packets
_COUNTED_BYTES = 64_000_000  # files up to this size are read to the end, without decoding, to detect truncation
_MISSING_SECONDS = 0.05  # by which the decoded length may fall short of the declared one: less than a FLAC frame

# Gains of each loudspeaker on the left and on the right; the sub-bass channel is dropped.
_LEFT = {"FL": 1.0, "FC": 0.707, "BL": 0.707, "SL": 0.707}
_RIGHT = {"FR": 1.0, "FC": 0.707, "BR": 0.707, "SR": 0.707}
_USUAL_SPEAKERS = {
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}


@dataclass(frozen=True, eq=False)
class Waveform:
    """Sampled sound. `samples`: (channels, samples) float32, nominally within [-1, 1]; `sample_rate`: hertz.

    `speakers` names the loudspeaker of each channel as FFmpeg does ("FL", "LFE"); empty where the source names none.
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
    """The decoded part of a file. `seconds`: the length of the whole recording, however much of it was decoded.

    `warning` says which part could not be read; None if there is no damage in what was read.
    """

    waveform: Waveform
    warning: str | None
    seconds: float


def decode_audio(path: Path, start: float = 0.0, seconds: float | None = None, *, at_end: bool = False) -> Decoded:
    """Decode a file, or a span of it, at its own sample rate and channels.

    The span begins at `start` and lasts `seconds`, or to the end if that is None; with `at_end` it is the last
    `seconds` of the recording. It is shorter if the recording ends earlier. Only the span is held in memory, and
    nothing after it is decoded. Integers are scaled so that full scale is 1; floats may exceed it.

    The end of a long file is found by seeking. The samples are the same as in the whole file, except in AAC, whose
    decoders fill some bands with random noise.

    MediaError: not media, no audio track, no samples, nothing that decodes, values that are not finite, a format that
    changes midway, a sample rate out of range, more than `MAX_DECODED_BYTES` in the span, or a `start` after the end.
    A file that is cut short or damaged in places yields what can be decoded, and a warning; damaged packets after the
    span go unnoticed. Raw AAC, MP3 without a Xing header and Ogg declare no length: truncation between two packets
    cannot be detected there.
    """
    if at_end and seconds is not None:
        return _decode_end(path, seconds, seek=True) or _decode_end(path, seconds, seek=False) or decode_audio(path)
    with open_audio(path) as track:
        declared, length = declared_seconds(track)
        kept: deque[NDArray[np.float32]] = deque()  # blocks, each (samples, channels), from sample `first` on
        first = position = begin = 0
        stop: int | None = None
        ended = True
        for _, block in track.blocks():
            begin = round(start * track.sample_rate)
            stop = None if seconds is None else begin + round(seconds * track.sample_rate)
            if seconds is None and length is not None:
                _check_size(track, round(length * track.sample_rate) - begin)
            kept.append(block)
            position += len(block)
            while kept and first + len(kept[0]) <= begin:
                first += len(kept.popleft())
            _check_size(track, position - first)
            if stop is not None and position >= stop and (declared is None or stop <= declared * track.sample_rate):
                ended = False
                break
        _check_decoded(track, position)
        decoded = position / track.sample_rate
        if ended:
            position -= _padding(track, position, declared)
            length = position / track.sample_rate
        elif length is None or path.stat().st_size <= _COUNTED_BYTES:
            decoded += counted_seconds(track)
            length = length or decoded
        else:
            decoded = length
    if begin >= position:
        raise MediaError(path, f"it lasts {length:.2f} s, so there is nothing after {start:.2f} s")
    samples = _joined(track, kept, first, begin, position if stop is None else min(stop, position))
    return Decoded(samples, _warning(track, declared, decoded), length)


def _decode_end(path: Path, seconds: float, *, seek: bool) -> Decoded | None:
    """The last seconds; None if seeking yields too few of them, or is not worthwhile."""
    with open_audio(path) as track:
        declared, length = declared_seconds(track)
        target = (length or 0) - seconds - _SEEK_LEAD
        if seek and (target < _SEEK_LEAD or not track.seek(target)):
            return None
        kept: deque[NDArray[np.float32]] = deque()
        first = position = span = 0
        for time, block in track.blocks():
            if not span:
                span = round(seconds * track.sample_rate)
                first = position = round(((time or 0.0) - track.start) * track.sample_rate) if seek else 0
                track.broken_packets = 0 if seek else track.broken_packets  # those that depend on skipped packets
            kept.append(block)
            position += len(block)
            # Encoder padding is still to be removed.
            while first + len(kept[0]) <= position - span - _ENCODER_PADDING:
                first += len(kept.popleft())
            _check_size(track, position - first)
        _check_decoded(track, position)
        decoded = position / track.sample_rate
        position -= _padding(track, position, declared)
    if seek and position - first < span:
        return None
    samples = _joined(track, kept, first, max(first, position - span), position)
    return Decoded(samples, _warning(track, declared, decoded), position / track.sample_rate)


def _check_size(track: AudioTrack, samples: int) -> None:
    if 4 * track.channels * samples > MAX_DECODED_BYTES:
        minutes = MAX_DECODED_BYTES / (240 * track.sample_rate * track.channels)
        raise MediaError(track.path, f"too long: at most {minutes:.0f} minutes of such sound can be read at once")


def _check_decoded(track: AudioTrack, samples: int) -> None:
    if not samples and track.broken_packets:
        raise MediaError(track.path, f"none of its sound ({track.codec}) can be decoded: it is damaged")
    if not samples:
        raise MediaError(track.path, "its audio track holds no samples")


def _padding(track: AudioTrack, samples: int, declared: float | None) -> int:
    """How many samples of padding an AAC encoder has left in the last frame; not every FFmpeg removes them."""
    if not declared or not track.container.startswith("mov"):
        return 0
    excess = samples - round(declared * track.sample_rate)
    return excess if 0 < excess < _ENCODER_PADDING else 0


def _warning(track: AudioTrack, declared: float | None, decoded: float) -> str | None:
    if declared and declared - decoded > _MISSING_SECONDS:
        return f"damaged or cut short: its header says {declared:.2f} s, {decoded:.2f} s could be decoded"
    if track.broken_packets:
        return f"damaged: {track.broken_packets} of its packets could not be decoded, {decoded:.2f} s could"
    return None


def _joined(track: AudioTrack, blocks: deque[NDArray[np.float32]], first: int, begin: int, end: int) -> Waveform:
    """The samples from `begin` to `end` of blocks that start at `first`; each block is freed when it is copied."""
    samples = np.empty((track.channels, end - begin), np.float32)
    while blocks:
        block = blocks.popleft()
        low, high = max(first, begin), min(first + len(block), end)
        if low < high:
            samples[:, low - begin : high - begin] = block[low - first : high - first].T
        first += len(block)
    if not np.isfinite(samples).all():
        raise MediaError(track.path, "it holds samples that are not finite numbers")
    return Waveform(samples, track.sample_rate, track.speakers)


def declared_seconds(track: AudioTrack) -> tuple[float | None, float | None]:
    """(the length that the file declares, its length as far as it is known without reading it); None if unknown."""
    stream, container = track.stream, track.container
    # FFmpeg guesses the length of raw AAC and of MP3 without a Xing header (it then knows no encoder delay, which
    # shows as a start at 0) from the bit rate.
    if container == "aac" or (container == "mp3" and not stream.start_time):
        return None, None
    if stream.duration is None or stream.time_base is None:
        return None, None
    length = float(stream.duration * stream.time_base)
    sizes = wav_data_bytes(track.path) if container == "wav" else None
    if sizes is None:
        return length, length
    # For WAV, FFmpeg goes by the size of the file, and by the significant bits of a sample.
    declared, present = sizes
    if track.codec.startswith("pcm_"):
        context = track.stream.codec_context
        byte_rate = sample_bytes(track.codec) * context.layout.nb_channels * context.sample_rate
        if not byte_rate:
            return None, None  # refused when it is decoded
        length = min(declared or present, present) / byte_rate
    return declared and length * max(1.0, declared / max(1, present)), length


def counted_seconds(track: AudioTrack) -> float:
    """The length of all packets that have not been read yet."""
    durations = sum(packet.duration or 0 for packet in track.media.packets(track.stream))
    return float(durations * (track.stream.time_base or 0))


def to_stereo(waveform: Waveform) -> Waveform:
    """Mix any number of channels down to two, never louder than the loudest input.

    Mono is doubled. 5.1 and 7.1, and every other layout of the same loudspeakers, are mixed as in the publisher's
    preprocessing: surrounds and centre at -3 dB, divided by the sum of the gains (2.414 and 3.121). Six or eight
    channels without names count as 5.1 and 7.1. In any other layout both sides get the mean.
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
    """The same sound at another sample rate in hertz (soxr, high quality: aliases below -150 dB)."""
    if waveform.sample_rate == sample_rate:
        return waveform
    interleaved = soxr.resample(waveform.samples.T, waveform.sample_rate, sample_rate, quality="HQ")
    return replace(waveform, samples=np.ascontiguousarray(interleaved.T), sample_rate=sample_rate)


def peak(waveform: Waveform) -> float:
    """The largest absolute sample value; 0 for no samples."""
    return float(np.abs(waveform.samples).max(initial=0.0))


def peak_normalized(waveform: Waveform, dbfs: float = -1.0) -> Waveform:
    """Scaled so that the peak is at `dbfs`, in dB relative to full scale; silence is returned as it is."""
    loudest = peak(waveform)
    if loudest < 10 ** (SILENCE_DBFS / 20):
        return waveform
    return replace(waveform, samples=waveform.samples * np.float32(10 ** (dbfs / 20) / loudest))

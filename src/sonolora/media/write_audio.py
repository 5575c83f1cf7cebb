"""Writing sound. In: a path and a `Waveform`. Out: the complete file, or `OutputError` and no file."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import AUDIO_EXTENSIONS, Waveform, resample
from sonolora.media.audio_track import open_audio
from sonolora.media.source_format import SourceFormat

_CODECS = {
    **{".flac": "flac", ".aif": "pcm_s16be", ".aiff": "pcm_s16be", ".aifc": "pcm_s16be", ".caf": "pcm_s16le"},
    **{".mp3": "libmp3lame", ".ogg": "libopus", ".aac": "aac", ".m4a": "aac"},
}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
# Of a container: no random serial numbers, no version of the muxer; the same sound gives the same file.
REPEATABLE = {"fflags": "+bitexact"}
_COMMON_RATE = 48_000  # every lossy codec here supports it
_MIN_BIT_RATE = 96_000  # per channel: the sound may have been through a lossy codec before

_WIDTHS = 8, 16, 24, 32  # of integers; FLAC and ALAC have none of 8 bits
_FLOAT_FORMATS = (".wav", ".aif", ".aiff", ".aifc", ".caf")
_FLOAT32_BITS = 24  # a 32-bit float does not hold integers of more bits


def write_wav(path: Path, waveform: Waveform) -> None:
    """Write 16-bit PCM at the waveform's sample rate; samples beyond [-1, 1] are clipped, NaN is a ValueError."""
    _check_finite(path, waveform)
    content = io.BytesIO()
    with wave.open(content, "wb") as out:
        out.setnchannels(waveform.channels)
        out.setsampwidth(2)
        out.setframerate(waveform.sample_rate)
        out.writeframes(_integers(waveform.samples, 16).T.astype("<i2").tobytes())
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getvalue())


def write_audio(path: Path, waveform: Waveform) -> None:
    """Write the format that the extension, one of AUDIO_EXTENSIONS, names: 16 bits, Opus in .ogg and AAC in .m4a.

    1, 2, 6 (5.1) or 8 (7.1) channels. A sample rate that the codec does not support is resampled to 48 kHz.
    """
    suffix = path.suffix.lower()
    if suffix == ".wav":
        write_wav(path, waveform)
    elif suffix in _CODECS:
        _encode(path, waveform.samples, "flt", waveform.sample_rate, _CODECS[suffix])
    else:
        raise ValueError(f"{path.name}: the extension is none of {', '.join(AUDIO_EXTENSIONS)}")


def write_audio_like(path: Path, waveform: Waveform, source: SourceFormat, *, offset: int = 0) -> None:
    """Write sound in the sample format, channels and bit rate of a source; the extension names the container.

    Samples that were decoded from a lossless source get bit-identical values; `offset` is the position of the
    source's first sample in the waveform. Stereo becomes mono if the source is mono. If the container lacks the
    sample format, the next wider one is used, or 24 bits for floats; sound from a lossy source gets 16 bits in a
    lossless container. .ogg is written as Opus, which does not support 44.1 kHz.

    ValueError: another sample rate than that of the source, values that are not finite, an unknown extension.
    """
    _check_finite(path, waveform)
    suffix, sample_rate = path.suffix.lower(), waveform.sample_rate
    if suffix not in AUDIO_EXTENSIONS:
        raise ValueError(f"{path.name}: the extension is none of {', '.join(AUDIO_EXTENSIONS)}")
    if sample_rate != source.sample_rate:
        raise ValueError(f"{path.name}: {sample_rate} Hz cannot be written like a source of {source.sample_rate} Hz")
    samples: NDArray[Any] = waveform.samples
    if source.channels == 1:
        samples = samples.mean(axis=0, keepdims=True)
    if suffix in (".mp3", ".ogg", ".aac") or (suffix == ".m4a" and source.codec != "alac"):
        bit_rate = max(source.bit_rate, _MIN_BIT_RATE * len(samples))
        _encode(path, samples, "flt", sample_rate, _CODECS[suffix], bit_rate=bit_rate)
        return
    if source.bits is not None and source.bits > (32 if source.is_float else _FLOAT32_BITS):
        samples = _restored(samples, source, offset)
    if source.is_float and suffix in _FLOAT_FORMATS:
        bits = 64 if source.bits == 64 else 32
        _encode(path, samples, "dbl" if bits == 64 else "flt", sample_rate, _pcm(suffix, f"f{bits}"))
        return
    wanted = 24 if source.is_float else source.bits or 16
    bits = next(width for width in _WIDTHS if width >= wanted and (width > 8 or suffix in _FLOAT_FORMATS))
    kind = "alac" if suffix == ".m4a" else "flac" if suffix == ".flac" else _pcm(suffix, f"s{bits}")
    integers = _integers(samples, bits)
    if bits == 8:
        _encode(path, (integers + 128).astype(np.uint8), "u8", sample_rate, kind)
    elif bits == 16:
        _encode(path, integers.astype(np.int16), "s16", sample_rate, kind)
    else:
        _encode(path, (integers << (32 - bits)).astype(np.int32), "s32", sample_rate, kind, bits=bits)


def _check_finite(path: Path, waveform: Waveform) -> None:
    if not np.isfinite(waveform.samples).all():
        raise ValueError(f"{path.name}: the waveform holds values that are not finite")


def _integers(samples: NDArray[np.floating], bits: int) -> NDArray[np.int64]:
    """Rounded to integers of `bits` bits, and clipped."""
    full_scale = 1 << (bits - 1)
    return np.clip(np.rint(samples.astype(np.float64) * full_scale), -full_scale, full_scale - 1).astype(np.int64)


def _restored(samples: NDArray[np.float32], source: SourceFormat, offset: int) -> NDArray[np.float64]:
    """The samples in float64, with the source's own value wherever they are that value rounded to float32."""
    exact = samples.astype(np.float64)
    if len(samples) != source.channels:
        return exact
    position = offset
    with open_audio(source.path) as track:
        for _, block in track.blocks("dbl"):
            low, high = max(position, 0), min(position + len(block), exact.shape[1])
            if low < high:
                original, part = block[low - position : high - position].T, exact[:, low:high]
                kept = part == original.astype(np.float32)
                part[kept] = original[kept]
            position += len(block)
            if position >= exact.shape[1]:
                break
    return exact


def _pcm(suffix: str, kind: str) -> str:
    """FFmpeg's codec for samples of a kind such as "s24" in a container."""
    if kind == "s8":
        return "pcm_u8" if suffix == ".wav" else "pcm_s8"
    return f"pcm_{kind}{'be' if suffix.startswith('.aif') else 'le'}"


def _encode(
    path: Path,
    samples: NDArray[Any],
    sample_format: str,
    sample_rate: int,
    codec: str,
    *,
    bit_rate: int = 0,
    bits: int = 0,
) -> None:
    """Write samples (channels, samples) in FFmpeg's `sample_format`; `bits`: the significant ones of an integer."""
    rates = av.Codec(codec, "w").audio_rates
    if rates and sample_rate not in rates:
        samples, sample_rate = resample(Waveform(samples, sample_rate), _COMMON_RATE).samples, _COMMON_RATE
    layout = _LAYOUTS.get(len(samples), f"{len(samples)}C")
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T).reshape(1, -1), sample_format, layout)
    frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
    with atomic_write(path) as temporary, av.open(f"file:{temporary}", "w", options=REPEATABLE) as container:
        stream = container.add_stream(codec, rate=sample_rate, layout=layout)
        assert isinstance(stream, AudioStream)
        if sample_format != "flt":
            stream.codec_context.format = f"{sample_format}p" if codec == "alac" else sample_format
        if bit_rate:
            stream.bit_rate = bit_rate
        if bits == 32 and codec == "flac":
            stream.codec_context.options = {"strict": "experimental", "bits_per_raw_sample": "32"}
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

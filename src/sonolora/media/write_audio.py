"""Sound into files. In: a path and a `Waveform`. Out: the whole file, or `OutputError` and nothing."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream

from sonolora.core.atomic_files import atomic_write
from sonolora.media.audio import AUDIO_EXTENSIONS, Waveform, resample

_CODECS = {".mp3": "libmp3lame", ".flac": "flac", ".ogg": "libopus", ".aac": "aac", ".m4a": "aac"}
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
_COMMON_RATE = 48_000  # every lossy codec here knows it


def write_wav(path: Path, waveform: Waveform) -> None:
    """Write 16-bit PCM at the waveform's rate; samples beyond [-1, 1] are clipped, NaN is a ValueError."""
    if not np.isfinite(waveform.samples).all():
        raise ValueError(f"{path.name}: the waveform holds values that are not finite")
    pcm = np.clip(np.rint(waveform.samples.T * 32768), -32768, 32767).astype("<i2")
    whole = io.BytesIO()
    with wave.open(whole, "wb") as out:
        out.setnchannels(waveform.channels)
        out.setsampwidth(2)
        out.setframerate(waveform.sample_rate)
        out.writeframes(pcm.tobytes())
    with atomic_write(path) as temporary:
        temporary.write_bytes(whole.getvalue())


def write_audio(path: Path, waveform: Waveform) -> None:
    """Write the format that the extension names, one of AUDIO_EXTENSIONS (`.ogg` holds Opus).

    1, 2, 6 (5.1) or 8 (7.1) channels. A rate that the codec does not know is resampled to 48 kHz.
    """
    suffix = path.suffix.lower()
    if suffix == ".wav":
        write_wav(path, waveform)
        return
    if suffix not in _CODECS:
        raise ValueError(f"{path.name}: the extension is none of {', '.join(AUDIO_EXTENSIONS)}")
    rates = av.Codec(_CODECS[suffix], "w").audio_rates
    if rates and waveform.sample_rate not in rates:
        waveform = resample(waveform, _COMMON_RATE)

    layout = _LAYOUTS[waveform.channels]
    interleaved = np.ascontiguousarray(waveform.samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(interleaved, format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = waveform.sample_rate, 0, Fraction(1, waveform.sample_rate)
    with atomic_write(path) as temporary, av.open(f"file:{temporary}", "w") as container:
        stream = container.add_stream(_CODECS[suffix], rate=waveform.sample_rate, layout=layout)
        assert isinstance(stream, AudioStream)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

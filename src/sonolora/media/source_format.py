"""The format of an audio file. In: a path. Out: what another file needs to hold the same sound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sonolora.media.audio import counted_seconds, declared_seconds
from sonolora.media.audio_track import open_audio

_PCM_BITS = {"u8": 8, "s8": 8, "s16": 16, "s24": 24, "s32": 32, "f32": 32, "f64": 64, "mulaw": 16, "alaw": 16}
_SUFFIXES = {
    "wav": (".wav",),
    "w64": (".wav",),
    "aiff": (".aiff", ".aif", ".aifc"),
    "caf": (".caf",),
    "flac": (".flac",),
    "mp3": (".mp3",),
    "aac": (".aac",),
    "ogg": (".ogg",),
    "mov": (".m4a",),
}


@dataclass(frozen=True)
class SourceFormat:
    """How a file stores its sound.

    `suffix`: of a file of this format, ".wav" if the format can be read but not written. `codec`: FFmpeg's name.
    `bits`: of a sample, None for lossy codecs; `is_float` says of which kind it is. `bit_rate`: bits a second of a
    lossy codec, 0 if unknown. `seconds`: the length, without decoding it.
    """

    path: Path
    suffix: str
    codec: str
    sample_rate: int
    channels: int
    bits: int | None
    is_float: bool
    bit_rate: int
    seconds: float


def probe_audio(path: Path) -> SourceFormat:
    """Read the header of an audio file, and count its packets where the header does not tell the length.

    MediaError: see `decode_audio`.
    """
    with open_audio(path) as track:
        context, container = track.stream.codec_context, track.container.split(",")[0]
        bits, is_float = _bits(track.codec, context.extradata or b"")
        track.check_format(context.sample_rate, context.layout.nb_channels)
        _, seconds = declared_seconds(track)
        return SourceFormat(
            path=path,
            suffix=_suffix(path, container, track.codec),
            codec=track.codec,
            sample_rate=context.sample_rate,
            channels=context.layout.nb_channels,
            bits=bits,
            is_float=is_float,
            bit_rate=context.bit_rate or 0,
            seconds=counted_seconds(track) if seconds is None else seconds,
        )


def _suffix(path: Path, container: str, codec: str) -> str:
    suffixes = _SUFFIXES.get(container, (".wav",))
    if codec == "vorbis":
        return ".wav"
    return path.suffix.lower() if path.suffix.lower() in suffixes else suffixes[0]


def _bits(codec: str, extradata: bytes) -> tuple[int | None, bool]:
    """(bits of a sample or None, whether they are a float). FLAC and ALAC state them in their header."""
    if codec.startswith("pcm_"):
        kind = codec.removeprefix("pcm_").removesuffix("le").removesuffix("be")
        return _PCM_BITS.get(kind), kind.startswith("f")
    if codec == "flac" and len(extradata) > 13:
        return ((extradata[12] & 1) << 4 | extradata[13] >> 4) + 1, False
    if codec == "alac" and len(extradata) > 17:
        return extradata[17], False
    return None, False

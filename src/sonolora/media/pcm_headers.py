"""What FFmpeg gets wrong about the headers of WAV and AIFF files.

In: a path. Out: the codec of its samples, and how many bytes of them there are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sonolora.core.errors import MediaError

_LITTLE, _BIG = (b"RIFF", b"RF64", b"BW64"), (b"RIFX", b"FORM")
_UNKNOWN_BYTES = 0x7FFF0000  # programs that write WAV to a pipe declare this size or more
_INTEGERS, _EXTENSIBLE = 1, 0xFFFE  # format tags
_INTEGERS_OF_WIDTH = {1: "pcm_u8", 2: "pcm_s16le", 3: "pcm_s24le", 4: "pcm_s32le"}  # bytes
_LOOK_BYTES = 1 << 20
_MAX_CHUNKS = 100_000
_MISREAD = ("g726", "amrnb")  # G.721 and NMS ADPCM decode as these, to noise
_LITTLE_ENDIAN_AIFF = ((8, "pcm_s8"), (16, "pcm_s16le"), (24, "pcm_s24le"), (32, "pcm_s32le"))


def pcm_codec(path: Path, codec: str) -> str:
    """The codec of the samples of a WAV or AIFF file for which FFmpeg names `codec`.

    They differ for big-endian WAV (RIFX), for integers in wider containers (24 bits in 32), some of which FFmpeg
    takes for the floats of an old editor, and for AIFF-C of little-endian samples that are not 16 bits wide.

    MediaError for codecs that FFmpeg confuses with others.
    """
    with path.open("rb") as file:
        head = file.read(12)
        magic, kind = head[:4], head[8:]
        if kind == b"WAVE" and codec in _MISREAD:
            raise MediaError(path, f"WAV of the codec {codec_code(path)} is not supported: convert it to PCM")
        if not codec.startswith("pcm_"):
            return codec
        if kind == b"AIFC" and codec == "pcm_s16le":
            bits = next((_number(">6xh", file) for name, _ in _chunks(file) if name == b"COMM"), 16)
            return next((name for width, name in _LITTLE_ENDIAN_AIFF if bits <= width), codec)
        if kind == b"WAVE" and magic == b"RIFX":
            return _wav_integers(file, ">", codec).replace("le", "be")
        return _wav_integers(file, "<", codec) if kind == b"WAVE" else codec


def codec_code(path: Path) -> str:
    """What a WAV or AIFF-C file calls its codec: "0x0038", "DWVW"; empty for any other file."""
    with path.open("rb") as file:
        for name, size in _chunks(file):
            if name == b"fmt ":
                return f"0x{_number('<H', file):04x}"
            if name == b"COMM" and size >= 22:
                return file.read(22)[18:].decode("latin-1")
    return ""


def sample_bytes(codec: str) -> int:
    """The bytes of a PCM sample: 3 for "pcm_s24le"; 1 where the name has no number, as for G.711."""
    return int("".join(filter(str.isdigit, codec)) or 8) // 8


def wav_data_bytes(path: Path) -> tuple[int | None, int] | None:
    """(bytes of samples that the header of a WAV file declares, bytes that follow the header).

    The first is None if the file was written to a pipe, both are if it is of another kind.
    """
    with path.open("rb") as file:
        wide = 0
        for name, size in _chunks(file):
            if name == b"ds64":
                wide = _number("<8xQ", file)
            elif name == b"data":
                size = wide if wide and size == 0xFFFFFFFF else size
                known = size > 0 and (wide or size < _UNKNOWN_BYTES)
                return size if known else None, path.stat().st_size - file.tell()
    return None


def _wav_integers(file: BinaryIO, order: str, codec: str) -> str:
    """The codec by the width of a WAV file's samples, if the header says that they are integers."""
    integers = codec
    for name, size in _chunks(file):
        if name == b"fmt ":
            tag, channels, block, bits, subformat = struct.unpack(
                f"{order}HH8xHH8xH14x", file.read(min(size, 40)).ljust(40, b"\0")
            )
            is_integer = (subformat if tag == _EXTENSIBLE else tag) == _INTEGERS
            if not is_integer or not channels or block % channels or 8 * block // channels < bits:
                return codec
            integers = _INTEGERS_OF_WIDTH.get(block // channels, codec)
            if tag == _EXTENSIBLE or not codec.startswith("pcm_f"):
                return integers
        elif name == b"data":
            # Either floats whose full scale is 2^23, or integers that leave the lowest byte empty.
            return codec if any(file.read(min(size, _LOOK_BYTES))[::4]) else integers
    return codec


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(name, size) of each chunk of a RIFF, RIFX, RF64 or AIFF file; the file stands at its content."""
    file.seek(0)
    magic = file.read(12)[:4]
    if magic not in _LITTLE + _BIG:
        return
    order = ">" if magic in _BIG else "<"
    position = 12
    for _ in range(_MAX_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return
        name, size = struct.unpack(f"{order}4sI", head)
        yield name, size
        position += 8 + size + size % 2
        file.seek(position, os.SEEK_SET)


def _number(layout: str, file: BinaryIO) -> int:
    """The one number that `layout` unpacks; where the file ends, zeros follow."""
    size = struct.calcsize(layout)
    return int(struct.unpack(layout, file.read(size).ljust(size, b"\0"))[0])

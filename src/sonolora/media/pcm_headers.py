"""What FFmpeg gets wrong about the headers of WAV and AIFF files.

In: a path. Out: the codec of its samples, and how many bytes of them there are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LITTLE, _BIG = (b"RIFF", b"RF64", b"BW64"), (b"RIFX", b"FORM")
_UNKNOWN_BYTES = 0x7FFF0000  # programs that write WAV to a pipe declare this size or more
_EXTENSIBLE = 0xFFFE
_LOOK_BYTES = 1 << 20
_MAX_CHUNKS = 100_000
_LITTLE_ENDIAN_AIFF = ((8, "pcm_s8"), (16, "pcm_s16le"), (24, "pcm_s24le"), (32, "pcm_s32le"))


def pcm_codec(path: Path, codec: str) -> str:
    """The codec of the samples of a WAV or AIFF file for which FFmpeg names `codec`.

    They differ for big-endian WAV (RIFX), for 24 bits in containers of 32, which FFmpeg takes for the floats of an
    old editor, and for AIFF-C of little-endian samples that are not 16 bits wide.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic == b"RIFX" and codec.startswith("pcm_"):
            return codec.replace("le", "be")
        if magic == b"FORM" and codec == "pcm_s16le":
            bits = next((_number(">6xh", file) for name, _ in _chunks(file) if name == b"COMM"), 16)
            return next((name for width, name in _LITTLE_ENDIAN_AIFF if bits <= width), codec)
        if codec == "pcm_f24le" and _holds_integers(file):
            return "pcm_s32le"
    return codec


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


def _holds_integers(file: BinaryIO) -> bool:
    """Whether samples of 24 bits in 32 are integers: by the header if it says so, else if the low bytes are empty."""
    for name, size in _chunks(file):
        if name == b"fmt " and _number("<H", file) == _EXTENSIBLE:
            return True
        if name == b"data":
            return not any(file.read(min(size, _LOOK_BYTES))[::4])
    return False


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

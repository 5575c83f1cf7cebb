"""The boxes of MP4 and QuickTime files (ISO/IEC 14496-12), read before FFmpeg opens such a file.

FFmpeg builds an index of every sample that the header declares, and a header of 600 bytes can declare a hundred
million. In: a path. Out: the codes of its audio codecs, or a `MediaError` for what no file of its size can hold.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sonolora.core.errors import MediaError

_FIRST = (b"ftyp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx")
_PARENTS = (
    *(b"moov", b"trak", b"edts", b"mdia", b"minf", b"dinf", b"stbl", b"tref", b"udta"),
    *(b"moof", b"traf", b"mvex"),
)
_MAX_BOXES = 1_000_000
_MAX_TABLE_BYTES = 1 << 24
# A sample has a byte or more, but old QuickTime audio counts PCM samples of compressed sound, some 15 to a byte.
_SAMPLES_PER_BYTE = 16


@dataclass
class _Track:
    handler: bytes = b""
    codec: bytes = b""
    edits: int = 1
    samples: int = 0  # by the table of sizes, or of a fragment
    chunks: int = 0
    runs: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 3), np.int64))  # first chunk, samples in each

    @property
    def declared(self) -> int:
        """How many entries FFmpeg's index gets at most: each edit may repeat all samples."""
        chunks = np.maximum(0, np.diff(self.runs[:, 0], append=self.chunks + 1))
        in_chunks = int(np.dot(chunks.astype(float), self.runs[:, 1].astype(float)))
        return max(self.samples, in_chunks) * max(1, self.edits)


def check_declared_samples(path: Path) -> None:
    """Raise `MediaError` if the header declares more samples than a file of this size can hold."""
    size = path.stat().st_size
    declared = sum(track.declared for track in _tracks(path))
    if declared > _SAMPLES_PER_BYTE * size:
        raise MediaError(
            path, f"its header declares {declared:,} samples, more than its {size:,} bytes can hold: damaged or forged"
        )


def audio_codecs(path: Path) -> list[str]:
    """The four-character codes of the audio tracks of an MP4 or QuickTime file; none for any other file."""
    return [track.codec.decode("latin-1").strip() for track in _tracks(path) if track.handler == b"soun"]


def _tracks(path: Path) -> list[_Track]:
    tracks: list[_Track] = []
    with path.open("rb") as file:
        for name, length in _boxes(path, file):
            if name in (b"trak", b"traf"):
                tracks.append(_Track())
            elif tracks:
                _read_box(file, name, length, tracks[-1])
    return tracks


def _boxes(path: Path, file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(name, length of content) of every box, parents before their children; the file stands at the content."""
    if file.read(8)[4:] not in _FIRST:
        return
    position, ends = 0, [path.stat().st_size]  # ends of the boxes around the position
    for _ in range(_MAX_BOXES):
        while ends and position + 8 > ends[-1]:
            position = ends.pop()
        if not ends:
            return
        file.seek(position)
        head = file.read(16)
        length, name = struct.unpack(">I4s", head[:8])
        header = 16 if length == 1 else 8
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length == 0:  # to the end of what is around it
            length = ends[-1] - position
        if length < header:
            return  # damaged
        if name == b"cmov":
            raise MediaError(
                path, "its header is compressed (QuickTime 'cmov'), which is not supported: export it again"
            )
        end = min(position + length, ends[-1])
        file.seek(position + header)
        yield name, end - position - header
        if name in _PARENTS:
            position += header
            ends.append(end)
        else:
            position = end
    raise MediaError(path, f"its header has more than {_MAX_BOXES:,} boxes: damaged or forged")


def _read_box(file: BinaryIO, name: bytes, length: int, track: _Track) -> None:
    """Note what a box says of the samples of its track."""
    head = file.read(max(0, min(length, 16))).ljust(16, b"\0")
    first, second = struct.unpack(">II", head[4:12])  # after version and flags
    if name == b"hdlr" and not track.handler:
        track.handler = head[8:12]
    elif name == b"stsd":
        track.codec = head[12:16]
    elif name == b"elst":
        track.edits = first
    elif name in (b"stsz", b"stz2"):
        track.samples += second
    elif name == b"trun":
        track.samples += first
    elif name in (b"stco", b"co64"):
        track.chunks = first
    elif name == b"stsc" and length > 16:
        file.seek(-8, 1)
        table = file.read(min(12 * first, length - 8, _MAX_TABLE_BYTES))
        track.runs = np.frombuffer(table[: len(table) // 12 * 12], ">u4").reshape(-1, 3).astype(np.int64)

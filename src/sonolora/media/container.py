"""Opening a media file of unknown origin. In: a path. Out: an open file, or a `MediaError` that names what it is.

A forged file can be small and expensive to read: reading is bounded by limits on what headers declare, and by a
deadline that grows with the size of the file.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from sonolora.core.errors import MediaError
from sonolora.media.iso_boxes import check_declared_samples
from sonolora.media.pcm_headers import codec_code

MAX_PIXELS = 50_000_000  # of a picture: 8K has 33 million

# FFmpeg goes by the content, not by the extension, and also reads playlists that name other files and addresses.
# A playlist in an archive must not make it read those, so only formats that hold media are enabled.
_OPTIONS = {
    "format_whitelist": "aac,aiff,avi,caf,flac,matroska,mov,mp3,ogg,w64,wav",
    "protocol_whitelist": "file",
    "max_pixels": str(MAX_PIXELS),
}

# Seconds to read a file: plenty on a busy machine, and far less than a small forged file can take.
_BASE_SECONDS, _SECONDS_PER_MEGABYTE = 20.0, 5.0

# By their first bytes.
_UNSUPPORTED = {
    b"MThd": "MIDI (notes, not sound)",
    b"\x30\x26\xb2\x75": "Windows Media (WMA, WMV, ASF)",
    b"#!AMR": "AMR",
    b"MAC ": "Monkey's Audio (APE)",
    b"wvpk": "WavPack",
    b"DSD ": "DSF",
    b"FRM8": "DSDIFF",
    b".snd": "Sun/NeXT AU",
    b"FLV\x01": "Flash video",
    b"\x00\x00\x01\xba": "an MPEG program stream",
}
_FOREIGN = {
    b"PK\x03\x04": "a zip archive",
    b"%PDF": "a PDF",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"version https://git-lfs": "a Git LFS pointer: the content was not downloaded",
}
_CHUNKED = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM")
_SUPPORTED = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"caff": "CAF",
    b"ID3": "MP3",
    b"\x1a\x45\xdf\xa3": "Matroska or WebM",
    b"riff": "W64",
}


@dataclass(frozen=True)
class MediaFile:
    """An open file; `deadline` is a time of `time.monotonic`."""

    path: Path
    container: InputContainer
    deadline: float

    def packets(self, *streams: Stream) -> Iterator[Packet[Stream]]:
        """The packets of some streams in file order.

        MediaError past the deadline; av.FFmpegError where the container itself is damaged.
        """
        for packet in self.container.demux(*streams):
            if time.monotonic() > self.deadline:
                size = self.path.stat().st_size
                raise MediaError(self.path, f"it takes too long to read for its {size:,} bytes: damaged or forged")
            yield packet


@contextmanager
def open_media(path: Path) -> Iterator[MediaFile]:
    """The open file; MediaError if it is missing, empty, or not audio or video of a supported format."""
    try:
        size = path.stat().st_size
        if size == 0:
            raise MediaError(path, "the file is empty (0 bytes)")
        _check_kind(path)
        check_declared_samples(path)
        deadline = time.monotonic() + _BASE_SECONDS + _SECONDS_PER_MEGABYTE * size / 1e6
        # "file:" allows a colon in the name; tags in a legacy encoding are no reason to refuse the sound.
        container = av.open(f"file:{path}", options=_OPTIONS, metadata_errors="replace")
    except OSError as error:
        raise MediaError(path, f"the file cannot be opened: {(error.strerror or str(error)).lower()}") from error
    except av.FFmpegError as error:
        raise MediaError(path, _why_unreadable(path)) from error
    with container:
        for stream in container.streams.video:
            if stream.codec_context is not None:
                stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        yield MediaFile(path, container, deadline)


def _check_kind(path: Path) -> None:
    """Raise `MediaError` for the first bytes of another kind of file: FFmpeg might trust the extension instead."""
    head = _head(path)
    for magic, kind in _FOREIGN.items():
        if head.startswith(magic):
            raise MediaError(path, f"this is not audio or video but {kind}")
    for magic, kind in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise MediaError(path, f"this is {kind}, which is not supported: convert it to WAV or FLAC")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise MediaError(path, "this is not audio or video but a web page: download the file itself")


def _why_unreadable(path: Path) -> str:
    head = _head(path)
    kind = next((kind for magic, kind in _SUPPORTED.items() if head.startswith(magic)), "")
    if head.startswith(_CHUNKED):
        kind = "/".join(part.decode("latin-1").strip() for part in (head[:4], head[8:12]))
        if kind == "FORM/AIFC" and (code := codec_code(path)):
            return f"this is FORM/AIFC of '{code}', which cannot be decoded, or damaged: convert it to PCM"
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        kind = "MP4 or QuickTime"
    if kind:
        return f"this is {kind}, but cannot be read: it is damaged or cut short"
    return "this is not audio or video that can be read: another kind of file, damaged, or cut short"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)

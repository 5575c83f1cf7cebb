"""What cannot be read is named, and what is made to be expensive is cheap to refuse."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sonolora.core.errors import MediaError
from sonolora.media import container
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.audio_track import open_audio
from sonolora.media.soundtrack import decode_soundtrack
from sonolora.media.video import decode_frames, probe_video
from sonolora.media.write_audio import write_audio, write_wav
from sonolora.media.write_video import write_video


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("song.mid.wav", b"MThd\0\0\0\6", "this is MIDI (notes, not sound), which is not supported"),
        ("a.wav", bytes.fromhex("3026b2758e66cf11"), "this is Windows Media (WMA, WMV, ASF), which is not supported"),
        ("a.mp3", b"#!AMR\n", "this is AMR, which is not supported: convert it to WAV or FLAC"),
        ("a.flac", b"wvpk", "this is WavPack, which is not supported"),
        ("a.wav", b"PK\3\4", "this is not audio or video but a zip archive"),
        ("a.mp4", b"\x89PNG\r\n", "this is not audio or video but a PNG picture"),
        ("a.wav", b"version https://git-lfs.github.com/spec/v1\n", "this is not audio or video but a Git LFS pointer"),
        ("a.mp3", b"\n<!DOCTYPE html><html>", "but a web page: download the file itself"),
        ("a.aiff", b"FORM\0\0\0\1AIFF", "this is FORM/AIFF, but cannot be read: it is damaged or cut short"),
        ("a.aiff", b"FORM\0\0\0\1ILBM", "this is FORM/ILBM, but cannot be read"),
        ("a.wav", b"RIFF\0\0\0\1WAVE", "this is RIFF/WAVE, but cannot be read"),
        ("a.m4a", b"\0\0\0\x18ftypM4A ", "this is MP4 or QuickTime, but cannot be read"),
        ("a.wav", b"hello " * 100, "another kind of file"),
    ],
)
def test_the_kind_of_a_file_is_named(tmp_path: Path, name: str, head: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(head + bytes(40))
    with pytest.raises(MediaError) as caught:
        decode_audio(tmp_path / name)
    assert reason in caught.value.reason


def with_unknown_codec(path: Path, tracks: int, which: int) -> None:
    """Make the audio track number `which` of an MP4 one of Apple's spatial codec."""
    content = bytearray(path.read_bytes())
    entry = 0
    for _ in range(which + 1):
        entry = content.index(b"mp4a", entry + 1)
    content[entry : entry + 4] = b"apac"
    esds = content.index(b"esds", entry)
    content[esds : esds + 4] = b"dapa"
    path.write_bytes(content)
    assert content.count(b"mp4a") == tracks - 1


def two_tracks(path: Path, *hertz: float, video: bool) -> None:
    time_axis = np.arange(2 * 48_000) / 48_000
    with av.open(str(path), "w") as out:
        streams = [out.add_stream("aac", 48_000, layout="stereo") for _ in hertz]
        if video:
            picture = out.add_stream("mpeg4", 24, width=64, height=64, pix_fmt="yuv420p")
            for index in range(48):
                frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
                frame.pts, frame.time_base = index, Fraction(1, 24)
                out.mux(picture.encode(frame))
            out.mux(picture.encode(None))
        for stream, frequency in zip(streams, hertz, strict=True):
            tone = np.repeat(0.4 * np.sin(2 * np.pi * frequency * time_axis), 2).astype(np.float32)
            sound = av.AudioFrame.from_ndarray(tone.reshape(1, -1), "flt", "stereo")
            sound.sample_rate, sound.pts, sound.time_base = 48_000, 0, Fraction(1, 48_000)
            out.mux(stream.encode(sound))
            out.mux(stream.encode(None))


@pytest.mark.parametrize("video", [False, True])
def test_a_track_that_cannot_be_decoded_does_not_hide_one_that_can(tmp_path: Path, peak_hertz, video: bool) -> None:
    path = tmp_path / ("a.mp4" if video else "a.m4a")
    two_tracks(path, 440, 660, video=video)
    with_unknown_codec(path, 2, 0)
    read = (lambda: decode_soundtrack(path, 0.0, 2.0)) if video else (lambda: decode_audio(path))
    decoded = read()
    assert decoded.warning is None
    assert peak_hertz(decoded.waveform, 0) == pytest.approx(660, abs=0.2)
    if video:
        assert probe_video(path).audio_seconds == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("video", [False, True])
def test_a_track_of_damaged_packets_does_not_hide_one_that_is_whole(tmp_path: Path, peak_hertz, video: bool) -> None:
    path = tmp_path / ("a.mp4" if video else "a.m4a")
    two_tracks(path, 440, 660, video=video)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        packets = [(packet.pos, packet.size) for packet in file.demux(file.streams.audio[0]) if packet.size]
    for position, size in packets:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    decoded = decode_soundtrack(path, 0.0, 2.0) if video else decode_audio(path)
    assert peak_hertz(decoded.waveform, 0) == pytest.approx(660, abs=0.2)


def test_where_no_track_can_be_decoded_the_codec_is_named(tmp_path: Path) -> None:
    for name, video in (("a.m4a", False), ("a.mp4", True)):
        two_tracks(tmp_path / name, 440, video=video)
        with_unknown_codec(tmp_path / name, 1, 0)
        with pytest.raises(MediaError, match="its sound is in 'apac', which cannot be decoded: convert it to WAV"):
            decode_audio(tmp_path / name)
    with pytest.raises(MediaError, match="'apac'"):
        decode_soundtrack(tmp_path / "a.mp4", 0.0, 1.0)
    assert probe_video(tmp_path / "a.mp4").has_audio  # the error for a video without sound would be wrong


# Boxes of an MP4.
def box(name: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return struct.pack(">I", 8 + len(content)) + name + content


def full(name: bytes, *numbers: int | bytes, flags: int = 0) -> bytes:
    return box(name, struct.pack(">I", flags), *(n if isinstance(n, bytes) else struct.pack(">I", n) for n in numbers))


def track(handler: bytes, entry: bytes, *tables: bytes, edits: bytes = b"") -> bytes:
    header = full(b"tkhd", 0, 0, 1, 0, 1000, bytes(52), 64 << 16, 64 << 16, flags=3)
    information = full(b"vmhd", bytes(8)) if handler == b"vide" else full(b"smhd", bytes(4))
    where = box(b"dinf", full(b"dref", 1, full(b"url ", flags=1)))
    samples = box(b"stbl", full(b"stsd", 1, entry), *tables)
    media = (full(b"mdhd", 0, 0, 1000, 1000, 0), full(b"hdlr", 0, handler, bytes(12), b"x\0"))
    return box(b"trak", header, edits, box(b"mdia", *media, box(b"minf", information, where, samples)))


def movie(*parts: bytes, after: bytes = b"") -> bytes:
    header = full(b"mvhd", 0, 0, 1000, 1000, bytes(80))
    return box(b"ftyp", b"isom\0\0\0\0isom") + box(b"moov", header, *parts) + after + box(b"mdat", b"x" * 64)


def tables(count: int, size: int = 1, duration: int = 40) -> tuple[bytes, ...]:
    chunks = full(b"stsc", 1, 1, count, 1)
    return full(b"stts", 1, count, duration), chunks, full(b"stsz", size, count), full(b"stco", 1, 600)


VIDEO = box(b"avc1", bytes(6), b"\0\1", bytes(16), struct.pack(">HH", 64, 64), bytes(50))
SOUND = box(b"sowt", bytes(6), b"\0\1", bytes(8), struct.pack(">HHHHI", 2, 16, 0, 0, 48_000 << 16))
BOMBS: dict[str, Callable[[int], bytes]] = {
    "sizes": lambda count: movie(track(b"vide", VIDEO, *tables(count))),
    "sound": lambda count: movie(track(b"soun", SOUND, *tables(count, 4, 1))),
    "chunks": lambda count: movie(
        track(
            b"soun",
            SOUND,
            full(b"stts", 1, 1, 1),
            full(b"stsc", 1, 1, count // 50, 1),
            full(b"stsz", 4, 1),
            full(b"stco", 100, *range(600, 1000, 4)),
        )
    ),
    "edits": lambda count: movie(
        track(
            b"vide",
            VIDEO,
            *tables(count // 1000),
            edits=box(b"edts", full(b"elst", 2000, *(40, 0, 0x10000) * 2000)),
        )
    ),
    "fragment": lambda count: movie(
        track(b"vide", VIDEO, *tables(0)),
        box(b"mvex", full(b"trex", 1, 1, 40, 1, 0)),
        after=box(b"moof", full(b"mfhd", 1), box(b"traf", full(b"tfhd", 1, flags=0x20000), full(b"trun", count))),
    ),
    "a stray end of a box": lambda count: movie(
        box(b"trak", full(b"tkhd", bytes(80)), b"\0\0\0"), track(b"vide", VIDEO, *tables(count))
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_declares_more_than_the_file_can_hold_is_refused_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(BOMBS[name](20_000_000))
    started = time.process_time()
    for read in (probe_video, decode_audio):
        with pytest.raises(MediaError, match="samples, more than its"):
            read(path)
    assert time.process_time() - started < 0.5


def test_a_compressed_header_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mov").write_bytes(movie(box(b"cmov", box(b"dcom", b"zlib"))))
    with pytest.raises(MediaError, match="header is compressed"):
        probe_video(tmp_path / "a.mov")


def test_endless_boxes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sonolora.media.iso_boxes._MAX_BOXES", 1000)
    (tmp_path / "a.mp4").write_bytes(box(b"ftyp", b"isom") + box(b"free") * 1000)
    with pytest.raises(MediaError, match="more than 1,000 boxes"):
        probe_video(tmp_path / "a.mp4")


def test_pictures_of_absurd_size_are_refused_without_decoding_one(tmp_path: Path) -> None:
    """PNGs of 7,100 x 7,100 pixels in a track that says 64 x 64."""
    side = 7_100
    rows = zlib.compress(bytes(1 + 3 * side) * side, 1)
    parts = (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", 24, width=64, height=64, pix_fmt="rgb24")
        stream.encode(av.VideoFrame(64, 64, "rgb24"))
        for index in range(3):
            packet = av.Packet(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
            packet.pts = packet.dts = index
            packet.stream, packet.time_base = stream, Fraction(1, 24)
            out.mux(packet)
    started = time.process_time()
    with pytest.raises(MediaError, match="damaged, empty or too large"):
        probe_video(path)
    with pytest.raises(MediaError, match="damaged"):
        decode_frames(path, frame_rate=24, frames=1, width=32, height=32)
    assert time.process_time() - started < 1


def test_a_declared_size_beyond_the_limit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((3, 64, 96, 3), np.uint8), 24, None)
    monkeypatch.setattr("sonolora.media.timeline.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(MediaError, match="a picture of 96 x 64 pixels is too large: scale it down"):
        probe_video(tmp_path / "a.mp4")


def test_each_file_has_a_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", Waveform(np.zeros((2, 480_000), np.float32), 48_000))
    write_video(tmp_path / "a.mp4", np.zeros((48, 64, 96, 3), np.uint8), 24, None)
    decode_audio(tmp_path / "a.wav")
    monkeypatch.setattr(container, "_BASE_SECONDS", -10.0)
    for read in (
        lambda: decode_audio(tmp_path / "a.wav"),
        lambda: probe_video(tmp_path / "a.mp4"),
        lambda: decode_frames(tmp_path / "a.mp4", frame_rate=24, frames=9, width=32, height=32),
    ):
        with pytest.raises(MediaError, match=r"takes too long to read for its [\d,]+ bytes"):
            read()


def test_the_deadline_grows_with_the_file(tmp_path: Path) -> None:
    for name, seconds in (("short.wav", 1), ("long.wav", 100)):
        write_audio(tmp_path / name, Waveform(np.zeros((2, seconds * 48_000), np.float32), 48_000))
    deadlines = []
    for name in ("short.wav", "long.wav"):
        with open_audio(tmp_path / name) as sound:
            deadlines.append(sound.media.deadline - time.monotonic())
    assert deadlines[0] == pytest.approx(21, abs=1)
    assert deadlines[1] == pytest.approx(20 + 5 * 19.2, abs=1)


def test_more_channels_than_can_be_read(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", Waveform(np.zeros((65, 100), np.float32), 48_000))
    with pytest.raises(MediaError, match="it has 65 channels; at most 64 can be read"):
        decode_audio(tmp_path / "a.wav")

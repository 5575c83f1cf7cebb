from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sonolora.core.errors import MediaError
from sonolora.media.audio import Waveform
from sonolora.media.soundtrack import decode_soundtrack


def _video(
    path: Path,
    *pieces: tuple[float, Waveform],
    codec: str = "pcm_s16le",
    layout: str = "stereo",
    picture_start: float = 0.0,
) -> None:
    """Three seconds of a dark picture, with sound that begins at the given seconds."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", 24, width=32, height=32, pix_fmt="yuv420p")
        picture.codec_context.time_base = Fraction(1, 1000)
        sound = container.add_stream(codec, 48_000, layout=layout)
        for begin, waveform in pieces:
            for at in range(0, waveform.samples.shape[1], 4800):
                block = np.ascontiguousarray(waveform.samples[:, at : at + 4800].T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, "flt", layout)
                frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
                frame.pts = round(begin * 48_000) + at
                container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
        for index in range(72):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            frame.pts, frame.time_base = round((index / 24 + picture_start) * 1000), Fraction(1, 1000)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))


def _noise(seconds: float, channels: int = 2) -> Waveform:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, round(seconds * 48_000)))
    return Waveform(samples.astype(np.float32), 48_000)


def _assert_spans(got: Waveform, *expected: tuple[float, float, Waveform | None, float]) -> None:
    """Each span (from, to, source, seconds into the source) holds the source, or silence where it is None."""
    for begin, end, source, into in expected:
        low, high, offset = (round(seconds * 48_000) for seconds in (begin, end, into))
        part = got.samples[:, low:high]
        want = np.zeros_like(part) if source is None else source.samples[:, offset : offset + high - low]
        np.testing.assert_allclose(part, want, atol=1 / 2**14)


@pytest.mark.parametrize("name", ["a.mov", "a.mkv", "a.avi"])
def test_all_of_it(tmp_path: Path, name: str) -> None:
    noise = _noise(3.0)
    _video(tmp_path / name, (0.0, noise))
    decoded = decode_soundtrack(tmp_path / name, 0.0, 3.0)
    assert decoded.waveform.samples.shape == (2, 144_000)
    assert decoded.waveform.sample_rate == 48_000
    assert decoded.warning is None
    _assert_spans(decoded.waveform, (0, 3, noise, 0))


def test_a_span_is_a_part_of_the_whole(tmp_path: Path) -> None:
    noise = _noise(3.0)
    _video(tmp_path / "a.mov", (0.0, noise))
    part = decode_soundtrack(tmp_path / "a.mov", 1.25, 0.7)
    assert part.waveform.samples.shape == (2, 33_600)
    assert part.warning is None
    _assert_spans(part.waveform, (0, 0.7, noise, 1.25))


@pytest.mark.parametrize("name", ["a.mov", "a.mp4", "a.mkv"])
def test_sound_that_begins_late_has_silence_before_it(tmp_path: Path, name: str) -> None:
    noise = _noise(2.5)
    _video(tmp_path / name, (0.5, noise), codec="flac" if name == "a.mp4" else "pcm_s16le")
    decoded = decode_soundtrack(tmp_path / name, 0.0, 3.0)
    _assert_spans(decoded.waveform, (0, 0.5, None, 0), (0.5, 3, noise, 0))
    assert decoded.warning == "2.50 s of sound for 3.00 s of picture: the rest is silence"


@pytest.mark.parametrize("name", ["a.mov", "a.mkv"])
def test_sound_before_the_first_frame_is_cut_off(tmp_path: Path, name: str) -> None:
    noise = _noise(3.0)
    _video(tmp_path / name, (0.0, noise), picture_start=0.4)
    decoded = decode_soundtrack(tmp_path / name, 0.0, 2.6)
    _assert_spans(decoded.waveform, (0, 2.6, noise, 0.4))
    assert decoded.warning is None


def test_sound_that_ends_early_is_followed_by_silence(tmp_path: Path) -> None:
    noise = _noise(1.75)
    _video(tmp_path / "a.mov", (0.0, noise))
    decoded = decode_soundtrack(tmp_path / "a.mov", 0.0, 3.0)
    _assert_spans(decoded.waveform, (0, 1.75, noise, 0), (1.75, 3, None, 0))
    assert decoded.warning == "1.75 s of sound for 3.00 s of picture: the rest is silence"
    assert decode_soundtrack(tmp_path / "a.mov", 0.0, 1.8).warning is None  # a tenth of a second may lack
    assert not decode_soundtrack(tmp_path / "a.mov", 2.0, 1.0).waveform.samples.any()


def test_what_follows_a_gap_stays_in_its_place(tmp_path: Path) -> None:
    first, second = _noise(1.0), _noise(1.2)
    _video(tmp_path / "a.mkv", (0.0, first), (1.8, second))
    decoded = decode_soundtrack(tmp_path / "a.mkv", 0.0, 3.0)
    _assert_spans(decoded.waveform, (0, 1, first, 0), (1, 1.8, None, 0), (1.8, 3, second, 0))
    assert decoded.warning == "2.20 s of sound for 3.00 s of picture: the rest is silence"


def test_jitter_of_the_timestamps_tears_nothing(tmp_path: Path) -> None:
    noise = _noise(3.0)
    blocks = np.split(noise.samples, 30, axis=1)
    jitter = np.random.default_rng(1).uniform(0, 0.015, 30)
    jitter[0] = 0
    _video(
        tmp_path / "a.mkv",
        *((index / 10 + jitter[index], Waveform(block, 48_000)) for index, block in enumerate(blocks)),
    )
    _assert_spans(decode_soundtrack(tmp_path / "a.mkv", 0.0, 3.0).waveform, (0, 3, noise, 0))


@pytest.mark.parametrize(("layout", "speakers"), [("mono", ("FC",)), ("5.1", ("FL", "FR", "FC", "LFE", "BL", "BR"))])
def test_channels_are_kept_and_named(tmp_path: Path, layout: str, speakers: Sequence[str]) -> None:
    noise = _noise(3.0, len(speakers))
    _video(tmp_path / "a.mkv", (0.0, noise), codec="flac", layout=layout)
    waveform = decode_soundtrack(tmp_path / "a.mkv", 0.0, 3.0).waveform
    assert waveform.speakers == speakers
    _assert_spans(waveform, (0, 3, noise, 0))


def test_damage_becomes_silence_and_is_told(tmp_path: Path) -> None:
    noise = _noise(3.0)
    path = tmp_path / "a.mp4"
    _video(path, (0.0, noise), codec="flac")
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + 200_000
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    decoded = decode_soundtrack(path, 0.0, 3.0)
    assert decoded.warning is not None
    assert "packets of its sound could not be decoded; " in decoded.warning
    assert "for 3.00 s of picture: the rest is silence" in decoded.warning
    _assert_spans(decoded.waveform, (0, 0.8, noise, 0), (2.2, 3, noise, 2.2))


def test_silent_video_has_no_audio_track(tmp_path: Path, make_video) -> None:
    make_video(tmp_path / "a.mp4", codecs=("libx264", None))
    with pytest.raises(MediaError, match=r"a\.mp4: there is no audio track in it"):
        decode_soundtrack(tmp_path / "a.mp4", 0.0, 3.0)


def test_audio_track_without_samples(tmp_path: Path) -> None:
    _video(tmp_path / "a.mkv")
    with pytest.raises(MediaError, match="empty or damaged"):
        decode_soundtrack(tmp_path / "a.mkv", 0.0, 3.0)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    noise = _noise(3.0)
    noise.samples[0, 1000] = np.nan
    _video(tmp_path / "a.mkv", (0.0, noise), codec="pcm_f32le")
    with pytest.raises(MediaError, match="not finite"):
        decode_soundtrack(tmp_path / "a.mkv", 0.0, 3.0)

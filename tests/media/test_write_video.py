from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sonolora.core.atomic_files import OutputError
from sonolora.media.audio import decode_audio
from sonolora.media.video import VIDEO_EXTENSIONS, decode_frames, probe_video
from sonolora.media.write_video import write_video


def _frames(count: int, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """Colours that change slowly over the picture and from frame to frame."""
    down, across = np.mgrid[0:height, 0:width]
    ramps = [down * 255 / height, across * 255 / width, (down + across) % 128 + 64]
    return np.array([np.roll(np.stack(ramps, axis=-1), index, axis=1) for index in range(count)]).astype(np.uint8)


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
@pytest.mark.parametrize(("frame_rate", "seconds"), [(24, 2.0), (30, 1.6), (23.976, 48 / 23.976)])
def test_round_trip(tmp_path: Path, tones, peak_hertz, extension: str, frame_rate: float, seconds: float) -> None:
    path = tmp_path / f"a{extension}"
    frames = _frames(48)
    write_video(path, frames, frame_rate, tones(440, 660, seconds=seconds))
    info = probe_video(path)
    assert (info.width, info.height, info.frames) == (96, 64, 48)
    assert info.fps == pytest.approx(frame_rate, rel=2e-3)
    assert info.audio_seconds == pytest.approx(seconds, abs=0.025)
    assert info.warning is None
    got = decode_frames(path, frame_rate=frame_rate, frames=48, width=96, height=64)
    difference = np.abs(got.astype(int) - frames)
    assert difference.mean() < (0.001 if extension == ".mkv" else 6)
    sound = decode_audio(path).waveform
    assert [peak_hertz(sound, channel) for channel in (0, 1)] == pytest.approx([440, 660], abs=0.1)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
def test_the_same_video_gives_the_same_file(tmp_path: Path, tones, extension: str) -> None:
    files = [tmp_path / f"{name}{extension}" for name in "ab"]
    for file in files:
        write_video(file, _frames(4), 24, tones(440, seconds=0.2))
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("extension", "container", "codecs"),
    [
        (".mp4", "mov,mp4,m4a,3gp,3g2,mj2", ("h264", "aac")),
        (".mov", "mov,mp4,m4a,3gp,3g2,mj2", ("h264", "pcm_s16le")),
        (".avi", "avi", ("mpeg4", "pcm_s16le")),
        (".mkv", "matroska,webm", ("ffv1", "flac")),
    ],
)
def test_the_extension_decides_the_format(tmp_path: Path, tones, extension: str, container: str, codecs) -> None:
    path = tmp_path / f"A{extension.upper()}"
    write_video(path, _frames(4), 24, tones(440, seconds=0.2))
    with av.open(str(path)) as reader:
        assert reader.format.name == container
        assert tuple(stream.codec_context.name for stream in reader.streams) == codecs


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
@pytest.mark.parametrize("height", [64, 768])
def test_colours_come_back(tmp_path: Path, extension: str, height: int) -> None:
    patches = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    picture = patches.repeat(height // 4, axis=0).repeat(32, axis=1)
    write_video(tmp_path / f"a{extension}", picture[None], 24, None)
    (got,) = decode_frames(tmp_path / f"a{extension}", frame_rate=24, frames=1, width=128, height=height)
    middles = got[height // 8 :: height // 4, 16::32].astype(int)
    assert np.abs(middles - patches).max() <= (0 if extension == ".mkv" else 6)


def test_silent_video(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", _frames(3), 24, None)
    assert not probe_video(tmp_path / "a.mp4").has_audio


@pytest.mark.parametrize("extension", VIDEO_EXTENSIONS)
def test_rates_that_a_codec_does_not_know_are_resampled(tmp_path: Path, tones, peak_hertz, extension: str) -> None:
    write_video(tmp_path / f"a{extension}", _frames(24), 24, tones(440, seconds=1.0, sample_rate=10_000))
    sound = decode_audio(tmp_path / f"a{extension}").waveform
    assert sound.sample_rate == (48_000 if extension == ".mp4" else 10_000)
    assert sound.channels == 2
    assert peak_hertz(sound, 1) == pytest.approx(440, abs=0.2)


def test_odd_sides_need_a_codec_that_has_them(tmp_path: Path) -> None:
    frames = _frames(2, 33, 51)
    write_video(tmp_path / "a.mkv", frames, 24, None)
    np.testing.assert_array_equal(
        decode_frames(tmp_path / "a.mkv", frame_rate=24, frames=2, width=51, height=33), frames
    )
    for name in ("a.mp4", "a.mov", "a.avi"):
        with pytest.raises(ValueError, match="width and height must be even, not 51 x 33"):
            write_video(tmp_path / name, frames, 24, None)
    assert [file.name for file in tmp_path.iterdir()] == ["a.mkv"]


def test_unknown_extension_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.mkv"):
        write_video(tmp_path / "a.webm", _frames(1), 24, None)
    with pytest.raises(OutputError, match="folder does not exist"):
        write_video(tmp_path / "nowhere" / "a.mp4", _frames(1), 24, None)

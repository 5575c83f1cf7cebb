from __future__ import annotations

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from sonolora.core.atomic_files import OutputError
from sonolora.media.audio import AUDIO_EXTENSIONS, Waveform, decode_audio
from sonolora.media.write_audio import write_audio, write_wav


@pytest.mark.parametrize("extension", AUDIO_EXTENSIONS)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100, 48_000])
def test_round_trip(tmp_path: Path, tones, peak_hertz, extension: str, sample_rate: int) -> None:
    path = tmp_path / f"tone{extension}"
    write_audio(path, tones(440, 660, sample_rate=sample_rate))
    decoded = decode_audio(path)
    assert decoded.warning is None
    assert decoded.waveform.sample_rate == (48_000 if extension == ".ogg" else sample_rate)  # Opus knows no other
    assert decoded.waveform.channels == 2
    # Raw AAC cannot say that it is padded: a frame of encoder delay, and the last frame is filled up.
    padding = 2 * 1024 / sample_rate if extension == ".aac" else 0.0
    assert 3.0 <= decoded.waveform.seconds <= 3.0 + padding + 1e-6
    assert peak_hertz(decoded.waveform, 0) == pytest.approx(440, abs=0.1)
    assert peak_hertz(decoded.waveform, 1) == pytest.approx(660, abs=0.1)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("extension", AUDIO_EXTENSIONS)
def test_mono_stays_mono(tmp_path: Path, tones, extension: str) -> None:
    write_audio(tmp_path / f"a{extension}", tones(440, seconds=0.5))
    assert decode_audio(tmp_path / f"a{extension}").waveform.channels == 1


@pytest.mark.parametrize(
    ("extension", "container", "codec"),
    [
        (".wav", "wav", "pcm_s16le"),
        (".mp3", "mp3", "mp3float"),
        (".flac", "flac", "flac"),
        (".ogg", "ogg", "opus"),
        (".aac", "aac", "aac"),
        (".m4a", "mov,mp4,m4a,3gp,3g2,mj2", "aac"),
    ],
)
def test_the_extension_decides_the_format(tmp_path: Path, tones, extension: str, container: str, codec: str) -> None:
    path = tmp_path / f"A{extension.upper()}"
    write_audio(path, tones(440, seconds=0.2))
    with av.open(str(path)) as reader:
        assert (reader.format.name, reader.streams.audio[0].codec_context.name) == (container, codec)


@pytest.mark.parametrize("extension", AUDIO_EXTENSIONS)
def test_the_same_sound_gives_the_same_file(tmp_path: Path, tones, extension: str) -> None:
    files = [tmp_path / f"{name}{extension}" for name in "ab"]
    for file in files:
        write_audio(file, tones(440, seconds=0.2))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_unknown_extension(tmp_path: Path, tones) -> None:
    with pytest.raises(ValueError, match=r"\.mp3"):
        write_audio(tmp_path / "a.xyz", tones(440))


def test_wav_is_read_by_the_standard_library(tmp_path: Path) -> None:
    samples = np.array([[0.0, 0.5, 1.0, 2.0], [-0.25, -1.0, -2.0, 1 / 32768]], np.float32)
    write_wav(tmp_path / "a.wav", Waveform(samples, 22_050))
    with wave.open(str(tmp_path / "a.wav")) as reader:
        assert reader.getparams()[:4] == (2, 2, 22_050, 4)
        pcm = np.frombuffer(reader.readframes(4), "<i2").reshape(4, 2).T
    assert pcm.tolist() == [[0, 16384, 32767, 32767], [-8192, -32768, -32768, 1]]


def test_not_a_number_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite"):
        write_wav(tmp_path / "a.wav", Waveform(np.full((1, 5), np.nan, np.float32), 48_000))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
def test_missing_folder(tmp_path: Path, tones, name: str) -> None:
    with pytest.raises(OutputError, match="folder does not exist"):
        write_audio(tmp_path / "nowhere" / name, tones(440))

"""Spans of recordings: the same samples as in the whole, and memory for the span alone."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sonolora.core.errors import MediaError
from sonolora.media.audio import AUDIO_EXTENSIONS, Waveform, decode_audio
from sonolora.media.source_format import probe_audio
from sonolora.media.write_audio import write_audio, write_wav

RATE = 48_000


def noise(seconds: float) -> Waveform:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (2, round(seconds * RATE)))
    return Waveform(samples.astype(np.float32), RATE)


def silent_wav(path: Path, seconds: int) -> None:
    """Stereo of 16 bits; the samples are a hole in the file."""
    size = seconds * RATE * 4
    form = struct.pack("<HHIIHH", 1, 2, RATE, RATE * 4, 4, 16)
    head = b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + form
    with path.open("wb") as file:
        file.write(head + b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


def chirp(seconds: float) -> Waveform:
    """It never repeats itself."""
    time = np.arange(round(seconds * RATE)) / RATE
    samples = [0.4 * np.sin(2 * np.pi * (200 + slope * time) * time) for slope in (40, 55)]
    return Waveform(np.array(samples, np.float32), RATE)


@pytest.mark.parametrize("extension", AUDIO_EXTENSIONS)
def test_a_span_holds_the_samples_of_the_whole(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    write_audio(path, chirp(13.21))  # long enough for the end to be sought
    whole = decode_audio(path)
    samples = whole.waveform.samples
    assert whole.seconds == whole.waveform.seconds
    for start, seconds in ((0.0, 2.0), (1.37, 2.0), (12.0, 5.0), (0.0, 20.0)):
        part = decode_audio(path, start, seconds)
        low = round(start * RATE)
        np.testing.assert_array_equal(part.waveform.samples, samples[:, low : low + round(seconds * RATE)])
        assert part.seconds == pytest.approx(whole.seconds, abs=0.01)
        assert part.warning is None
    np.testing.assert_array_equal(decode_audio(path, 12.5).waveform.samples, samples[:, round(12.5 * RATE) :])
    for seconds in (1.5, 9.0, 20.0):
        end = decode_audio(path, seconds=seconds, at_end=True)
        # Decoders of AAC fill bands with noise of a random generator, whose state is not that of the whole.
        tolerance = 0.01 if extension == ".m4a" else 0
        np.testing.assert_allclose(end.waveform.samples, samples[:, -round(seconds * RATE) :], rtol=0, atol=tolerance)
        assert end.seconds == pytest.approx(whole.seconds, abs=1e-6)
        assert end.warning is None
    assert probe_audio(path).seconds == pytest.approx(whole.seconds, abs=0.03)
    with pytest.raises(MediaError, match=r"it lasts 13\.\d\d s, so there is nothing after 14\.00 s"):
        decode_audio(path, 14.0, 1.0)


def test_a_recording_of_two_hours_is_read_in_part_and_refused_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    silent_wav(path, 7200)
    for at_end in (False, True):
        decoded = decode_audio(path, seconds=5.0, at_end=at_end)
        assert decoded.waveform.samples.shape == (2, 5 * RATE)
        assert decoded.seconds == probe_audio(path).seconds == 7200
    with pytest.raises(MediaError, match="too long: at most 93 minutes of such sound can be read at once"):
        decode_audio(path)


def test_the_memory_that_a_span_needs_does_not_depend_on_the_recording(tmp_path: Path) -> None:
    """Peaks of child processes, so that one does not hide another. Half an hour is 0.7 GB of float32."""
    code = (
        "import resource, sys; from pathlib import Path; from sonolora.media.audio import decode_audio;"
        "[decode_audio(Path(sys.argv[1]), seconds=5.0, at_end=at_end) for at_end in (False, True)];"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for seconds in (6, 1800):
        silent_wav(tmp_path / "a.wav", seconds)
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "a.wav"], capture_output=True, text=True)
        peaks.append(int(done.stdout) / 1e6)  # GB: the system counts in KiB
    assert peaks[1] - peaks[0] < 0.05, peaks


def test_what_is_not_finite_outside_the_span_does_not_matter(tmp_path: Path) -> None:
    samples = noise(10).samples
    samples[0, 5 * RATE] = np.nan
    form = struct.pack("<HHIIHH", 3, 2, RATE, RATE * 8, 8, 32)
    data = samples.T.astype("<f4").tobytes()
    body = b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack("<I", len(data)) + data
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    assert decode_audio(tmp_path / "a.wav", seconds=4.9).waveform.seconds == 4.9
    assert decode_audio(tmp_path / "a.wav", seconds=4.9, at_end=True).waveform.seconds == 4.9
    for arguments in ({}, {"start": 4.0, "seconds": 2.0}, {"seconds": 6.0, "at_end": True}):
        with pytest.raises(MediaError, match="not finite"):
            decode_audio(tmp_path / "a.wav", **arguments)


@pytest.mark.parametrize("extension", [".wav", ".mp3", ".flac"])
def test_a_file_that_is_cut_off_behind_the_span_is_warned_of(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a{extension}"
    write_audio(path, noise(3))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    warning = decode_audio(path, seconds=1.0).warning
    assert warning is not None
    assert "header says 3.00 s, 1." in warning


def test_the_last_seconds_of_a_file_whose_header_promises_more(tmp_path: Path) -> None:
    """Seeking leads behind the end: it is read from the start."""
    path = tmp_path / "a.flac"
    write_audio(path, noise(60))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    whole, end = decode_audio(path), decode_audio(path, seconds=5.0, at_end=True)
    np.testing.assert_array_equal(end.waveform.samples, whole.waveform.samples[:, -5 * RATE :])
    assert end.warning == whole.warning


def test_a_length_that_no_header_declares_is_counted(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.aac", noise(20))
    assert decode_audio(tmp_path / "a.aac", seconds=1.0).seconds == pytest.approx(20.04, abs=0.03)
    write_wav(tmp_path / "pipe.wav", noise(20))
    content = bytearray((tmp_path / "pipe.wav").read_bytes())
    content[40:44] = b"\xff" * 4
    (tmp_path / "pipe.wav").write_bytes(content)
    assert decode_audio(tmp_path / "pipe.wav", seconds=1.0).seconds == 20

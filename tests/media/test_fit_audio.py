from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonolora.media.audio import Waveform, decode_audio, peak, resample
from sonolora.media.fit_audio import cut_or_padded, fit_audio, seconds_used
from sonolora.media.write_audio import write_wav


@pytest.mark.parametrize(
    ("excess", "preserve_pitch", "how"),
    [
        (0.0, True, "exact"),
        (0.0, False, "exact"),
        (0.0001, True, "exact"),  # 0.5 ms of 5 s
        (-0.0001, True, "exact"),
        (-0.0001, False, "exact"),
        (0.0003, True, "stretched"),  # 1.5 ms
        (0.0003, False, "trimmed"),
        (-0.0003, False, "padded"),
        (0.019, True, "stretched"),
        (0.019, False, "trimmed"),
        (-0.019, True, "stretched"),
        (-0.019, False, "padded"),
        (0.02, True, "stretched"),
        (-0.02, True, "stretched"),
        (-0.02, False, "padded"),
        (0.021, True, "trimmed"),
        (0.021, False, "trimmed"),
        (1.5, True, "trimmed"),
        (-0.021, True, "too short"),
        (-0.021, False, "too short"),
        (-0.9, True, "too short"),
    ],
)
@pytest.mark.parametrize("sample_rate", [16_000, 44_100])
def test_rules_at_their_borders(tones, excess: float, preserve_pitch: bool, how: str, sample_rate: int) -> None:
    clip = tones(440, 660, seconds=5.0 * (1 + excess), sample_rate=sample_rate)
    fitted = fit_audio(clip, 5.0, preserve_pitch=preserve_pitch)
    assert fitted.how == how
    if how == "too short":
        assert fitted.waveform is None
        assert f"{clip.seconds:.3f} s" in fitted.detail
        assert "5.000 s" in fitted.detail
    else:
        assert fitted.waveform is not None
        assert fitted.waveform.samples.shape == (2, 5 * sample_rate)
        assert fitted.waveform.sample_rate == sample_rate


@pytest.mark.parametrize("excess", [-0.019, 0.019])
def test_stretching_keeps_the_pitch_and_the_whole_clip(tones, peak_hertz, excess: float) -> None:
    clip = tones(440, 660, seconds=5.0 * (1 + excess))
    clip.samples[:, clip.samples.shape[1] // 2 :] *= 0.5  # the level drops in the middle
    fitted = fit_audio(clip, 5.0, preserve_pitch=True).waveform
    assert fitted is not None
    assert peak_hertz(fitted, 0) == pytest.approx(440, abs=0.1)
    assert peak_hertz(fitted, 1) == pytest.approx(660, abs=0.1)
    loud = np.flatnonzero(np.abs(fitted.samples[0]) > 0.3)
    assert loud[-1] / 48_000 == pytest.approx(2.5, abs=0.03)  # trimming would leave it at 2.45 or 2.55
    assert peak(fitted) < 0.45


def test_trimming_keeps_the_beginning_and_padding_adds_silence_at_the_end(tones) -> None:
    clip = tones(440, seconds=1.0)
    trimmed = fit_audio(clip, 0.5, preserve_pitch=True).waveform
    padded = fit_audio(clip, 1.01, preserve_pitch=False).waveform
    assert trimmed is not None
    assert padded is not None
    np.testing.assert_array_equal(trimmed.samples, clip.samples[:, :24_000])
    np.testing.assert_array_equal(padded.samples[:, :48_000], clip.samples)
    assert not padded.samples[:, 48_000:].any()


def test_stretching_is_repeatable(tones) -> None:
    clip = tones(440, seconds=0.99)
    first, second = (fit_audio(clip, 1.0, preserve_pitch=True).waveform for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first.samples, second.samples)


def test_either_end_is_kept() -> None:
    clip = Waveform(np.arange(1, 11, dtype=np.float32)[None] / 10, 10)
    for length, keep_end, expected in (
        (4, False, [1, 2, 3, 4]),
        (4, True, [7, 8, 9, 10]),
        (12, False, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0]),
        (12, True, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (10, True, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (0, True, []),
    ):
        samples = cut_or_padded(clip, length, keep_end=keep_end).samples[0] * 10
        np.testing.assert_allclose(samples, expected, atol=1e-6)


def test_the_end_of_a_long_clip_can_be_kept(tones) -> None:
    clip = tones(440, seconds=3.0)
    fitted = fit_audio(clip, 1.0, preserve_pitch=True, keep_end=True)
    assert fitted.waveform is not None
    np.testing.assert_array_equal(fitted.waveform.samples, clip.samples[:, -48_000:])
    assert (fitted.how, fitted.detail) == ("trimmed", "trimmed from 3.000 s to the last 1.000 s")
    near = fit_audio(clip, 3.01, preserve_pitch=False, keep_end=True).waveform
    assert near is not None
    np.testing.assert_array_equal(near.samples[:, -144_000:], clip.samples)


@pytest.mark.parametrize("sample_rate", [8000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("excess", [0.0, 0.015, 0.03, 2.0])
def test_what_is_used_of_a_recording_fits_like_the_whole(tmp_path: Path, sample_rate: int, excess: float) -> None:
    """Bit for bit, after resampling: a LoRA does not depend on how much of a clip was decoded."""
    seconds = 2.0
    count = round(seconds * (1 + excess) * sample_rate)
    noise = np.random.default_rng(0).uniform(-0.9, 0.9, (2, count)).astype(np.float32)
    write_wav(tmp_path / "a.wav", Waveform(noise, sample_rate))
    part = decode_audio(tmp_path / "a.wav", seconds=seconds_used(seconds))
    whole = decode_audio(tmp_path / "a.wav")
    results = [
        fit_audio(resample(one.waveform, 16_000), seconds, preserve_pitch=True, recording_seconds=one.seconds)
        for one in (part, whole)
    ]
    assert results[0].how == results[1].how == {0.0: "exact", 0.015: "stretched"}.get(excess, "trimmed")
    assert results[0].detail == results[1].detail
    np.testing.assert_array_equal(results[0].waveform.samples, results[1].waveform.samples)

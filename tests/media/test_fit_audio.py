from __future__ import annotations

import numpy as np
import pytest

from sonolora.media.audio import peak
from sonolora.media.fit_audio import fit_audio


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

"""Oracles: values that the standards state, and formulas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from sonolora.analysis.measure import (
    bandwidth,
    clipped_share,
    dc_offset,
    loudness,
    measure,
    silence,
    stereo_image,
)
from sonolora.media.audio import Waveform, decode_audio, resample
from sonolora.media.write_audio import write_audio

RATE = 48_000


def sound(*channels: ArrayLike, rate: int = RATE) -> Waveform:
    return Waveform(np.array(channels, dtype=np.float32), rate)


def in_16_bit(waveform: Waveform) -> Waveform:
    pcm = np.clip(np.rint(waveform.samples * 32768), -32768, 32767)
    return Waveform((pcm / 32768).astype(np.float32), waveform.sample_rate)


def sine(hertz: float, seconds: float = 3.0, rate: int = RATE, dbfs: float = -6.0) -> np.ndarray:
    return 10 ** (dbfs / 20) * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def noise(seconds: float = 3.0, rate: int = RATE, *, dark_above: float = 0, octave_db: float = 0, seed: int = 0):
    """White, or falling by `octave_db` from one octave to the next above a frequency."""
    count = round(seconds * rate)
    spectrum = np.fft.rfft(np.random.default_rng(seed).normal(0, 1, count))
    if dark_above:
        above = np.maximum(np.fft.rfftfreq(count, 1 / rate), dark_above) / dark_above
        spectrum *= above ** (-octave_db / (20 * np.log10(2)))
    samples = np.fft.irfft(spectrum, count)
    return 0.1 * samples / samples.std()


# BS.1770-4, tables 1 and 2: (b0, b1, b2), (a0, a1, a2) of the two stages at 48 kHz.
K_STAGES = (
    ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585)),
    ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621)),
)


def k_gain_db(hertz: float) -> float:
    z = np.exp(-2j * np.pi * hertz / 48_000)
    return sum(20 * np.log10(abs(np.polyval(b[::-1], z) / np.polyval(a[::-1], z))) for b, a in K_STAGES)


def test_a_full_scale_sine_in_one_channel_has_the_loudness_that_the_standard_states() -> None:
    assert loudness(sound(sine(997, dbfs=0))) == pytest.approx(-3.01, abs=0.01)
    for seconds in (0.4, 0.437, 3.0, 3.0123):
        channel = sine(997, seconds, dbfs=-23)
        assert loudness(sound(channel, channel)) == pytest.approx(-23.0, abs=0.01 if seconds > 1 else 0.05)


@pytest.mark.parametrize(
    "parts",
    [
        [(-23, 20)],
        [(-33, 20)],
        [(-36, 10), (-23, 60), (-36, 10)],
        [(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)],
        [(-26, 20), (-20, 20.1), (-26, 20)],
    ],
)
def test_the_minimum_requirements_of_ebu_tech_3341(parts: Sequence[tuple[float, float]]) -> None:
    """Its cases 1 to 5: (level, seconds) of a stereo sine of 1 kHz."""
    channel = np.concatenate([sine(1000, seconds, 16_000, dbfs) for dbfs, seconds in parts])
    expected = -33.0 if parts[0][0] == -33 else -23.0
    assert loudness(sound(channel, channel, rate=16_000)) == pytest.approx(expected, abs=0.1)


def test_loudspeakers_behind_count_more_and_the_sub_bass_not() -> None:
    """Case 6 of EBU Tech 3341, and a sub-bass on top."""
    levels = {"FL": -28, "FR": -28, "FC": -24, "LFE": 0, "BL": -30, "BR": -30}
    samples = np.array([sine(1000, 20, 16_000, dbfs) for dbfs in levels.values()], np.float32)
    assert loudness(Waveform(samples, 16_000, tuple(levels))) == pytest.approx(-23.0, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000, 96_000])
def test_every_frequency_has_the_weight_that_the_standard_gives_it(rate: int) -> None:
    for hertz in (40, 100, 500, 1500, 3000, 7000, 15_000):
        if hertz < 0.45 * rate:
            expected = -0.691 + k_gain_db(hertz) - 3.01 - 20 + 3.01  # two channels of a sine of -20 dBFS
            assert loudness(sound(*2 * [sine(hertz, 2, rate, -20)], rate=rate)) == pytest.approx(expected, abs=0.05)


def test_many_channels_have_a_loudness() -> None:
    assert loudness(sound(*64 * [sine(997, dbfs=-43)])) == pytest.approx(-43 - 3.01 + 18.06, abs=0.02)
    assert loudness(sound(*80 * [sine(997, dbfs=-23)])) == pytest.approx(-23, abs=0.02)  # as the stereo mix


def test_silence_has_no_loudness_and_a_short_sound_has_one() -> None:
    assert loudness(sound(np.zeros(RATE))) == -np.inf
    assert loudness(sound(sine(997, 0.2, dbfs=0))) == pytest.approx(-3.01, abs=0.1)


@pytest.mark.parametrize("attenuation", [1.0, 0.5])
def test_the_clipped_share_of_a_clipped_sine_is_its_time_beyond_the_limit(attenuation: float) -> None:
    overdriven = in_16_bit(sound(2 * sine(440, dbfs=0)))
    clipped = in_16_bit(Waveform(overdriven.samples * np.float32(attenuation), RATE))
    assert clipped_share(clipped) == pytest.approx(2 / 3, abs=0.01)  # |sin| > 1/2 for two thirds of the time


def test_a_few_clipped_peaks_of_one_polarity_are_found() -> None:
    samples = noise() * 3
    clipped = in_16_bit(sound(np.minimum(samples, 0.9)))
    runs = np.diff(np.flatnonzero(np.diff(np.pad(samples > 0.9, 1)))[:, None].reshape(-1, 2)).ravel()
    assert clipped_share(clipped) == pytest.approx(runs[runs >= 3].sum() / samples.size, rel=0.05)


@pytest.mark.parametrize("hertz", [5, 20, 60, 440])
@pytest.mark.parametrize("dbfs", [0, -0.5, -12, -40])
def test_the_smooth_tops_of_tones_are_not_clipped(hertz: float, dbfs: float) -> None:
    assert clipped_share(in_16_bit(sound(sine(hertz, dbfs=dbfs) * (1 - 1e-4)))) == 0


def test_noise_and_silence_are_not_clipped() -> None:
    assert clipped_share(in_16_bit(sound(noise(), noise(seed=1)))) == 0
    assert clipped_share(sound(np.zeros(RATE))) == 0


def test_silence_is_measured_before_within_and_after() -> None:
    samples = np.concatenate([np.zeros(RATE), sine(440, 0.5), np.zeros(2 * RATE), sine(440, 0.25), np.zeros(RATE // 4)])
    share, leading, trailing, longest = silence(sound(samples))
    assert share == pytest.approx(3 / 4, abs=0.01)  # the last quarter of a second is no pause
    assert leading == pytest.approx(1.0, abs=0.011)
    assert trailing == pytest.approx(0.25, abs=0.011)
    assert longest == pytest.approx(2.0, abs=0.011)


def test_noise_50_db_below_is_silence_and_40_db_below_is_not() -> None:
    pause = noise(2) * 10  # RMS 1
    for level, share in ((0.002, 2 / 3), (0.01, 0)):
        assert silence(sound(np.concatenate([sine(440, 1, dbfs=0), level * pause])))[0] == pytest.approx(
            share, abs=0.02
        )


def test_a_quiet_sound_is_not_silent_and_nothing_is() -> None:
    assert silence(sound(sine(440, dbfs=-70))) == (0, 0, 0, 0)
    assert silence(sound(np.zeros(RATE))) == (1, 1, 1, 1)


def test_the_pauses_of_a_rhythm_are_not_silence() -> None:
    beat = np.concatenate([noise(0.05), np.zeros(RATE * 4 // 10)])
    assert silence(sound(np.tile(beat, 6)))[0] == 0


def test_an_offset_is_found_in_the_channel_that_has_it() -> None:
    assert dc_offset(sound(noise(), noise(seed=1) - 0.02)) == pytest.approx(-0.02, abs=0.001)
    padded = np.concatenate([np.zeros(RATE // 2), noise() + 0.02])
    assert dc_offset(sound(padded)) == pytest.approx(0.02, abs=0.002)


@pytest.mark.parametrize(
    "samples",
    [
        sine(0.4, 3),
        sine(30, 1.07),
        np.abs(sine(100, 0.3)) * np.exp(-np.arange(14_400) / 1000),
        noise(3, dark_above=1, octave_db=6),
    ],
    ids=["swing", "low tone", "one-sided knock", "brown noise"],
)
def test_what_only_swings_slowly_has_no_offset(samples: np.ndarray) -> None:
    assert abs(dc_offset(sound(samples))) < 0.02 * np.abs(samples).max()


@pytest.mark.parametrize("rate", [44_100, 48_000, 96_000])
def test_the_cut_of_an_upsampled_sound_is_found(rate: int) -> None:
    low = resample(sound(noise(rate=rate), rate=rate), 16_000)
    assert 7000 < bandwidth(in_16_bit(resample(low, rate))) < 8100


def test_the_cut_of_an_upsampled_speech_like_sound_is_found() -> None:
    hiss = np.tile(np.concatenate([noise(0.1), np.zeros(RATE // 5)]), 10)
    voice = noise(3, dark_above=500, octave_db=12) * 3
    low = resample(sound(hiss * 0.1 + voice), 16_000)
    assert 7000 < bandwidth(in_16_bit(resample(low, RATE))) < 8100


def test_the_cut_of_a_lossy_codec_is_found(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", sound(noise(), noise(seed=1)))
    assert 15_000 < bandwidth(decode_audio(tmp_path / "a.mp3").waveform) < 17_500


@pytest.mark.parametrize("octave_db", [6, 12, 24, 48])
@pytest.mark.parametrize("above", [300, 1000, 4000])
def test_a_dark_sound_is_not_cut(above: float, octave_db: float) -> None:
    assert bandwidth(in_16_bit(sound(noise(dark_above=above, octave_db=octave_db)))) == RATE / 2


def test_white_noise_and_tones_are_not_cut(tones) -> None:
    assert bandwidth(in_16_bit(sound(noise(), noise(seed=1)))) == RATE / 2
    for hertz in (440, 3100, 7900, 15_000):
        assert bandwidth(in_16_bit(tones(hertz))) == RATE / 2
    harmonics = np.sum([sine(220 * n) / n for n in range(1, 30)], axis=0)
    assert bandwidth(in_16_bit(sound(harmonics / 4))) == RATE / 2


def test_the_image_says_what_the_channels_are_to_each_other() -> None:
    left, right = noise(seed=1), noise(seed=2)
    assert stereo_image(sound(left)) == "mono"
    assert stereo_image(sound(left, left)) == "dual mono"
    assert stereo_image(sound(left, left + 1e-4 * right)) == "dual mono"
    assert stereo_image(sound(left, 0 * right)) == "one channel silent"
    assert stereo_image(sound(left, -left + 0.1 * right)) == "inverted"
    assert stereo_image(sound(left, right)) == "stereo"
    assert stereo_image(sound(left, 0.1 * left)) == "stereo"  # panned
    assert stereo_image(sound(left, left + 0.1 * right)) == "stereo"
    assert stereo_image(sound(left, right, left)) == "surround"


@pytest.mark.parametrize(("rate", "count"), [(8000, 1), (11_025, 7), (16_000, 399), (192_000, 5000), (8000, 8000)])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_every_sound_can_be_measured(rate: int, count: int, channels: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, (channels, count)).astype(np.float32)
    measured = measure(Waveform(samples, rate))
    assert measured.bandwidth_hertz == rate / 2
    assert measured.peak_dbfs == pytest.approx(20 * np.log10(np.abs(samples).max()))
    assert measured.rms_dbfs == pytest.approx(10 * np.log10(np.square(samples).mean()), abs=1e-3)
    assert np.isfinite(measured.lufs)
    nothing = measure(Waveform(np.zeros((channels, count), np.float32), rate))
    assert (nothing.silent, nothing.lufs, nothing.clipped, nothing.dc) == (1, -np.inf, 0, 0)


def test_equal_samples_have_equal_digests() -> None:
    assert measure(sound(noise())).digest == measure(sound(noise())).digest != measure(sound(noise(seed=1))).digest

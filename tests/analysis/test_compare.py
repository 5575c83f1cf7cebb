from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sonolora.analysis.compare import fingerprint, lag_seconds, similarities
from sonolora.media.audio import Waveform, decode_audio, resample
from sonolora.media.write_audio import write_audio

RATE = 48_000


def similarity(first: Waveform, second: Waveform) -> float:
    return float(similarities([fingerprint(first), fingerprint(second)])[0, 1])


def sound(samples: np.ndarray, rate: int = RATE) -> Waveform:
    return Waveform(np.atleast_2d(samples).astype(np.float32), rate)


def knocks(seed: int, *, bright: bool = True, seconds: float = 4.0) -> np.ndarray:
    """Knocks of varying pitch and strength at irregular times; the times are those of the seed, bright or not."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.12, 0.55, 20))
    samples = np.zeros(round((seconds + 1) * RATE))
    time = np.arange(RATE) / RATE
    for at in times[times < seconds]:
        pitch, strength = rng.uniform(200, 1500), rng.uniform(0.3, 1)
        noise = rng.normal(0, 1, RATE)
        body = noise if bright else np.sin(2 * np.pi * pitch * time)
        samples[round(at * RATE) :][:RATE] += (strength * body * np.exp(-30 * time))[: len(samples) - round(at * RATE)]
    return 0.2 * samples[: round(seconds * RATE)]


def babble(seed: int, seconds: float = 4.0) -> np.ndarray:
    """Noise whose bands swell at random, as in speech, surf or fire."""
    rng = np.random.default_rng(seed)
    count = round(seconds * RATE)
    hertz = np.fft.rfftfreq(count, 1 / RATE)
    samples = np.zeros(count)
    for low in (100, 300, 700, 1500, 3000, 6000):
        band = np.fft.irfft(np.fft.rfft(rng.normal(0, 1, count)) * ((hertz > low) & (hertz < 2 * low)), count)
        swell = np.interp(
            np.arange(count), np.linspace(0, count, round(8 * seconds)), rng.uniform(0, 1, round(8 * seconds))
        )
        samples += band * swell**2
    return 0.1 * samples / samples.std()


def delayed(samples: np.ndarray, seconds: float) -> np.ndarray:
    """Later by so much, at the same length."""
    count = round(abs(seconds) * RATE)
    return np.pad(samples, (count, 0))[: len(samples)] if seconds > 0 else np.pad(samples, (0, count))[count:]


@pytest.mark.parametrize("lag", [0.0, 0.06, 0.25, -0.06, -0.1])
def test_the_lag_of_another_sound_at_the_same_times_is_found(lag: float) -> None:
    found, confidence = lag_seconds(sound(knocks(1)), sound(delayed(knocks(1, bright=False), lag)))
    assert found == pytest.approx(lag, abs=0.011)
    assert confidence > 0.2


@pytest.mark.parametrize("lag", [0.0, 0.08, -0.12])
def test_the_lag_of_a_noisier_dull_version_is_found_at_another_rate(lag: float) -> None:
    target = resample(sound(delayed(babble(1), lag) + 0.02 * np.random.default_rng(0).normal(0, 1, 4 * RATE)), 8000)
    found, confidence = lag_seconds(sound(babble(1)), target)
    assert found == pytest.approx(lag, abs=0.006)
    assert confidence > 0.2


def test_nothing_is_claimed_of_sounds_that_have_nothing_to_do_with_each_other() -> None:
    for seed in range(5):
        _, confidence = lag_seconds(sound(babble(seed)), sound(babble(seed + 100)))
        assert confidence < 0.2


def test_nothing_is_claimed_of_steady_sounds_rhythms_and_silence() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 3 * RATE))
    assert lag_seconds(sound(noise[0]), sound(noise[1]))[0] == 0  # they begin together
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * RATE) / RATE)
    assert abs(lag_seconds(sound(tone), sound(0.5 * tone))[0]) <= 0.005
    beat = np.tile(np.concatenate([noise[0, :2400], np.zeros(RATE // 4 - 2400)]), 12)
    assert lag_seconds(sound(beat), sound(np.roll(beat, RATE // 8)))[1] < 0.2
    assert lag_seconds(sound(np.zeros(RATE)), sound(np.zeros(RATE)))[1] == 0


@pytest.mark.parametrize("make", [knocks, babble])
def test_copies_of_a_recording_are_alike(make, tmp_path: Path) -> None:
    original = make(1)
    write_audio(tmp_path / "a.mp3", sound(np.stack([original, original])))
    copies = {
        "coded": decode_audio(tmp_path / "a.mp3").waveform,
        "softer": sound(0.1 * original),
        "later": sound(np.pad(original, (round(0.037 * RATE), 0))),
        "trimmed": sound(original[round(0.7 * RATE) : -RATE // 2]),
        "at another rate": resample(sound(original), 16_000),
        "with soft noise": sound(original + 0.001 * np.random.default_rng(0).normal(0, 1, len(original))),
        "inverted": sound(-original),
    }
    alike = {how: similarity(sound(original), copy) for how, copy in copies.items()}
    assert min(alike.values()) > 0.8, alike
    assert similarity(sound(original), sound(original)) == pytest.approx(1)


def test_different_recordings_of_one_kind_are_not_alike() -> None:
    prints = [fingerprint(sound(make(seed))) for make in (knocks, babble) for seed in range(8)]
    alike = similarities(prints)
    np.testing.assert_allclose(alike, alike.T)
    assert (alike[~np.eye(len(prints), dtype=bool)]).max() < 0.6


def test_too_little_to_compare_is_not_alike() -> None:
    tone = sound(np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE))
    nothing, brief = sound(np.zeros(RATE)), sound(babble(1)[:100])
    assert similarity(tone, tone) == similarity(nothing, nothing) == similarity(brief, brief) == 0
    assert similarity(nothing, sound(babble(1))) == 0

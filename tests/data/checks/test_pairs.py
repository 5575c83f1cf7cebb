"""How a target fits its reference."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from computed_sounds import RATE, dark, late, noise, sound, speech, wide
from corpus import sound as corpus_sound

from sonolora.data.checks.pairs import pair_warnings
from sonolora.media.audio import Waveform, resample


def test_nothing_is_found_in_a_good_pair() -> None:
    for seed in range(4):
        clean = sound(speech(seed), speech(seed))
        noisy = sound(speech(seed) + noise(9, 0.002), dark(speech(seed)))
        assert pair_warnings(noisy, clean) == []


@pytest.mark.parametrize("seconds", [0.08, 0.2])
def test_a_target_that_lags_is_found(seconds: float) -> None:
    later = late(speech(), seconds) + noise(9, 0.001)
    reference, target = sound(speech(), speech()), sound(later, later)
    for warnings, side in (
        (pair_warnings(reference, target), "after"),
        (pair_warnings(target, reference), "before"),
    ):
        (warning,) = warnings
        found = re.search(r"comes (\d+) ms (\w+) its reference", warning)
        assert found and float(found[1]) == pytest.approx(1000 * seconds, abs=10)
        assert found[2] == side


def test_a_target_at_another_level_is_found() -> None:
    (warning,) = pair_warnings(sound(speech(), speech()), sound(0.25 * speech(), 0.25 * speech()))
    assert "12 LU softer" in warning


def test_a_pair_of_one_sound_is_found() -> None:
    (warning,) = pair_warnings(wide(0), wide(0))
    assert "are the same sound" in warning


def reverberated(x: np.ndarray) -> np.ndarray:
    response = noise(7, 1.0)[:RATE] * np.exp(-np.arange(RATE) / RATE * 6)
    wet = np.fft.irfft(np.fft.rfft(x, 4 * RATE) * np.fft.rfft(response, 4 * RATE))[: len(x)]
    return 0.5 * wet / np.abs(wet).max()


EFFECTS = {
    "noise": lambda x: x + noise(9, 0.01),
    "dark": lambda x: dark(x, 300),
    "distorted": lambda x: np.tanh(8 * x / np.abs(x).max()) / 2,
    "reverberated": reverberated,
    "ring modulated": lambda x: x * np.sin(np.arange(len(x)) * 2 * np.pi * 300 / RATE),
    "as noise": lambda x: np.repeat(np.sqrt(np.square(x).reshape(-1, 960).mean(axis=1)), 960) * noise(11, 1.0),
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_transformed_sound_has_something_in_common_with_its_source(effect: str) -> None:
    for seed in range(3):
        changed = EFFECTS[effect](speech(seed))
        warnings = pair_warnings(sound(speech(seed), speech(seed)), sound(changed, changed))
        assert not any("nothing in common" in text for text in warnings)


def test_most_unrelated_pairs_are_found() -> None:
    kinds = [resample(corpus_sound(13, number, 2.0).audio, 16_000) for number in range(24)]
    audible = [one for one in kinds if np.abs(one.samples).max() > 0.01]
    found = [any("nothing in common" in text for text in pair_warnings(one, other)) for one, other in pairwise(audible)]
    assert sum(found) >= len(found) / 2


def test_silence_is_another_warnings_matter() -> None:
    assert pair_warnings(Waveform(np.zeros((2, RATE), np.float32), RATE), wide(1)) == []

"""The copy detector, on sounds of which it is known what they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sonolora.analysis.copies import is_copy, likenesses, pattern
from sonolora.media.audio import Waveform

RATE = 48_000


def melody(seed, seconds=1.6):
    """Notes of a plucked string with random pitches, lengths and levels."""
    rng = np.random.default_rng(seed)
    samples = np.zeros(round(seconds * RATE), np.float32)
    at = 0
    while at < len(samples):
        length = min(round(rng.uniform(0.08, 0.3) * RATE), len(samples) - at)
        time = np.arange(length) / RATE
        pitch = rng.uniform(150, 1500)
        tones = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
        samples[at : at + length] += rng.uniform(0.2, 0.5) * tones * np.exp(-8 * time)
        at += length
    return Waveform(np.stack([samples, samples]), RATE)


def changed(sound, seed):
    """Later, fainter, cut, with another equalisation and a little noise."""
    rng = np.random.default_rng(seed)
    samples = np.roll(0.3 * sound.samples, RATE // 7, axis=1)
    samples = samples + 0.5 * np.diff(samples, axis=1, prepend=0)
    samples += 0.01 * samples.std() * rng.normal(size=samples.shape)
    return replace(sound, samples=samples[:, : round(1.3 * RATE)].astype(np.float32))


@pytest.fixture(scope="module")
def clips():
    return [pattern(melody(seed)) for seed in range(6)]


def nearest(sound, clips):
    return max(likenesses([pattern(sound)], clip)[0] for clip in clips)


def test_a_copy_is_called_one_and_a_new_sound_of_the_kind_is_not(clips):
    new = [nearest(melody(seed), clips) for seed in range(100, 106)]
    assert max(new) < 0.6
    for seed in range(3):
        assert is_copy(nearest(changed(melody(seed), seed), clips), new)
        assert not is_copy(nearest(changed(melody(seed + 200), seed), clips), new)


def test_a_sound_is_itself_and_what_holds_nothing_is_like_nothing(clips, tones):
    assert likenesses([clips[0]], clips[0])[0] > 0.9
    silence = Waveform(np.zeros((2, RATE), np.float32), RATE)
    hum = pattern(tones(120.0, seconds=1.0))
    found = likenesses([pattern(silence), hum, pattern(replace(silence, samples=silence.samples[:, :4800]))], clips[0])
    assert found[0] == 0 and found[1] < 0.3 and found[2] == 0
    assert not is_copy(1.0, []), "without sounds known to be new nothing is said"

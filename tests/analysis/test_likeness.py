"""Descriptions of sounds, and the energy distance, against sounds and sets whose figures are known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sonolora.analysis.likeness import description, descriptions, energy_distance, log_mel
from sonolora.core.randomness import normal
from sonolora.media.audio import Waveform

RATE = 48_000
TIME = np.arange(2 * RATE) / RATE


def stereo(samples):
    return Waveform(np.stack([samples, samples]).astype(np.float32), RATE)


def hiss(level=0.3, seed=0):
    return level * np.random.default_rng(seed).normal(size=len(TIME))


def test_a_tone_is_in_its_band_at_its_level():
    levels = log_mel(stereo(0.1 * np.sin(2 * np.pi * 1000 * TIME)))[20:-20]
    assert levels.max() == pytest.approx(-20, abs=3), "some of it may lie in the band beside"
    assert levels.mean() < -55, "elsewhere there is silence"


def test_the_depth_of_a_tremolo_is_found_at_its_rate():
    course_db = 6 * np.sin(2 * np.pi * 5.6 * TIME)
    steady, moving = (description(log_mel(stereo(hiss() * 10 ** (db / 20)))) for db in (0, course_db))
    depths = (moving - steady)[-5 * 8 :].reshape(5, 8).mean(1)  # modulations of 1 to 2, 2 to 4, 4 to 8, ... hertz
    assert depths.argmax() == 2
    # The course's effective value is 6 dB / sqrt(2), of which noise has hidden some.
    assert 2.5 < depths[2] < 4.3
    assert depths[[0, 1, 3, 4]].abs().max() < 0.7


def test_how_loud_a_sound_is_does_not_matter():
    loud = descriptions([stereo(hiss(0.1))])
    torch.testing.assert_close(descriptions([stereo(hiss(0.02))]), loud, atol=1e-3, rtol=0)


def test_energy_distance_is_that_of_theory():
    """For normal numbers whose means are d apart: 2 E|N(d, 2)| - 2 E|N(0, 2)|."""
    gap, spread = 1.5, math.sqrt(2)
    one, other = normal((3000, 1), "one").double(), gap + normal((3000, 1), "other").double()
    apart = spread * math.sqrt(2 / math.pi) * math.exp(-(gap**2) / 4) + gap * math.erf(gap / 2)
    expected = 2 * apart - 2 * spread * math.sqrt(2 / math.pi)
    assert energy_distance(one, other) == pytest.approx(expected, rel=0.1)


def test_energy_distance_does_not_depend_on_the_number_of_sounds():
    """On average: of sets of three from one distribution it is 0."""
    sets = normal((2000, 2, 3, 1), "sets").double()
    found = [energy_distance(one, other) for one, other in sets]
    mean, error = sum(found) / len(found), torch.tensor(found).std().item() / len(found) ** 0.5
    assert abs(mean) < 4 * error < 0.1


def test_of_one_sound_there_is_no_spread():
    assert energy_distance(torch.zeros(1, 1).double(), torch.tensor([[1.0], [3.0]]).double()) == 2 * 2 - 2

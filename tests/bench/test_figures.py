"""The figures of the learning proof against sounds whose figures are known beforehand."""

from __future__ import annotations

import made_data  # first: it makes the corpus importable
import numpy as np
import pytest
import torch
from figures import ONSET_TOLERANCE, f_score, inside, mel_distance, onsets, seam_flux, seam_steps, seams_of
from films import film
from paired import RESAMPLES
from scenes import KINDS as KNOWN_FILMS
from sets import nearer

from sonolora.analysis.likeness import distances, energy_distance, log_mel
from sonolora.core.randomness import normal
from sonolora.media.audio import Waveform

RATE = 48_000
TIME = np.arange(2 * RATE) / RATE


def stereo(samples):
    return Waveform(np.stack([samples, samples]).astype(np.float32), RATE)


def hiss(level=0.3, seed=0):
    return level * np.random.default_rng(seed).normal(size=len(TIME))


def test_half_the_amplitude_is_6_db_away_in_every_band():
    loud, soft = log_mel(stereo(hiss())), log_mel(stereo(hiss() / 2))
    torch.testing.assert_close(loud - soft, torch.full_like(loud, 6.02), atol=0.01, rtol=0)
    assert mel_distance(soft, loud) == pytest.approx(6.02, abs=0.01)
    assert mel_distance(loud, loud) == 0


def test_frames_inside_the_spans():
    assert inside(200, [(0.5, 0.75), (1.9, 2.0)]).nonzero()[:, 0].tolist() == [*range(50, 75), *range(190, 200)]


def test_seams_are_where_kept_and_new_meet():
    assert seams_of([(0.0, 0.5), (1.0, 1.5)], 2.0) == [0.5, 1.0, 1.5]
    assert seams_of([(1.2, 2.0)], 2.0) == [1.2]


def test_a_step_of_level_and_its_flux():
    step = stereo(hiss() * np.where(TIME < 1, 0.5, 1.0))
    torch.testing.assert_close(seam_steps(step, [0.5, 1.0]), torch.tensor([0.0, 6.02]), atol=0.5, rtol=0)
    silent = stereo(np.where(TIME < 1, 0, hiss()))
    steady, sudden = seam_flux(silent, [1.5, 1.0]).tolist()
    assert steady < 5 < 20 < sudden


def test_clicks_in_noise_are_onsets():
    at = [0.2, 0.55, 1.3, 1.45]
    samples = hiss(0.001)
    for onset in at:
        samples[round(onset * RATE) :] += (
            0.3
            * hiss(1.0, 1)[: len(TIME) - round(onset * RATE)]
            * np.exp(-(TIME[: len(TIME) - round(onset * RATE)]) / 0.03)
        )
    assert onsets(stereo(samples)) == pytest.approx(at, abs=0.01)


@pytest.mark.parametrize("sound", [hiss(0.0), hiss(), 0.3 * np.sin(2 * np.pi * 440 * TIME)], ids=["0", "hiss", "tone"])
def test_what_goes_on_has_no_onsets(sound):
    assert onsets(stereo(sound)) == []


def test_the_onsets_of_true_films_are_their_impacts():
    """Of kinds that the detector's constants were chosen on, and of the kind that they judge."""
    known = [
        film(7, index, 49, (32, 32), {kind: KNOWN_FILMS[kind]}) for kind in ("pendulum", "drops") for index in (0, 1)
    ]
    assert np.mean([f_score(onsets(one.audio), one.events) for one in known]) > 0.9
    judged = [made_data.make("v2a", 5, index, 2.0) for index in range(6)]
    assert np.mean([f_score(onsets(one.true), one.events) for one in judged]) > 0.95


def test_f_score_matches_one_to_one():
    assert f_score([1.0, 2.0], [1.05, 2.05]) == 1
    assert f_score([1.0, 1.04], [1.02]) == pytest.approx(2 / 3), "one impact is one hit"
    assert f_score([0.98, 1.05], [1.0, 1.1]) == 1
    assert f_score([1.0], [1.0 + 1.01 * ONSET_TOLERANCE]) == 0
    assert f_score([], [1.0]) == 0
    assert f_score([], []) == 1


def test_the_nearer_set_is_found_and_equals_stay_open():
    dimensions = 30
    clear = decided = 0
    for trial in range(40):
        true, one, other = (normal((16, dimensions), trial, name).double() for name in ("true", "one", "other"))
        found = nearer(one, 1.5 + other, true)
        clear += found.high < 0
        found = nearer(one, other, true)
        assert found.low < found.high
        decided += not found.low <= 0 <= found.high
    assert clear == 40
    assert decided <= 6, f"of 40 pairs of sets alike, {decided} are told apart, where 2 should be"
    assert RESAMPLES >= 1000


def test_the_embedding_knows_a_kind_from_noise(embedding):
    of_kind = [made_data.make("t2a", 0, index, 1.0).true for index in range(12)]
    ours, more = embedding(of_kind[:6]), embedding(of_kind[6:])
    noise = embedding([stereo(hiss(0.1, seed)[:RATE]) for seed in range(6)])
    assert energy_distance(ours, more) < 0.5 * energy_distance(ours, noise)
    assert distances(ours, ours).diagonal().max() == 0
    louder = Waveform(0.1 * of_kind[0].samples, RATE)
    torch.testing.assert_close(embedding([louder]), embedding(of_kind[:1]), atol=1e-4, rtol=0)

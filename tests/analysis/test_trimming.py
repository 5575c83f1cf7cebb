"""What trimming takes away: sound that is not more of the same."""

from __future__ import annotations

import numpy as np
import pytest
from computed_sounds import RATE, SECONDS, noise, sound, speech

from sonolora.analysis.trimming import lost_seconds
from sonolora.media.audio import Waveform


def cut(samples: np.ndarray, seconds: float) -> tuple[Waveform, Waveform]:
    at = round(seconds * RATE)
    return sound(samples[:at]), sound(samples[at:])


def test_speech_that_goes_on_is_lost() -> None:
    lost = lost_seconds(*cut(speech(3), 2.0))
    assert 0.3 < lost <= SECONDS - 2.0


def test_silence_and_a_faint_decay_are_no_loss() -> None:
    samples = speech(3)
    samples[2 * RATE :] = 1e-4 * noise()[2 * RATE :]
    assert lost_seconds(*cut(samples, 2.0)) == 0.0


def test_rain_that_goes_on_is_no_loss() -> None:
    assert lost_seconds(*cut(noise(), 2.0)) == 0.0


@pytest.mark.parametrize("samples", [np.zeros(RATE), np.zeros(0)])
def test_nothing_is_no_loss(samples: np.ndarray) -> None:
    assert lost_seconds(sound(np.zeros(RATE)), sound(samples)) == 0.0

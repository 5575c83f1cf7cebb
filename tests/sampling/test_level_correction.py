"""New sound is as loud as what is beside it would be, had it not been through the codec."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sonolora.media.audio import Waveform
from sonolora.sampling.level_correction import MAX_GAIN_DB, correct_levels

RATE = 48_000
SPAN = ((1.0, 2.0),)


def noise(seed: int = 0) -> Waveform:
    return Waveform(np.random.default_rng(seed).normal(0, 0.1, (2, 3 * RATE)).astype(np.float32), RATE)


def level(sound: Waveform, start: float, end: float) -> float:
    return 10 * float(np.log10(np.square(sound.samples[:, round(start * RATE) : round(end * RATE)]).mean()))


def softened(sound: Waveform, decibels: float) -> Waveform:
    return replace(sound, samples=sound.samples * np.float32(10 ** (-decibels / 20)))


@pytest.mark.parametrize("by_band", [True, False])
@pytest.mark.parametrize("decibels", [6.0, -4.0])
def test_what_the_codec_takes_is_given_back(decibels: float, by_band: bool) -> None:
    corrected = correct_levels(softened(noise(1), decibels), noise(), SPAN, by_band=by_band)
    assert level(corrected, 1.05, 1.95) == pytest.approx(level(noise(1), 1.05, 1.95), abs=0.3)


def test_a_codec_that_keeps_levels_changes_nothing() -> None:
    generated = softened(noise(), 0.2)
    assert correct_levels(generated, noise(), SPAN) is generated


def test_nothing_outside_the_spans_changes_and_the_input_stays() -> None:
    generated = softened(noise(1), 6)
    before = generated.samples.copy()
    corrected = correct_levels(generated, noise(), SPAN)
    assert (generated.samples == before).all()
    assert (corrected.samples[:, :RATE] == before[:, :RATE]).all()
    assert (corrected.samples[:, 2 * RATE :] == before[:, 2 * RATE :]).all()


def test_gains_are_bounded() -> None:
    generated = softened(noise(1), 40)
    assert level(correct_levels(generated, noise(), SPAN), 1.1, 1.9) == pytest.approx(
        level(generated, 1.1, 1.9) + MAX_GAIN_DB, abs=0.3
    )


def test_a_gain_runs_from_one_side_to_the_other() -> None:
    generated = noise(1)
    generated.samples[:, 2 * RATE :] *= np.float32(0.5)  # 6 dB are taken behind the span alone
    corrected = correct_levels(generated, noise(), SPAN)
    gains = [level(corrected, at, at + 0.2) - level(generated, at, at + 0.2) for at in (1.0, 1.4, 1.8)]
    assert gains == pytest.approx([0.6, 3.0, 5.4], abs=0.5)


def test_an_extension_has_one_side_alone() -> None:
    generated = softened(noise(1), 6)
    corrected = correct_levels(generated, noise(), ((1.0, 3.0),))
    assert level(corrected, 1.1, 2.9) == pytest.approx(level(noise(1), 1.1, 2.9), abs=0.3)


def test_bands_are_corrected_apart() -> None:
    spectrum = np.fft.rfft(noise(1).samples)
    hertz = np.fft.rfftfreq(3 * RATE, 1 / RATE)
    dull = np.fft.irfft(spectrum * np.where(hertz > 3000, 0.5, 1.0), 3 * RATE).astype(np.float32)
    corrected = correct_levels(Waveform(dull, RATE), noise(), SPAN)

    def above(samples: np.ndarray) -> float:
        part = np.abs(np.fft.rfft(samples[:, round(1.1 * RATE) : round(1.9 * RATE)])) ** 2
        return 10 * float(np.log10(part[:, np.fft.rfftfreq(round(0.8 * RATE), 1 / RATE) > 6000].mean()))

    assert above(corrected.samples) == pytest.approx(above(noise(1).samples), abs=0.5)


@pytest.mark.parametrize("sound", [np.zeros((2, 3 * RATE), np.float32)])
def test_silence_stays_silence(sound: np.ndarray) -> None:
    silent = Waveform(sound, RATE)
    assert correct_levels(silent, noise(), SPAN) is silent
    assert np.isfinite(correct_levels(noise(), silent, SPAN).samples).all()

"""Computed sounds that have exactly one fault each, and sounds that have none."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from computed_sounds import RATE, SECONDS, dark, late, noise, sound, speech, tone, upsampled
from corpus import sound as corpus_sound

from sonolora.analysis.background import background
from sonolora.analysis.measure import measure
from sonolora.data.checks.sounds import facts, sound_warnings
from sonolora.media.audio import Waveform, decode_audio, resample
from sonolora.media.write_audio import write_audio
from sonolora.runs.demo import CLIPS, clip

CODEC_RATE = 16_000


def warnings_of(waveform: Waveform, codec_rate: int = CODEC_RATE) -> list[str]:
    return sound_warnings(measure(waveform), background(waveform), codec_rate)


PAUSES = np.repeat([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1], SECONDS * RATE // 12)
DRIPS = np.repeat([1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0], SECONDS * RATE // 12)

CLEAN = {
    "sine": sound(tone(), tone(amplitude=0.3)),
    "full-scale sine": sound(tone(amplitude=0.999), tone(660, 0.999)),
    "low sine": sound(tone(25, 0.9), tone(31, 0.9)),
    "noise": sound(noise(1), noise(2)),
    "mono": sound(noise(1)),
    "speech": sound(speech(), speech()),
    "dark": sound(dark(noise(1)), dark(noise(2))),
    "very dark": sound(dark(dark(noise(1)), 300), dark(dark(noise(2)), 300)),
    "quiet": sound(speech() * 0.1, speech() * 0.08),
    "panned": sound(noise(1), 0.2 * noise(1)),
    "wide": sound(noise(1) - 0.7 * noise(2), noise(1) + 0.7 * noise(2)),
    "fading in": sound(noise(1) * np.linspace(0, 1, SECONDS * RATE) ** 2, noise(2)),
    "short effect": sound(noise(1) * (np.arange(SECONDS * RATE) < RATE)),
    "one-shot": sound(noise(1) * (np.arange(SECONDS * RATE) < RATE // 10)),
    "drips": sound(noise(1) * DRIPS),
    "square": sound(0.8 * np.sign(tone(220)), 0.8 * np.sign(tone(330))),
    "dying away": sound(noise(1) * np.exp(-np.arange(SECONDS * RATE) / RATE * 3), noise(2) * 0.01),
    "5.1": sound(*(noise(seed) for seed in range(6))),
}


FAULTY = {
    "clipped": (sound(np.clip(3 * tone(), -0.9, 0.9), noise()), "clipped: 29.58% of its samples"),
    "silent": (sound(np.zeros(RATE), np.zeros(RATE)), "silent: nothing"),
    "mostly pauses": (sound(noise(1) * PAUSES), "67% of it is silent"),
    "hardly any sound": (sound(np.pad(noise(1)[: RATE // 5], (0, 5 * RATE))), "96% of it is silent"),
    "late": (sound(late(noise(1), 0.6), late(noise(2), 0.6)), "starts with 0.60 s of silence"),
    "offset": (sound(noise(1) + 0.03, noise(2)), "DC offset of +2.9% of full scale"),
    "upsampled": (upsampled(noise(1), 16_000), "is cut off at 7."),
    "from a telephone": (upsampled(noise(1), 8000), "is cut off at 3."),
    "of a low rate": (
        resample(sound(noise(1), noise(2)), 11_025),
        "a sample rate of 11025 Hz holds nothing above 5.51",
    ),
    "inverted": (sound(noise(1), -noise(1)), "one of its channels is inverted"),
    "on one side": (sound(noise(1), 0 * noise(1)), "only one of its two channels"),
}


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in_a_clean_sound(name: str) -> None:
    assert warnings_of(CLEAN[name]) == []


@pytest.mark.parametrize("name", FAULTY)
def test_exactly_the_one_fault_of_a_sound_is_found(name: str) -> None:
    waveform, words = FAULTY[name]
    (warning,) = warnings_of(waveform)
    assert words in warning


def test_a_lossy_cut_out_of_the_codecs_range_is_a_fact_and_no_warning(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", sound(noise(1), noise(2)))
    waveform = decode_audio(tmp_path / "a.mp3").waveform
    assert warnings_of(waveform) == []
    assert 15_000 < facts(measure(waveform))["bandwidth_hertz"] < 17_500
    (warning,) = warnings_of(waveform, RATE)
    assert "so the LoRA learns a dull sound" in warning


def test_several_faults_are_all_found() -> None:
    waveform = sound(late(np.clip(noise(1, 1.0), -0.5, 0.5), 1), late(noise(2), 1))
    assert len(warnings_of(waveform)) == 2


def test_facts_are_finite_and_short() -> None:
    assert facts(measure(sound(tone(997), 0 * tone()))) == {
        "peak_dbfs": -6.0,
        "lufs": -9.0,
        "silence": 0.0,
        "bandwidth_hertz": 24_000,
        "image": "one channel silent",
    }
    assert "lufs" not in facts(measure(sound(np.zeros(RATE))))


def hum(decibels: float, hertz: float = 50) -> np.ndarray:
    return sum(10 ** (decibels / 20) / harmonic * tone(harmonic * hertz, 1.0) for harmonic in range(1, 8))


def taps(seed: int = 0) -> np.ndarray:
    """Knocks of a tenth of a second, with digital silence between them."""
    samples = np.zeros(SECONDS * RATE)
    for at in range(RATE // 10, SECONDS * RATE - RATE // 10, RATE // 2):
        samples[at : at + RATE // 10] = 0.5 * noise(seed, 1.0)[: RATE // 10] * np.geomspace(1, 0.003, RATE // 10)
    return np.clip(samples, -1, 1)


@pytest.mark.parametrize(("rms", "decibels"), [(0.01, "2[0-9] dB"), (0.02, "1[5-9] dB|20 dB")])
def test_background_noise_between_sounds_is_found_with_its_level(rms: float, decibels: str) -> None:
    (warning,) = warnings_of(sound(taps() + noise(3, rms), taps() + noise(4, rms)))
    assert warning.startswith("steady background noise ")
    assert re.search(decibels, warning)
    assert warnings_of(sound(taps(), taps())) == []
    assert warnings_of(sound(taps() + noise(3, 1e-3), taps() + noise(4, 1e-3))) == [], "masked by the sound"


@pytest.mark.parametrize("hertz", [50, 60])
def test_mains_hum_is_found_with_its_frequency(hertz: float) -> None:
    hummed = sound(speech() + hum(-55, hertz), speech() + hum(-55, hertz))
    (warning,) = warnings_of(hummed)
    assert warning.startswith(f"mains hum at {hertz} Hz")
    assert not any("hum" in text for text in warnings_of(sound(speech(), speech())))
    assert not any("hum" in text for text in warnings_of(sound(hum(-12, hertz), hum(-12, hertz)))), "it is the sound"


def test_a_drone_behind_a_sound_is_no_noise() -> None:
    drone = 0.02 * tone(220, 1.0)
    assert warnings_of(sound(taps() + drone, taps() + drone)) == []


def test_the_demos_own_sounds_have_no_fault() -> None:
    assert {number: texts for number in range(CLIPS) if (texts := warnings_of(clip(number)[0]))} == {}


def test_background_is_found_in_the_corpus_where_it_was_added_and_hardly_elsewhere() -> None:
    """Clips of many kinds. Those with a background are labelled if it is 40 dB below the peak or more."""
    false, found, labelled = [], 0, 0
    for number in range(60):
        sample = corpus_sound(11, number, 3.0)
        warned = any("background noise" in text or "hum" in text for text in warnings_of(sample.audio))
        labelled += bool(sample.facts["background"])
        found += warned and bool(sample.facts["background"])
        if warned and not sample.facts["background"]:
            false.append((number, sample.kind))
    assert len(false) <= 2, false
    assert found >= labelled / 6

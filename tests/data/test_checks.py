"""Made sounds that have exactly one fault each, and sounds that have none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sonolora.analysis.measure import Measured, measure
from sonolora.data.checks import (
    caption_warnings,
    clip_warnings,
    facts,
    mask_warnings,
    pair_warnings,
    set_warnings,
    video_warnings,
)
from sonolora.media.audio import Waveform, decode_audio, resample
from sonolora.media.video import VideoInfo
from sonolora.media.write_audio import write_audio

RATE = 48_000
CODEC_RATE = 16_000
SECONDS = 3


def sound(*channels: np.ndarray, rate: int = RATE) -> Waveform:
    """As a file of 16 bits would hold it."""
    pcm = np.clip(np.rint(np.array(channels) * 32768), -32768, 32767)
    return Waveform((pcm / 32768).astype(np.float32), rate)


def noise(seed: int = 0, rms: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, rms, SECONDS * RATE)


def tone(hertz: float = 440, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(SECONDS * RATE) / RATE)


def speech(seed: int = 0) -> np.ndarray:
    """Bursts of noise, voiced and hissed, with pauses: syllables of a quarter of a second."""
    rng = np.random.default_rng(seed)
    syllable = np.hanning(RATE // 5)
    samples = np.zeros(SECONDS * RATE)
    for at in range(RATE // 20, SECONDS * RATE - RATE // 5, RATE // 4):
        if rng.random() < 0.8:
            samples[at : at + len(syllable)] += rng.uniform(0.2, 1) * syllable
    return samples * (0.5 * dark(noise(seed)) + 0.1 * noise(seed + 1))


def dark(samples: np.ndarray, hertz: float = 800) -> np.ndarray:
    """Through a gentle low-pass of 12 dB from one octave to the next."""
    spectrum = np.fft.rfft(samples)
    spectrum /= 1 + (np.fft.rfftfreq(len(samples), 1 / RATE) / hertz) ** 2
    return np.fft.irfft(spectrum, len(samples))


def late(samples: np.ndarray, seconds: float) -> np.ndarray:
    return np.pad(samples, (round(seconds * RATE), 0))[: len(samples)]


def upsampled(samples: np.ndarray, rate: int) -> Waveform:
    return resample(resample(sound(samples, samples), rate), RATE)


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
    "dying away": sound(noise(1) * np.exp(-np.arange(SECONDS * RATE) / RATE * 3), noise(2) * 0.01),
    "5.1": sound(*(noise(seed) for seed in range(6))),
}

FAULTY = {
    "clipped": (sound(np.clip(3 * tone(), -0.9, 0.9), noise()), "clipped: 29.58% of its samples"),
    "silent": (sound(np.zeros(RATE), np.zeros(RATE)), "silent: nothing"),
    "mostly pauses": (sound(np.where(np.arange(SECONDS * RATE) < RATE, noise(1), 0)), "67% of it is silent"),
    "late": (sound(late(noise(1), 0.6), late(noise(2), 0.6)), "begins with 0.60 s of silence"),
    "offset": (sound(noise(1) + 0.03, noise(2)), "DC offset of +2.9% of full scale"),
    "upsampled": (upsampled(noise(1), 16_000), "is cut off at 7."),
    "from a telephone": (upsampled(noise(1), 8000), "is cut off at 3."),
    "of a low rate": (
        resample(sound(noise(1), noise(2)), 11_025),
        "a sample rate of 11025 Hz holds nothing above 5.51",
    ),
    "inverted": (sound(noise(1), -noise(1)), "channels are inverted"),
    "on one side": (sound(noise(1), 0 * noise(1)), "only one of its two channels"),
}


@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_found_in_a_clean_sound(name: str) -> None:
    assert clip_warnings(measure(CLEAN[name]), CODEC_RATE) == []


@pytest.mark.parametrize("name", FAULTY)
def test_exactly_the_one_fault_of_a_sound_is_found(name: str) -> None:
    waveform, words = FAULTY[name]
    (warning,) = clip_warnings(measure(waveform), CODEC_RATE)
    assert words in warning


def test_a_lossy_cut_that_the_codec_cannot_hear_is_a_fact_and_no_warning(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.mp3", sound(noise(1), noise(2)))
    measured = measure(decode_audio(tmp_path / "a.mp3").waveform)
    assert clip_warnings(measured, CODEC_RATE) == []
    assert 15_000 < facts(measured)["bandwidth_hertz"] < 17_500
    (warning,) = clip_warnings(measured, RATE)
    assert "so the LoRA learns a dull sound" in warning


def test_several_faults_are_all_found() -> None:
    waveform = sound(late(np.clip(noise(1, 1.0), -0.5, 0.5), 1), late(noise(2), 1))
    assert len(clip_warnings(measure(waveform), CODEC_RATE)) == 2


def test_facts_are_finite_and_short() -> None:
    assert facts(measure(sound(tone(997), 0 * tone()))) == {
        "peak_dbfs": -6.0,
        "lufs": -9.0,
        "silence": 0.0,
        "bandwidth_hertz": 24_000,
        "image": "one channel silent",
    }
    assert "lufs" not in facts(measure(sound(np.zeros(RATE))))


def clips(*sounds: Waveform) -> list[tuple[str, Measured]]:
    return [(f"{index}.wav", measure(one)) for index, one in enumerate(sounds)]


def wide(seed: int, gain: float = 1.0) -> Waveform:
    return sound(gain * noise(seed), gain * noise(seed + 100))


def speeches(*seeds: int) -> list[Waveform]:
    return [sound(speech(seed), speech(seed + 50)) for seed in seeds]


def test_nothing_is_found_in_a_good_set() -> None:
    assert set_warnings(clips(*speeches(*range(8))), peak_normalized=True) == []
    assert set_warnings(clips(*(wide(seed) for seed in range(6))), peak_normalized=False) == []
    assert set_warnings([], peak_normalized=True) == set_warnings(clips(wide(0)), peak_normalized=True) == []


def test_exact_duplicates_name_the_first_of_them() -> None:
    warnings = set_warnings(clips(wide(0), wide(1), wide(0), wide(0)), peak_normalized=True)
    assert [file for file, _ in warnings] == ["2.wav", "3.wav"]
    assert all("the same sound as 0.wav, sample for sample" in text for _, text in warnings)


def test_near_duplicates_name_the_one_most_alike(tmp_path: Path) -> None:
    first, second = speeches(1, 2)
    write_audio(tmp_path / "a.mp3", Waveform(second.samples * np.float32(0.5), RATE))
    softer = Waveform(first.samples[:, RATE // 4 :] * np.float32(0.3), RATE)
    warnings = set_warnings(
        clips(first, second, decode_audio(tmp_path / "a.mp3").waveform, softer), peak_normalized=True
    )
    assert [(file, text.split(" (")[0]) for file, text in warnings] == [
        ("2.wav", "nearly the same sound as 1.wav"),
        ("3.wav", "nearly the same sound as 0.wav"),
    ]


@pytest.mark.parametrize(("alike", "found"), [(0.82, 0), (0.91, 1)])
def test_sentences_of_one_voice_are_not_copies(alike: float, found: int) -> None:
    """They have been found 0.82 alike; of signs that agree so far, (1 - alike) / 2 differ."""
    first, second = clips(wide(1), wide(2))
    rng = np.random.default_rng(0)
    signs = rng.choice(np.array([-1, 1], np.int8), (23, 300))
    other = np.where(rng.random(signs.shape) < (1 - alike) / 2, -signs, signs)
    pair = [
        (file, replace(measured, fingerprint=one))
        for (file, measured), one in zip((first, second), (signs, other), strict=True)
    ]
    assert len(set_warnings(pair, peak_normalized=True)) == found


def test_silent_clips_are_no_duplicates_of_each_other() -> None:
    nothing = sound(np.zeros(RATE), np.zeros(RATE))
    assert set_warnings(clips(nothing, nothing, wide(0)), peak_normalized=True) == []


def test_a_clip_that_is_much_louder_or_softer_is_found_unless_peaks_are_normalised() -> None:
    sounds = clips(wide(0), wide(1), wide(2, 0.1), wide(3), wide(4))
    ((file, text),) = set_warnings(sounds, peak_normalized=False)
    assert file == "2.wav"
    assert text.startswith("20 LU softer than the others: ")
    assert set_warnings(sounds, peak_normalized=True) == []


def test_one_loud_click_keeps_a_clip_soft_after_normalising() -> None:
    clicked = 0.05 * noise(5)
    clicked[RATE] = 0.9
    ((file, text),) = set_warnings(
        clips(*(wide(n) for n in range(4)), sound(clicked, noise(6) * 0.05)), peak_normalized=True
    )
    assert file == "4.wav"
    assert "softer than the others when all have the same peak" in text


def test_levels_that_vary_throughout_have_no_outliers() -> None:
    sounds = clips(*(wide(seed, 10 ** (-4 * seed / 20)) for seed in range(9)))
    assert set_warnings(sounds, peak_normalized=False) == []


def test_mono_among_stereo_is_found_once_and_the_other_way_round() -> None:
    mono = [sound(noise(seed)) for seed in range(10, 15)]
    twice = sound(noise(20), noise(20))
    ((file, text),) = set_warnings(clips(wide(0), wide(1), wide(2), mono[0], twice), peak_normalized=True)
    assert (file, text.split(":")[0]) == ("3.wav", "mono, and so are 4.wav, but 3 of 5 are not")
    ((file, text),) = set_warnings(clips(*mono, wide(0)), peak_normalized=True)
    assert (file, text.split(":")[0]) == ("5.wav", "stereo, but 5 of 6 are not")
    ((file, text),) = set_warnings(clips(twice, wide(0), wide(1)), peak_normalized=True)
    assert text.startswith("both channels are the same (mono), but 2 of 3 are not")
    ((file, text),) = set_warnings(clips(twice, *mono), peak_normalized=True)
    assert text.startswith("both channels are the same (mono), as are all")
    ((file, text),) = set_warnings(clips(*mono, twice), peak_normalized=True)
    assert (file, text.split(":")[0]) == ("0.wav", "mono, as are all")


def words(text: str) -> int:
    return len(text.split())


def caption_findings(captions: Sequence[str], trigger: str = "", most: int = 50) -> list[tuple[str, str]]:
    return caption_warnings([(f"{n}.txt", text) for n, text in enumerate(captions)], trigger, words, most)


def test_nothing_is_found_in_good_captions() -> None:
    assert caption_findings(["a bell", "a gong", "the rain"]) == []
    assert caption_findings(["f0leyvox a bell", "f0leyvox a gong"], "f0leyvox") == []
    assert caption_findings(["rain falls, rain and rain", "rain on a roof"], "rain") == []
    assert caption_findings(["80s synth", "80s drums", "a bass"]) == []
    assert caption_findings(["footsteps on wood", "footsteps on snow", "footsteps on tiles", "a person runs"]) == []
    assert caption_findings([]) == []


def test_missing_captions_are_found() -> None:
    assert [file for file, text in caption_findings(["a bell", "", "a gong"]) if "an empty text" in text] == ["1.txt"]
    ((file, text),) = caption_findings(["f0leyvox a bell", "f0leyvox"], " f0leyvox ")
    assert file == "1.txt"
    assert "no caption: it is trained with the trigger phrase alone" in text


def test_identical_captions_are_found_once_for_each_text() -> None:
    ((file, text),) = caption_findings(["a bell", "A bell", "a bell"])
    assert (file, text.split(",")[0]) == ("0.txt", "all 3 captions are the same")
    warnings = caption_findings(["a bell", "a gong", "a bell", "a gong", "a drum", *["a bell"] * 4])
    assert [(file, text.split(":")[0]) for file, text in warnings] == [
        ("0.txt", "has the same caption as 2.txt, 5.txt, 6.txt, and 2 more"),
        ("1.txt", "has the same caption as 3.txt"),
    ]


def test_a_trigger_phrase_that_is_trained_twice_is_found() -> None:
    captions = ["f0leyvox F0LEYVOX, a bell", "f0leyvox a f0leyvoxed gong", "f0leyvox f0leyvoxes"]
    ((file, text),) = caption_findings(captions, "f0leyvox")
    assert file == "0.txt"
    assert "is trained as 'f0leyvox F0LEYVOX, a bell', with the trigger phrase twice" in text


def test_captions_without_the_trigger_phrase_of_the_others_are_found() -> None:
    captions = ["f0leyvox a bell", "F0leyvox: a gong", "f0leyvox, rain", "a drum"]
    ((file, text),) = caption_findings(captions)
    assert file == "3.txt"
    assert "lacks 'f0leyvox', with which 3 of 4 captions begin" in text


def test_captions_beyond_what_is_read_are_found() -> None:
    ((file, text),) = caption_findings(["a bell", "a gong " * 30])
    assert file == "1.txt"
    assert "60 tokens; what follows the first 50 is not read" in text


def test_nothing_is_found_in_a_good_pair() -> None:
    for seed in range(4):
        clean = sound(speech(seed), speech(seed))
        noisy = sound(speech(seed) + noise(9, 0.002), dark(speech(seed)))
        assert pair_warnings(noisy, clean) == []
    assert pair_warnings(wide(0), wide(1)) == []  # which have nothing to line up by


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


def test_masks_that_mark_too_much_too_little_or_too_briefly_are_found() -> None:
    assert mask_warnings([(1.0, 2.0), (3.5, 4.0)], 5.0) == []
    assert mask_warnings([(1.0, 1.16), (2.0, 2.2)], 5.0) == []
    (warning,) = mask_warnings([(0.0, 3.0), (2.0, 4.5)], 5.0)
    assert warning.startswith("90% of it is regenerated")
    (warning,) = mask_warnings([(1.0, 1.2)], 5.0)
    assert warning.startswith("only 4.0% of it")
    (warning,) = mask_warnings([(1.0, 1.1), (2.0, 4.0), (4.5, 4.6)], 5.0)
    assert "4 latent frames (0.16 s)" in warning
    assert "1-1.1 s, 4.5-4.6 s" in warning


def test_videos_whose_sound_and_picture_differ_or_whose_rate_varies_are_found() -> None:
    info = VideoInfo(640, 480, 120, 24.0, 5.0, False, 5.05, None)
    assert video_warnings(info) == video_warnings(replace(info, audio_seconds=None)) == []
    (warning,) = video_warnings(replace(info, audio_seconds=4.0))
    assert "picture lasts 5.00 s and its sound 4.00 s: the rest is trained as silence" in warning
    (warning,) = video_warnings(replace(info, audio_seconds=7.0))
    assert "not used" in warning
    (warning,) = video_warnings(replace(info, variable_frame_rate=True))
    assert "variable frame rate (24.00 on average)" in warning

"""How the sounds of a set fit together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from computed_sounds import RATE, noise, sound, speech, wide

from sonolora.analysis.compare import fingerprint, similarities
from sonolora.analysis.measure import Measured, measure
from sonolora.data.checks.sets import NEAR_DUPLICATE, count_warnings, set_warnings, short_warnings
from sonolora.media.audio import Waveform, decode_audio
from sonolora.media.write_audio import write_audio


def clips(*sounds: Waveform) -> list[tuple[str, Measured]]:
    return [(f"{index}.wav", measure(one)) for index, one in enumerate(sounds)]


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
    assert "softer than the others at the same peak level" in text


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
    assert set_warnings(clips(twice, *mono), peak_normalized=True) == [], "a set in mono is a choice"


def test_few_clips_are_found() -> None:
    assert count_warnings(0) == count_warnings(10) == []
    assert count_warnings(9) == ["only 9 clips: with fewer than 10 a LoRA tends to memorise them. Add more."]
    assert count_warnings(1)[0].startswith("only 1 clip:")


@pytest.mark.parametrize(
    ("lengths", "field", "wanted", "words"),
    [
        ([3.25] * 7 + [6.0] * 3, "audio_duration_seconds", 5.0, "= 3.2, all of them would be used"),
        ([0.3] + [2.0 + n / 10 for n in range(19)], "audio_duration_seconds", 5.0, "= 2.1, 18 of them would be used"),
        ([0.2] * 10, "audio_duration_seconds", 5.0, "= 0.5, 0 of them would be used"),
        ([50] * 8 + [100] * 2, "number_of_frames", 89, "= 49, all of them would be used"),
    ],
)
def test_when_most_clips_are_skipped_the_length_that_keeps_them_is_named(lengths, field, wanted, words) -> None:
    skipped = sum(length < wanted for length in lengths)
    (warning,) = short_warnings(lengths, skipped, field, wanted)
    assert warning.startswith(f"{skipped} of {len(lengths)} clips are skipped, because they are too short for {field}")
    assert words in warning


def test_some_skipped_clips_are_no_matter() -> None:
    assert short_warnings([3.0] * 5 + [6.0] * 5, 5, "audio_duration_seconds", 5.0) == []
    assert short_warnings([], 0, "audio_duration_seconds", 5.0) == []


def riffs_in_all_keys() -> list[Waveform]:
    """Twelve of one rhythm, each a semitone higher."""

    def note(hertz: float) -> np.ndarray:
        time = np.arange(RATE // 2) / RATE
        partials = [np.sin(2 * np.pi * k * hertz * time) * np.exp(-4 * (1 + 0.3 * k) * time) / k for k in range(1, 15)]
        return 0.3 * np.sum(partials, axis=0)

    return [sound(np.concatenate([note(220 * 2 ** ((key + step) / 12)) for step in (0, 3, 5, 7)])) for key in range(12)]


def test_one_riff_in_another_key_is_no_copy() -> None:
    riffs = riffs_in_all_keys()
    alike = similarities([fingerprint(riff) for riff in riffs]) - np.eye(len(riffs))
    assert alike.max() > NEAR_DUPLICATE, "by their rhythm"
    assert set_warnings(clips(*riffs), peak_normalized=True) == []
    ((file, text),) = set_warnings(
        clips(*riffs, replace(riffs[3], samples=0.4 * riffs[3].samples)), peak_normalized=True
    )
    assert (file, text.split(" (")[0]) == ("12.wav", "nearly the same sound as 3.wav")

"""What judges the modes has sense: the truth beats everything, noise loses, and nothing of the answer is given away."""

from __future__ import annotations

import numpy as np
import pytest
from baselines import noise, repetition, silence
from judge import FIGURES, LORA, judge, leaks
from made_data import KINDS, make, preview_spec, write_dataset

from sonolora.core.frames import complement
from sonolora.data.dataset_files import discover
from sonolora.media.audio import decode_audio
from sonolora.modes import MODES
from sonolora.modes.request import parse
from sonolora.sampling.paste_kept import FADE_SECONDS

SECONDS = 1.0
SPANS = [mode for mode in KINDS if "inpaint" in mode or "extend" in mode]


def samples_of(mode, count=5):
    return [make(mode, 0, index, SECONDS) for index in range(count)]


@pytest.mark.parametrize("mode", FIGURES)
def test_the_truth_beats_noise_silence_and_what_is_given(mode):
    samples = samples_of(mode)
    others = {"noise": [(noise(made, index),) for index, made in enumerate(samples)]}
    others["silence"] = [(silence(made),) for made in samples]
    if mode == "a2a":
        others["reference"] = [(made.reference,) for made in samples]
    if mode in SPANS:
        others["repetition"] = [(repetition(made),) for made in samples]
    # The learned space takes long: one mode is enough.
    figures = [one for one in FIGURES[mode] if mode == "a2a" or "learned" not in one.name]
    rows = judge(figures, samples, {LORA: [(made.true,) for made in samples], **others})
    for row in rows:
        main = row.figure == FIGURES[mode][0].name
        if row.contender == LORA:
            assert row.value > 0.9 if row.higher_is_better else row.value == pytest.approx(0, abs=1e-5)
        elif main:
            assert row.beaten is True, row
        else:  # a silence may well meet a seam where there is silence
            assert row.beaten is not False, row


def test_worse_is_told_from_better():
    samples = samples_of("a2a")
    worst = [(noise(made, index),) for index, made in enumerate(samples)]
    rows = judge(FIGURES["a2a"][:2], samples, {LORA: worst, "truth": [(made.true,) for made in samples], "same": worst})
    assert [row.beaten for row in rows if row.contender != LORA] == [False, None, False, None]


def test_leaks_tell_a_lora_that_makes_one_sound_of_everything(embedding):
    new, known = samples_of("t2a"), [make("a2a", 0, index, SECONDS) for index in range(5)]
    right, wrong = [made.true for made in known], [made.true for made in new]
    assert all(leak.margin.high < 0 for leak in leaks(embedding, known, right, right, new))
    base, lora, moved = leaks(embedding, known, right, wrong, new)
    assert base.margin.high < 0 < lora.margin.low
    assert moved.margin.low > 0


@pytest.mark.parametrize("mode", SPANS)
def test_baselines_leave_what_is_kept(mode):
    for made in samples_of(mode, 3):
        for sound in (silence(made), repetition(made), noise(made, 0)):
            assert sound.samples.shape == made.true.samples.shape
            for start, end in complement(made.regenerate, made.seconds):
                kept = slice(round(start * sound.sample_rate), round(end * sound.sample_rate))
                np.testing.assert_array_equal(sound.samples[:, kept], made.true.samples[:, kept])


def test_repetition_continues_what_repeats_and_leads_up_to_it():
    for mode in ("audio-extend-prefix", "audio-extend-suffix"):
        made = make(mode, 0, 0, SECONDS)
        time = np.arange(made.true.samples.shape[1]) / made.true.sample_rate
        made.true.samples[:] = np.sin(2 * np.pi * 50 * time)  # a whole number of periods is kept
        (start, end) = (round(edge * made.true.sample_rate) for edge in made.regenerate[0])
        faded = round(FADE_SECONDS * made.true.sample_rate)
        middle = slice(start + faded, end - faded)
        np.testing.assert_allclose(repetition(made).samples[:, middle], made.true.samples[:, middle], atol=1e-5)


@pytest.mark.parametrize("mode", SPANS)
def test_what_is_asked_for_is_in_no_file(mode, tmp_path):
    made = make(mode, 0, 3, SECONDS)
    spec = preview_spec(mode, tmp_path / "given.wav", made)
    (span,) = spec.regenerate
    assert span == pytest.approx(made.regenerate[0])
    given = decode_audio(tmp_path / "given.wav").waveform
    if mode == "audio-inpaint":
        first, last = (round(edge * given.sample_rate) for edge in span)
        assert np.abs(given.samples[:, first:last]).max() == 0
        assert np.abs(given.samples).max() > 0.01
    else:
        assert given.seconds == pytest.approx(SECONDS - (span[1] - span[0]), abs=1e-3)
        part = slice(-given.samples.shape[1], None) if "suffix" in mode else slice(given.samples.shape[1])
        np.testing.assert_allclose(given.samples, made.true.samples[:, part], atol=1e-4)


@pytest.mark.parametrize("mode", [mode for mode in KINDS if mode != "v2a"])
def test_datasets_are_as_their_mode_wants_them(mode, tmp_path):
    fields = write_dataset(mode, tmp_path / "data", samples_of(mode, 2))
    assert parse(MODES[mode].request, fields).clip_seconds == SECONDS
    pairing = MODES[mode].pair(discover(tmp_path / "data").names)
    assert len(pairing.samples) == 2
    assert not pairing.skipped
    assert all(sample.caption for sample in pairing.samples)


@pytest.mark.parametrize("mode", KINDS)
def test_a_sample_is_a_function_of_its_number(mode):
    one, again, other = make(mode, 3, 1, SECONDS), make(mode, 3, 1, SECONDS), make(mode, 3, 2, SECONDS)
    np.testing.assert_array_equal(one.true.samples, again.true.samples)
    assert not np.array_equal(one.true.samples, other.true.samples)
    assert one.caption == again.caption and one.regenerate == again.regenerate and one.events == again.events
    if mode == "v2a":
        assert one.film.shape == (25, 64, 96, 3)
        assert one.true.seconds == pytest.approx(25 / 24, abs=1e-4)

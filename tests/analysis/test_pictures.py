"""Pictures of sounds under one another: legible in a thumbnail, as loud as one another, and what is new is marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonolora.analysis.levels import amplified, gain_words, matching_gain_db
from sonolora.analysis.measure import loudness
from sonolora.analysis.pictures import FilmStrip, Row, draw_sounds
from sonolora.analysis.spectrogram import mel_ticks
from sonolora.media.audio import Waveform, peak


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.size[0] == 1000
        return np.asarray(image.convert("RGB"), dtype=int)


def test_rows_are_shown_as_loud_as_the_one_that_measures(tmp_path: Path, tones) -> None:
    loud, faint = tones(440, amplitude=0.5), tones(440, amplitude=0.05)
    gains = draw_sounds(tmp_path / "a.png", [Row("before", faint), Row("real", loud)])
    assert gains == pytest.approx([20, 0], abs=0.1)
    assert draw_sounds(tmp_path / "b.png", [Row("given", loud), Row("made", faint)], measure=0)[1] == gains[0]


def test_what_is_new_is_marked(tmp_path: Path, tones) -> None:
    sound = tones(440, seconds=2.0)
    draw_sounds(tmp_path / "plain.png", [Row("one", sound)])
    draw_sounds(tmp_path / "marked.png", [Row("one", sound, new=((0.5, 1.0),))])
    changed = np.flatnonzero((pixels(tmp_path / "plain.png") != pixels(tmp_path / "marked.png")).any(axis=(0, 2)))
    width = 1000 - changed.min() * 0  # pixels of two seconds begin right of the labels
    assert (changed.max() - changed.min()) / width == pytest.approx(0.5 / 2 * 0.9, abs=0.03)


def test_text_is_legible_in_a_thumbnail(tmp_path: Path, tones) -> None:
    draw_sounds(tmp_path / "a.png", [Row("H", tones(440))])
    dark = (pixels(tmp_path / "a.png")[:120, :300].sum(axis=2) < 200).any(axis=1)  # the title of the row is there
    rows = np.flatnonzero(dark)
    assert 0.4 * (rows.max() - rows.min() + 1) >= 7, "a capital letter, in pixels at a width of 400"


def test_a_film_stands_above_its_sound(tmp_path: Path, tones) -> None:
    frames = np.zeros((25, 64, 64, 3), np.uint8)
    frames[..., 1] = 200
    draw_sounds(tmp_path / "a.png", [Row("made", tones(440))], "a ball", FilmStrip(frames, 25.0, (0.5,)))
    green = pixels(tmp_path / "a.png")
    assert ((green[..., 1] == 200) & (green[..., 0] == 0)).sum() > 20_000


@pytest.mark.parametrize("sample_rate", [8000, 16_000, 48_000])
def test_ticks_do_not_bunch(sample_rate: int) -> None:
    places, labels = mel_ticks(sample_rate, 4)
    assert 2 <= len(places) == len(labels) <= 4
    assert min(np.diff(places)) > 0.15 * max(places)


def test_gains_stop_at_the_peak(tones) -> None:
    faint = tones(440, amplitude=0.1)
    faint.samples[:, 100] = 0.9
    gain = matching_gain_db(faint, tones(440, amplitude=0.8))
    assert peak(amplified(faint, gain)) == pytest.approx(10 ** (-1 / 20), abs=0.01)
    even = tones(440, amplitude=0.01)
    wanted = tones(440, amplitude=0.1)
    assert loudness(amplified(even, matching_gain_db(even, wanted))) == pytest.approx(loudness(wanted), abs=0.1)
    assert matching_gain_db(Waveform(np.zeros((1, 8000), np.float32), 8000)) == 0.0
    assert [gain_words(gain) for gain in (0.2, 12.4, -3)] == ["", "12 dB louder", "3 dB softer"]

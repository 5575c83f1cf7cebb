from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sonolora.analysis.spectrogram import draw_waveform_and_mel, mel_dbfs
from sonolora.media.audio import Waveform

# The spectrogram's part of the picture, without axes.
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 892, 174, 436


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.size == (1000, 500)
        return np.asarray(image.convert("L"), dtype=float)


def test_the_bright_line_lies_where_the_tone_is(tmp_path: Path, tones) -> None:
    tone = tones(1000, seconds=4.0)
    tone.samples[:, : 2 * 48_000] = 0
    draw_waveform_and_mel(tmp_path / "a.png", tone, "a tone in the second half")
    mel = _pixels(tmp_path / "a.png")[_TOP:_BOTTOM, _LEFT:_RIGHT]
    assert mel[:, :300].max() < 10
    rows = mel[:, 500:700].mean(axis=1)
    assert rows.max() > 150
    # 1 kHz is mel 1000 of 4000 at 24 kHz: a quarter from the bottom.
    assert (len(rows) - rows.argmax()) / len(rows) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(("sample_rate", "count"), [(8000, 1), (16_000, 7), (96_000, 50_000)])
def test_every_length_and_rate_can_be_drawn(tmp_path: Path, sample_rate: int, count: int) -> None:
    draw_waveform_and_mel(tmp_path / "a.png", Waveform(np.ones((1, count), np.float32), sample_rate), "")
    assert _pixels(tmp_path / "a.png").std() > 10


def test_any_prompt_can_be_the_title(tmp_path: Path, tones) -> None:
    plain, titled = tmp_path / "plain.png", tmp_path / "titled.png"
    draw_waveform_and_mel(plain, tones(440, seconds=0.5), "")
    draw_waveform_and_mel(titled, tones(440, seconds=0.5), "rain $\\frac{ on a\nroof 雨 🌧 " * 20)
    assert np.abs(_pixels(plain)[:25].std() - _pixels(titled)[:25].std()) > 5


@pytest.mark.parametrize("hertz", [60, 440, 1000, 7000, 20_000])
def test_full_scale_sine_reads_zero_dbfs(tones, hertz: float) -> None:
    levels, _ = mel_dbfs(tones(hertz, amplitude=1.0))
    middle = levels[:, levels.shape[1] // 2]
    assert 10 * np.log10((10 ** (middle / 10)).sum()) == pytest.approx(0, abs=0.1)
    assert middle.max() > -4  # in one or two bands

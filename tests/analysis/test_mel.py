"""The filter bank. The codec's must not change by a bit: every LoRA was trained on latents of its mel spectrograms."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from sonolora.analysis.mel import hertz_to_mel, mel_filters

# SHA-256 of float32 filters, little-endian: those of the published codec, and others.
CODEC = "dac85daa48a7f896afb79f58d32a8ab8de7bf6e24f8be25351bdb2e963b79df0"
WIDE = "6fbe2706f4d223f609a705fc9e768c816c533cfb37bd215862a99be916db2e06"


def digest(filters: np.ndarray) -> str:
    filters = filters.astype("<f4") + np.float32(0)  # no negative zeros: they change no product with a magnitude
    return hashlib.sha256(filters.tobytes()).hexdigest()


def test_the_filters_of_the_codec_are_bit_identical_to_those_that_loras_were_trained_with() -> None:
    assert digest(mel_filters(64, 1024, 16_000, 0, 8000)) == CODEC
    assert digest(mel_filters(64, 512, 48_000)) == WIDE


def test_each_triangle_has_area_1_or_height_1_at_its_centre() -> None:
    bands, size, rate = 20, 1 << 16, 16_000
    edges = np.linspace(0, hertz_to_mel(8000), bands + 2)
    hertz = np.linspace(0, 8000, size // 2 + 1)
    area, height = mel_filters(bands, size, rate), mel_filters(bands, size, rate, equal_area=False)
    np.testing.assert_allclose(area.sum(axis=1) * hertz[1], 1, rtol=1e-3)
    np.testing.assert_allclose([hertz_to_mel(f) for f in hertz[height.argmax(axis=1)]], edges[1:-1], atol=0.01)
    inside = (hertz > 8000 / bands) & (hertz < 6000)
    np.testing.assert_allclose(height.sum(axis=0)[inside], 1, atol=1e-9)


def test_slaneys_scale() -> None:
    assert hertz_to_mel(500) == 7.5
    assert hertz_to_mel(1000) == 15
    assert hertz_to_mel(6400) == pytest.approx(42)


def test_bands_between_two_bins_are_empty_without_a_warning() -> None:
    assert (mel_filters(128, 64, 48_000).max(axis=1) == 0).any()


def test_measuring_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, sonolora.analysis.measure; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
